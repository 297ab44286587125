# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make install` into a staging area. What needs a running systemd is in tests/integration."""

from __future__ import annotations

import base64
import configparser
import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts import host
from scripts.environment import InstallError, base_python
from scripts.install import Target, install, uninstall
from scripts.layout import MARK, Layout

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one small wheel that has a console script, and a lock file for it."""
    directory = tmp_path_factory.mktemp("wheels")
    files = {
        "small/__init__.py": b"def main():\n    return 0\n",
        "small-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        "small-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "small-1.0.dist-info/entry_points.txt": b"[console_scripts]\nsmall = small:main\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    files["small-1.0.dist-info/RECORD"] = (record + "small-1.0.dist-info/RECORD,,\n").encode()
    wheel = directory / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (directory / "small.lock").write_text(f"small==1.0 --hash=sha256:{digest}\n", encoding="ascii")
    return directory


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Target:
    """An installation under /usr/local in a staging area."""
    target = Target(Layout(Path("/usr/local")), tmp_path_factory.mktemp("staged"))
    install(target, wheels / "small.lock", wheels)
    return target


def contents(top: Path) -> list[str]:
    return sorted(os.fspath(path.relative_to(top)) for path in top.rglob("*"))


def outside_of_tree(target: Target) -> Iterator[str]:
    for path in target.real(Path("/")).rglob("*"):
        inside = Path("/") / path.relative_to(target.real(Path("/")))
        if not inside.is_relative_to(target.layout.tree) and not path.is_dir():
            yield os.fspath(inside)


def test_what_goes_where(staged: Target) -> None:
    assert sorted(outside_of_tree(staged)) == [
        "/etc/dbus-1/system.d/org.machined1.conf",
        "/etc/systemd/system/systemd-machined.service",
        "/usr/local/bin/machinectl",
        "/usr/local/lib/systemd/system/machined@.service",
        "/usr/local/lib/tmpfiles.d/machined.conf",
        "/usr/local/share/bash-completion/completions/machinectl",
        "/usr/local/share/polkit-1/actions/org.machined1.policy",
        "/usr/local/share/zsh/site-functions/_machinectl",
    ]
    tree = staged.real(staged.layout.tree)
    assert sorted(path.name for path in tree.iterdir()) == [
        "bin", "cleanup-nspawn", "lib", "machined", "manifest", "poolctl", "pyvenv.cfg",
    ]  # fmt: skip
    programs = [tree / name for name in ("machined", "cleanup-nspawn", "poolctl")]
    for program in (*programs, staged.real(staged.layout.command)):
        assert program.stat().st_mode & 0o777 == 0o755
        assert program.read_text(encoding="utf-8").startswith("#!/usr/local/lib/machined/bin/python3 -I")
    site = staged.real(staged.layout.site)
    assert sorted(path.name for path in site.iterdir()) == [
        "machinectl", "machined", "small", "small-1.0.dist-info",
    ]  # fmt: skip


def test_other_prefix_uses_etc(tmp_path: Path, wheels: Path) -> None:
    """systemd and polkit search no other prefix than /usr and /usr/local."""
    target = Target(Layout(Path("/opt/machined")), tmp_path)
    install(target, wheels / "small.lock", wheels)
    assert sorted(outside_of_tree(target)) == [
        "/etc/dbus-1/system.d/org.machined1.conf",
        "/etc/polkit-1/actions/org.machined1.policy",
        "/etc/systemd/system/machined@.service",
        "/etc/systemd/system/systemd-machined.service",
        "/etc/tmpfiles.d/machined.conf",
        "/opt/machined/bin/machinectl",
        "/opt/machined/share/bash-completion/completions/machinectl",
        "/opt/machined/share/zsh/site-functions/_machinectl",
    ]


def test_staging_area_is_not_remembered(staged: Target) -> None:
    """Not in a launcher, a compiled module or the environment's own files."""
    assert staged.destdir is not None
    name = os.fsencode(staged.destdir)
    files = [path for path in staged.destdir.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".pyc" for path in files)
    assert [path for path in files if name in path.read_bytes() or b"/.machined-" in path.read_bytes()] == []


