# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from machined.linux.worker import Workers
from machined.model import bootcheck
from machined.model.bootcheck import Level

Change = Callable[[Path], object]
WANTS = "etc/systemd/system/multi-user.target.wants"


def program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(Path("/proc/self/exe").read_bytes()[:64])
    path.chmod(0o755)


def system(top: Path) -> Path:
    """A tree with which nothing is wrong."""
    for name in ("dbus-daemon", "agetty", "login", "sshd"):
        program(top / "usr/bin" / name)
    for name in ("systemd", "systemd-logind", "systemd-networkd"):
        program(top / "usr/lib/systemd" / name)
    program(top / "usr/lib/x86_64-linux-gnu/security/pam_systemd.so")
    units = top / "usr/lib/systemd/system"
    units.mkdir()
    for name in ("dbus.service", "container-getty@.service", "systemd-networkd.service"):
        (units / name).touch()
    wants = top / WANTS
    wants.mkdir(parents=True)
    (wants / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/systemd-networkd.service")
    (top / "usr/lib/os-release").write_text("ID=x\n", encoding="ascii")
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n", encoding="ascii")
    (top / "etc/shadow").write_text("root:$6$x:1::::::\n", encoding="ascii")
    (top / "etc/machine-id").touch()
    (top / "bin").symlink_to("usr/bin")
    return top


async def states(top: Path) -> dict[str, Level]:
    workers = Workers(2, wait=True)
    found = await bootcheck.check([str(top)], workers)
    assert all(bool(finding.hint) == (finding.level is not Level.OK) for finding in found)
    return {finding.what: finding.level for finding in found}


async def test_a_good_tree(tmp_path: Path) -> None:
    found = await states(system(tmp_path))
    assert set(found.values()) == {Level.OK}
    assert {"os-release", "init", "architecture", "dbus", "logind", "getty", "password"} <= set(found)


def gone(path: str) -> Change:
    return lambda top: (top / path).unlink()


def has(path: str, text: str) -> Change:
    return lambda top: (top / path).write_text(text, encoding="ascii")


def masked(unit: str) -> Change:
    return lambda top: (top / "etc/systemd/system" / unit).symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("change", "what", "level"),
    [
        (gone("usr/lib/os-release"), "os-release", Level.MISSING),
        (lambda top: (top / "usr/lib/systemd/systemd").chmod(0o644), "init", Level.MISSING),
        (gone("usr/bin/dbus-daemon"), "dbus", Level.MISSING),
        (masked("dbus.service"), "dbus", Level.MISSING),
        (masked("container-getty@.service"), "getty", Level.MISSING),
        (gone("usr/bin/agetty"), "getty", Level.MISSING),
        (gone("usr/bin/login"), "login", Level.MISSING),
        (has("etc/passwd", "daemon:x:1:1::/:\n"), "root", Level.MISSING),
        (gone("usr/lib/systemd/systemd-logind"), "logind", Level.WARN),
        (gone("usr/lib/x86_64-linux-gnu/security/pam_systemd.so"), "pam_systemd", Level.WARN),
        (gone(f"{WANTS}/systemd-networkd.service"), "network", Level.WARN),
        (has("etc/shadow", "root:*:1::::::\n"), "password", Level.WARN),
        (has("etc/shadow", "root:!$6$x:1::::::\n"), "password", Level.WARN),
        (gone("etc/shadow"), "password", Level.WARN),
        (has("etc/securetty", "tty1\n"), "securetty", Level.WARN),
        (has("etc/machine-id", "0" * 32), "machine-id", Level.WARN),
    ],
)
async def test_what_is_missing(tmp_path: Path, change: Change, what: str, level: Level) -> None:
    change(system(tmp_path))
    found = await states(tmp_path)
    assert {key: value for key, value in found.items() if value is not Level.OK} == {what: level}


async def test_another_init(tmp_path: Path) -> None:
    """As in a stage3 with OpenRC."""
    system(tmp_path)
    (tmp_path / "usr/lib/systemd/systemd").unlink()
    program(tmp_path / "sbin/init")
    (tmp_path / "etc/inittab").write_text(
        "c1:12345:respawn:/sbin/agetty 38400 tty1 linux\n", encoding="ascii"
    )
    found = await states(tmp_path)
    assert (found["systemd"], found["getty"]) == (Level.WARN, Level.WARN)
    assert Level.MISSING not in found.values()
    (tmp_path / "etc/inittab").write_text(
        "x1:12345:respawn:/sbin/agetty 38400 console linux\n", encoding="ascii"
    )
    assert (await states(tmp_path))["getty"] is Level.OK


async def test_a_foreign_architecture(tmp_path: Path) -> None:
    init = system(tmp_path) / "usr/lib/systemd/systemd"
    own = bytearray(init.read_bytes())
    own[18:20] = (22).to_bytes(2, "little")  # s390x, which no test runs on
    init.write_bytes(own)
    assert (await states(tmp_path))["architecture"] is Level.WARN


async def test_nothing_outside_counts(tmp_path: Path) -> None:
    """Absolute links mean the tree's own files, and a link to the host's finds nothing."""
    top = tmp_path / "tree"
    system(top)
    (top / "etc/passwd").unlink()
    (top / "etc/passwd").symlink_to("/../../../../../../etc/passwd")
    assert (await states(top))["root"] is Level.MISSING
    (top / "etc").rename(top / "other")
    (top / "etc").symlink_to("/other")
    (top / "other/passwd").unlink()
    (top / "other/passwd").write_text("root:x:0:0::/:\n", encoding="ascii")
    assert (await states(top))["root"] is Level.OK


def test_architectures() -> None:
    assert bootcheck.architecture(b"#!/bin/sh\n") == ""
    assert bootcheck.architecture(b"\x7fELF\x02\x01" + bytes(12) + b"\xb7\x00") == "arm64"
    assert bootcheck.architecture(b"\x7fELF\x02\x02" + bytes(12) + b"\x00\x16") == "s390x"
