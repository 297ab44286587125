# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is told of a machine's settings and of the unit they make."""

from __future__ import annotations

import os

import pytest

from machined.linux import inifile
from machined.model.errors import MachineError
from machined.model.ports import UnitProperty
from machined.model.settings import explanation, files, layers, merge, presets, proofreading, sources
from machined.model.settings.layers import Finding, Severity, Source
from tests.fakes.sandbox import Sandbox
from tests.fakes.world import World

SECRET = "[Exec]\nSetCredential=name:hush:hush\nSetCredential=bad\nBoot=yes\n"


def test_rows_have_an_origin() -> None:
    layer = layers.read(inifile.parse(b"[Exec]\nHostname=a\n", "x.conf"), Source.MACHINE, 257)
    found = explanation.explain(merge.merge([layer]), [], [], secrets=True)
    assert ("Exec", "Hostname", "a", "machine", "x.conf:2") in found.settings
    assert ("Exec", "Boot", "yes", "default", "default") in found.settings
    assert (found.command, found.properties) == ([], [])


def test_credentials_are_roots_to_see() -> None:
    layer = layers.read(inifile.parse(SECRET.encode(), "x.conf"), Source.MACHINE, 257)
    effective = merge.merge([layer])
    argv = ["systemd-nspawn", "--set-credential=name:hush:hush"]
    unit = [UnitProperty("ExecStart", "a(sasb)", [["systemd-nspawn", argv, False]])]
    finding = Finding(Severity.ERROR, None, "[Exec] SetCredential=hush is not valid: must be NAME:VALUE.")
    for secrets in (True, False):
        found = explanation.explain(effective, unit, [*effective.findings, finding], secrets=secrets)
        assert ("hush" in str(found)) is secrets
    assert ("Exec", "SetCredential", "name:…", "machine", "x.conf:2") in found.settings
    assert found.command == ["systemd-nspawn", "--set-credential=name:…"]
    assert found.findings[0].text.startswith("[Exec] SetCredential=… is not valid: must be NAME:VALUE")


@pytest.mark.parametrize(
    ("name", "kind", "value", "texts"),
    [
        ("Slice", "s", "machine.slice", ["machine.slice"]),
        ("Delegate", "b", True, ["yes"]),
        ("TasksMax", "t", 16384, ["16384"]),
        ("MemoryMax", "t", 2**64 - 1, ["infinity"]),
        ("WatchdogUSec", "t", 180_000_000, ["3min"]),
        ("TimeoutStopUSec", "t", 90_500_000, ["1min 30s 500ms"]),
        ("TimeoutStopUSec", "t", 0, ["0"]),
        ("After", "as", ["a.service", "b c"], ['a.service "b c"']),
        ("DeviceAllow", "a(ss)", [["/dev/fuse", "r"], ["char-pts", "rw"]], ["/dev/fuse r", "char-pts rw"]),
        ("SuccessExitStatus", "(aiai)", [[133], []], ["133"]),
        ("ExecStopPost", "a(sasb)", [["x", ["x", "a b"], True]], ["-x 'a b'"]),
        ("AllowedCPUs", "ay", b"\x03", ["03"]),
        ("IPAddressAllow", "a(iayu)", [(2, b"\x0a\0\0\0", 8)], ["2 0a000000 8"]),
    ],
)  # fmt: skip
def test_properties_as_text(name: str, kind: str, value: object, texts: list[str]) -> None:
    assert explanation.texts(UnitProperty(name, kind, value)) == texts


# -- on a host ---------------------------------------------------------------------------------------------


async def told(
    host: World, name: str, *, origin: str = "", ephemeral: bool = False
) -> explanation.Explanation:
    core = host.core
    image = core.lifecycle.image_to_start(name, origin)
    effective = sources.load(name, image, core.version)
    unit = await core.lifecycle.plan(name, image, effective, ephemeral=ephemeral)
    return explanation.explain(effective, unit, effective.findings, secrets=True)


async def test_it_is_what_a_start_says(host: World) -> None:
    host.sandbox.image("web")
    host.boots()
    (host.sandbox.settings / "web.nspawn").write_text("[Exec]\nHostname=a\n", encoding="utf-8")
    found = await told(host, "web")
    await (await host.core.lifecycle.start("web")).over.wait()
    started = host.systemd.transient["machine-web.service"]
    assert found.command == started.pop("ExecStart")[0][1]
    assert list(dict(found.properties)) == list(started)
    assert "--hostname=a" in found.command