def test_works_where_it_is_moved_to(tmp_path: Path, wheels: Path) -> None:
    prefix = tmp_path / "prefix"
    target = Target(Layout(prefix), tmp_path / "staged")
    (tmp_path / "staged").mkdir()
    install(target, wheels / "small.lock", wheels)
    target.real(prefix).rename(prefix)
    code = "import machined, small, sys; print(sys.prefix, machined.__file__, small.__cached__)"
    done = subprocess.run(
        [target.layout.python, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    where, ours, compiled = done.stdout.split()
    assert Path(where) == target.layout.tree
    assert Path(ours) == target.layout.site / "machined/__init__.py"
    assert Path(compiled).is_file()


def test_client_starts_without_site(tmp_path: Path, wheels: Path) -> None:
    if importlib.util.find_spec("machinectl.cli") is None:
        pytest.skip("no machinectl.cli yet")
    prefix = tmp_path / "prefix"
    target = Target(Layout(prefix), tmp_path / "staged")
    (tmp_path / "staged").mkdir()
    install(target, wheels / "small.lock", wheels)
    target.real(prefix).rename(prefix)
    done = subprocess.run(
        [prefix / "bin/machinectl", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_daemon_says_when_python_has_changed() -> None:
    """A new release of the distribution brings a python3 for which the environment was not made."""
    text = Layout(Path("/usr/local")).launcher(None)
    text = text.replace(f"({sys.version_info[0]}, {sys.version_info[1]})", "(3, 10)")
    done = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "install it again" in done.stderr


def test_installing_twice_changes_nothing(staged: Target, wheels: Path) -> None:
    assert staged.destdir is not None
    before, manifest = contents(staged.destdir), staged.manifest()
    install(Target(staged.layout, staged.destdir), wheels / "small.lock", wheels)
    assert contents(staged.destdir) == before
    assert staged.manifest() == manifest


def test_a_file_no_longer_installed_goes(tmp_path: Path, wheels: Path) -> None:
    target = Target(Layout(Path("/usr/local")), tmp_path)
    install(target, wheels / "small.lock", wheels)
    stale = tmp_path / "usr/local/share/stale"
    stale.touch()
    with target.real(target.layout.manifest).open("a", encoding="utf-8") as manifest:
        manifest.write("/usr/local/share/stale\n")
    install(Target(target.layout, tmp_path), wheels / "small.lock", wheels)
    assert not stale.exists()


def test_uninstall_removes_what_install_made(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "etc/dbus-1").mkdir(parents=True)
    (tmp_path / "usr/local/lib").mkdir(parents=True)
    before = contents(tmp_path)
    layout = Layout(Path("/usr/local"))
    install(Target(layout, tmp_path), wheels / "small.lock", wheels)
    install(Target(layout, tmp_path), wheels / "small.lock", wheels)
    uninstall(Target(layout, tmp_path), purge=False)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("purge", [False, True])
def test_uninstall_and_links_of_enabled_machines(
    tmp_path: Path, wheels: Path, purge: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(Path("/usr/local"))
    install(Target(layout, tmp_path), wheels / "small.lock", wheels)
    link = tmp_path / "etc/systemd/system/machines.target.wants/machined@box.service"
    link.parent.mkdir()
    link.symlink_to("/usr/local/lib/systemd/system/machined@.service")
    uninstall(Target(layout, tmp_path), purge=purge)
    assert link.is_symlink() is not purge
    assert "machined@box.service" in capsys.readouterr().out


def test_uninstall_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="not installed under '/usr/local'"):
        uninstall(Target(Layout(Path("/usr/local")), tmp_path), purge=False)


def test_failure_leaves_nothing(tmp_path: Path, wheels: Path) -> None:
    """A wheel that is not the one of the lock file."""
    wrong = tmp_path / "wrong.lock"
    wrong.write_text(f"small==1.0 --hash=sha256:{'0' * 64}\n", encoding="ascii")
    (tmp_path / "staged").mkdir()
    with pytest.raises(InstallError, match=r"'wrong.lock' could not be had"):
        install(Target(Layout(Path("/usr/local")), tmp_path / "staged"), wrong, wheels)
    assert contents(tmp_path / "staged") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Service]\nExecStart=/opt/other\n", "is not machined's"),
        (f"{MARK}\nExecStart=/opt/lib/machined/machined\n", "under another PREFIX"),
    ],
)
def test_refuses_an_override_that_is_not_its_own(
    tmp_path: Path, wheels: Path, text: str, message: str
) -> None:
    override = tmp_path / "etc/systemd/system/systemd-machined.service"
    override.parent.mkdir(parents=True)
    override.write_text(text, encoding="utf-8")
    with pytest.raises(InstallError, match=message):
        install(Target(Layout(Path("/usr/local")), tmp_path), wheels / "small.lock", wheels)
    assert override.read_text(encoding="utf-8") == text


def test_refuses_to_replace_the_command_of_systemd(tmp_path: Path, wheels: Path) -> None:
    """PREFIX=/usr on a running host."""
    command = tmp_path / "usr/bin/machinectl"
    command.parent.mkdir(parents=True)
    command.write_bytes(b"\x7fELF\xff")
    with pytest.raises(InstallError, match="'/usr/bin/machinectl' is not machined's"):
        install(Target(Layout(Path("/usr")), tmp_path), wheels / "small.lock", wheels)
    assert command.read_bytes() == b"\x7fELF\xff"


@pytest.mark.parametrize("prefix", ["usr/local", "/usr/my programs", "/opt/%i", "/opt/../etc", "/opt/'x'"])
def test_refuses_a_prefix_it_cannot_write_into_units(prefix: str) -> None:
    with pytest.raises(ValueError, match="PREFIX"):
        Layout(Path(prefix))


def test_host_is_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InstallError, match="only root"):
        host.check()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InstallError, match="apt install systemd-container"):
        host.check()
    monkeypatch.setattr("shutil.which", lambda command: f"/usr/bin/{command}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InstallError, match="apt install python3-systemd"):
        host.check()


def test_old_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"DESTDIR={tmp_path}", f"PYTHON={old}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr


def test_make_passes_everything_on(tmp_path: Path) -> None:
    """The whole way through make, as far as a package index is not needed."""
    command = ["make", "install", f"DESTDIR={tmp_path}/x", "PREFIX=/usr"]
    command += [f"PYTHON={base_python()}", f"MACHINED_WHEELS={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "installing the private environment" in done.stdout
    assert f"could not be had from '{tmp_path}'" in done.stderr


def unit(staged: Target, path: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(staged.real(Path(path)), encoding="utf-8")
    return parser


def test_units(staged: Target) -> None:
    override = unit(staged, "/etc/systemd/system/systemd-machined.service")
    assert override["Service"]["ExecStart"] == "/usr/local/lib/machined/machined"
    # Whatever gives the service mounts of its own would cut it off from the host's.
    forbidden = {"PrivateTmp", "ProtectSystem", "ProtectHome", "PrivateDevices", "MemoryDenyWriteExecute"}
    assert not forbidden & set(override["Service"])
    template = unit(staged, "/usr/local/lib/systemd/system/machined@.service")
    assert template["Service"]["ExecStart"] == "/usr/local/bin/machinectl --no-ask-password start %i"
    for path in outside_of_tree(staged):
        assert "@PREFIX@" not in staged.real(Path(path)).read_text(encoding="utf-8")


def test_policies_are_well_formed() -> None:
    bus = ElementTree.parse(ROOT / "dbus-policy/org.machined1.conf").getroot()
    interfaces = {rule.get("send_interface", "") for rule in bus.iter("allow")}
    assert {f"org.machined1.{name}" for name in ("Manager", "Machine", "Job")} <= interfaces
    assert not list(bus.iter("deny"))
    polkit = ElementTree.parse(ROOT / "dbus-policy/org.machined1.policy").getroot()
    for action in polkit.iter("action"):
        defaults = [action.findtext(f"defaults/allow_{who}") for who in ("any", "inactive", "active")]
        if action.get("id") == "org.machined1.wait-machine":
            assert defaults == ["yes", "yes", "yes"]
        elif action.get("id") == "org.machined1.create-image":
            # It installs what the caller names and reads what root may read: asked for each time.
            assert defaults == ["auth_admin", "auth_admin", "auth_admin"]
        else:
            assert defaults == ["auth_admin", "auth_admin", "auth_admin_keep"]
    verbs = {(action.get("id") or "").removeprefix("org.machined1.") for action in polkit.iter("action")}
    machines = {f"{verb}-machine" for verb in ("start", "stop", "reboot", "enable", "disable", "wait")}
    settings = {"inspect-settings", "configure-machine", "set-machine-property", "publish-port"}
    assert verbs == machines | settings | {"manage-images", "create-image"}