async def test_what_is_mounted_for_it_has_its_directory(host: World) -> None:
    host.sandbox.image("web")
    found = await told(host, "other", origin="web")
    assert f"--directory={host.sandbox.roots}/other" in found.command
    assert any(word.startswith("--private-users=") and word.endswith(":65536") for word in found.command)
    assert not host.sandbox.roots.exists(), "nothing was mounted"


# -- files -------------------------------------------------------------------------------------------------


def own(box: Sandbox, name: str) -> list[str]:
    return [os.fspath(path.relative_to(box.root)) for path in files.of_machine(name)]


def make(box: Sandbox, *names: str) -> None:
    for name in names:
        path = box.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# A word about it.\n[Exec]\n", encoding="utf-8")


def test_they_go_with_the_machine(sandbox: Sandbox) -> None:
    make(sandbox, "etc-machined/machines/a.conf", "run-machined/machines/a.conf.d/51-set.conf")
    assert own(sandbox, "a") == ["etc-machined/machines/a.conf", "run-machined/machines/a.conf.d"]
    files.check_rename("a", "b")
    files.rename("a", "b")
    assert own(sandbox, "a") == []
    assert own(sandbox, "b") == ["etc-machined/machines/b.conf", "run-machined/machines/b.conf.d"]
    make(sandbox, "etc-machined/machines/c.conf")
    with pytest.raises(MachineError, match=r"settings of a machine 'c' already"):
        files.check_rename("b", "c")
    files.check_rename("no-files", "c")
    files.remove("b")
    assert own(sandbox, "b") == []
    assert files.named() == {"c"}
    make(sandbox, "settings/d.nspawn", "settings/not_a_name.nspawn", "etc-machined/machines/e.conf.d/x.conf")
    assert files.named() == {"c", "d", "e"}
    assert files.of_machine("../machines/c") == []


def test_profiles(sandbox: Sandbox) -> None:
    ours = {name for name, path, _ in files.profiles() if path == ""}
    assert ours == set(presets.PRESETS)
    make(sandbox, "etc-machined/profiles/small.conf", "etc-machined/profiles/.#x.conf")
    (sandbox.configuration / "profiles/plain.conf").write_text("[Exec]\n# late\n", encoding="utf-8")
    small, plain = (str(sandbox.configuration / f"profiles/{name}.conf") for name in ("small", "plain"))
    theirs = [row for row in files.profiles() if row[0] not in ours]
    assert theirs == [("plain", plain, ""), ("small", small, "A word about it.")]
    make(sandbox, "etc-machined/profiles/gpu.conf")
    assert ("gpu", str(sandbox.configuration / "profiles/gpu.conf"), "A word about it.") in files.profiles()


# -- texts that are about to be written --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("nspawn", "[Exec]\nBot=1\n", [("warning", 2, "did you mean 'Boot'?")]),
        ("machine", "[Exec]\nBot=1\n", [("error", 2, "did you mean 'Boot'?")]),
        ("profile", "[Exec]\nBot=1\n", [("error", 2, "did you mean 'Boot'?")]),
        ("profile", "[Network]\nPort=80\n", []),
        ("machine", "[Exec]\nHostname=b\n", []),
        ("machine", "[Network]\nPort=80\n", []),
        ("machine", "[Network]\nPrivate=no\nPort=80\n", [("error", 3, "a machine's own network")]),
        ("nspawn", "[Exec\n", [("error", 0, "no section header")]),
        ("machine", "[Machine]\nProfile=none\n", [("error", 0, "there is no")]),
    ],
)
def test_proofreading(sandbox: Sandbox, kind: str, text: str, said: list[tuple[str, int, str]]) -> None:
    make(sandbox, "etc-machined/machines/web.conf.d/broken.conf")
    (sandbox.configuration / "machines/web.conf.d/broken.conf").write_text("[Exec]\nUser=\0x\n")
    found = proofreading.proofread(proofreading.Kind(kind), "web", None, 257, text.encode())
    assert [(f.severity.value, f.place.line if f.place else 0) for f in found] == [row[:2] for row in said]
    for finding, row in zip(found, said, strict=True):
        assert row[2] in finding.text


def test_what_it_makes_wrong_elsewhere_is_said(sandbox: Sandbox) -> None:
    path = sandbox.configuration / "machines/web.conf.d/port.conf"
    make(sandbox, "etc-machined/machines/web.conf.d/port.conf")
    path.write_text("[Network]\nPort=80\n", encoding="utf-8")
    found = proofreading.proofread(proofreading.Kind.MACHINE, "web", None, 257, b"[Network]\nPrivate=no\n")
    assert [str(f.place) for f in found] == [f"{path}:2"]
