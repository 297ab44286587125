# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings on the bus: who may see and change them, what is told, what is written."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from dbus_fast import Variant

from machined.bus.connection import RemoteError
from machined.model.settings.presets import PRESETS
from tests.fakes.polkit import NO
from tests.fakes.service import OWN_MANAGER, Served

INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
SETTINGS = "org.machined1.Error.InvalidSettings"
NO_IMAGE = "org.freedesktop.machine1.NoSuchImage"
UNIT = "machine-web.service"


def plain(value: Any) -> Any:
    """Structures as lists."""
    return [*map(plain, value)] if isinstance(value, (list, tuple)) else value


async def do(service: Served, member: str, signature: str = "", *body: Any) -> Any:
    return plain(await service.client.call(member, signature, *body, interface=OWN_MANAGER))


async def refused(service: Served, member: str, signature: str, *body: Any) -> tuple[str, str]:
    with pytest.raises(RemoteError) as raised:
        await do(service, member, signature, *body)
    return raised.value.name, raised.value.text


def nspawn(service: Served, text: str, name: str = "web") -> str:
    path = service.sandbox.settings / f"{name}.nspawn"
    path.write_text(text, encoding="utf-8")
    return str(path)


def files(service: Served) -> dict[str, str]:
    """Our own files: path below the host's root, and text."""
    root = service.sandbox.root
    paths = [*service.sandbox.configuration.rglob("*"), *(root / "run-machined").rglob("*")]
    return {str(p.relative_to(root)): p.read_text(encoding="utf-8") for p in paths if p.is_file()}


@pytest.mark.parametrize(
    ("member", "signature", "body", "action", "details"),
    [
        ("ExplainMachine", "sa{sv}", ["web", {}], "inspect-settings", {"machine": "web", "verb": "explain"}),
        ("CheckMachine", "s", ["web"], "inspect-settings", {"machine": "web", "verb": "check"}),
        ("CheckMachines", "", [], "inspect-settings", {"machine": "", "verb": "check"}),
        ("CheckSettingsText", "sss", ["machine", "web", ""], "inspect-settings",
         {"machine": "web", "verb": "check"}),
        ("SetMachineSettings", "sasa{sv}", ["web", ["Boot=no"], {}], "configure-machine",
         {"machine": "web", "verb": "set"}),
        ("ApplyMachines", "sa{sv}", ['{"machine": {"web": {"settings": {"Files": {"Bind": "/a"}}}}}', {}],
         "configure-machine", {"machine": "", "verb": "apply"}),
    ],
)  # fmt: skip
async def test_polkit_is_asked(
    service: Served, member: str, signature: str, body: list[Any], action: str, details: dict[str, str]
) -> None:
    service.sandbox.image("web")
    service.pretend(1000)
    service.polkit.answer = NO
    assert (await refused(service, member, signature, *body))[0].endswith(".AccessDenied")
    question = service.polkit.questions.get_nowait()
    assert (question.action, question.details) == (f"org.machined1.{action}", details)
    assert files(service) == {}


# -- looking -----------------------------------------------------------------------------------------------


async def test_explain(service: Served) -> None:
    service.sandbox.image("web")
    path = nspawn(service, "[Exec]\nHostname=a\nBot=yes\nCapability=CAP_NET_ADMIN CAP_SYS_TIME\n")
    settings, command, properties, findings = await do(service, "ExplainMachine", "sa{sv}", "web", {})
    assert ["Exec", "Hostname", "a", "nspawn", f"{path}:2"] in settings
    assert ["Exec", "Capability", "CAP_SYS_TIME", "nspawn", f"{path}:4"] in settings
    assert ["Network", "VirtualEthernet", "yes", "default", "default"] in settings
    assert command[:3] == ["systemd-nspawn", "--quiet", "--keep-unit"]
    assert {"--hostname=a", "--machine=web", "--settings=no", "--network-veth"} <= set(command)
    assert ["TasksMax", "16384"] in properties
    assert ["DeviceAllow", "/dev/fuse rwm"] in properties
    assert [row[:2] for row in findings] == [["warning", f"{path}:3"]]
    given = {"settings": Variant("as", ["Hostname=b"]), "ephemeral": Variant("b", True)}
    settings, command, *_ = await do(service, "ExplainMachine", "sa{sv}", "web", given)
    assert ["Exec", "Hostname", "b", "command line", "command line"] in settings
    assert f"--directory={service.sandbox.roots}/web" in command
    given = {"image": Variant("s", "web")}
    _, command, *_ = await do(service, "ExplainMachine", "sa{sv}", "other", given)
    assert f"--directory={service.sandbox.roots}/other" in command


async def test_explain_where_something_is_wrong(service: Served) -> None:
    service.sandbox.image("web")
    given = {"settings": Variant("as", ["Boot=maybe"])}
    settings, command, properties, findings = await do(service, "ExplainMachine", "sa{sv}", "web", given)
    assert (command, properties) == ([], [])
    assert settings
    assert [(row[0], "'yes' or 'no'" in row[2]) for row in findings] == [("error", True)]
    name, text = await refused(service, "ExplainMachine", "sa{sv}", "gone", {})
    assert (name, "No machine 'gone' known" in text) == (NO_IMAGE, True)
    gone = {"image": Variant("s", "gone")}
    assert (await refused(service, "ExplainMachine", "sa{sv}", "other", gone))[0] == NO_IMAGE
    assert (await refused(service, "ExplainMachine", "sa{sv}", "../x", {}))[0] == INVALID
    nspawn(service, "[Exec]\nHostname=a\n", "later")
    settings, command, _, findings = await do(service, "ExplainMachine", "sa{sv}", "later", {})
    assert (command, [row[0] for row in findings]) == ([], ["warning"])
    nspawn(service, "", "elsewhere")
    own = service.sandbox.configuration / "machines/elsewhere.conf"
    own.parent.mkdir(parents=True)
    own.write_text("[Image]\nDirectory=/nonexistent/x\n", encoding="utf-8")
    *_, findings = await do(service, "ExplainMachine", "sa{sv}", "elsewhere", {})
    assert [(row[0], "has no tree" in row[2]) for row in findings] == [("error", True)]


async def test_credentials_are_roots_to_see(service: Served) -> None:
    service.sandbox.image("web")
    await do(service, "SetMachineSettings", "sasa{sv}", "web", ["SetCredential=name:hush"], {})
    assert "hush" in str(await do(service, "ExplainMachine", "sa{sv}", "web", {}))
    service.pretend(1000)
    told = await do(service, "ExplainMachine", "sa{sv}", "web", {})
    assert "--set-credential=name:…" in told[1]
    assert "hush" not in str(told)


async def test_check(service: Served) -> None:
    service.sandbox.image("web")
    service.sandbox.image("not_a_name")
    assert await do(service, "CheckMachine", "s", "web") == []
    assert await do(service, "CheckMachines") == []
    path = nspawn(service, "[Exec]\nBot=yes\n")
    nspawn(service, "[Exec\n", "later")
    [[severity, origin, text]] = await do(service, "CheckMachine", "s", "web")
    assert (severity, origin) == ("warning", f"{path}:2")
    rows = await do(service, "CheckMachines")
    assert [row[:2] for row in rows] == [["later", "warning"], ["later", "error"], ["web", "warning"]]
    assert rows[-1] == ["web", severity, origin, text]
    assert (await refused(service, "CheckMachine", "s", "gone"))[0] == NO_IMAGE


async def test_check_text(service: Served) -> None:
    [[severity, origin, text]] = await do(
        service, "CheckSettingsText", "sss", "machine", "web", "[Exec]\nBoot=maybe\n"
    )
    assert (severity, origin.rpartition("/")[2]) == ("error", "web.conf:2")
    assert "'yes' or 'no'" in text
    assert await do(service, "CheckSettingsText", "sss", "nspawn", "not_a_name", "[Exec]\nBoot=no\n") == []
    [[severity, origin, _]] = await do(
        service, "CheckSettingsText", "sss", "drop-in", "web/x.conf", "[Exec]\nBot=1\n"
    )
    assert (severity, origin.rpartition("/")[2]) == ("error", "x.conf:2")
    name, text = await refused(service, "CheckSettingsText", "sss", "what", "web", "")
    assert (name, "expected one of nspawn, machine, drop-in, profile" in text) == (INVALID, True)


async def test_profiles(service: Served) -> None:
    path = service.sandbox.configuration / "profiles/small.conf"
    path.parent.mkdir(parents=True)
    path.write_text("# Little of all.\n[Exec]\n", encoding="utf-8")
    service.pretend(1000)
    listed = await do(service, "ListProfiles")
    assert ["small", str(path), "Little of all."] in listed
    assert ["gpu", "", PRESETS["gpu"].help] in listed
    assert service.polkit.questions.empty()


# -- changing ----------------------------------------------------------------------------------------------


async def test_set(service: Served) -> None:
    service.sandbox.image("web")
    changed, pending, findings = await do(
        service, "SetMachineSettings", "sasa{sv}", "web", ["Hostname=a", "Bind=/a"], {}
    )
    assert changed == [str(service.sandbox.configuration / "machines/web.conf.d/50-set.conf")]
    assert (pending, findings) == ([], [])
    assert [text.split("\n", 1)[1] for text in files(service).values()] == [
        "\n[Exec]\nHostname=a\n\n[Files]\nBind=/a\n"
    ]
    await service.running("web")
    runtime = {"runtime": Variant("b", True)}
    changed, pending, _ = await do(service, "SetMachineSettings", "sasa{sv}", "web", ["Hostname=b"], runtime)
    assert changed == [str(service.sandbox.root / "run-machined/machines/web.conf.d/51-set.conf")]
    assert pending == ["[Exec] Hostname="]
    answer = await do(service, "SetMachineSettings", "sasa{sv}", "web", ["Hostname=b"], runtime)
    assert answer == [[], [], []], "nothing new"


@pytest.mark.parametrize(
    ("name", "words", "given", "error", "text"),
    [
        ("web", [], {}, INVALID, "From 1 to 256 settings"),
        ("web", ["A=1"] * 257, {}, INVALID, "From 1 to 256 settings"),
        ("web", ["Bot=1", "Boot=maybe"], {}, INVALID, "did you mean 'Boot'?"),
        ("web", ["Private=no", "Port=80"], {}, SETTINGS, "a machine's own network"),
        ("web", ["Boot=no"], {"x": Variant("b", True)}, INVALID, "Unknown option 'x'"),
        ("gone", ["Hostname=a"], {}, NO_IMAGE, "neither an image nor a settings file"),
        ("bad_name", ["Hostname=a"], {}, INVALID, "try 'bad-name'"),
    ],
)
async def test_set_refuses(
    service: Served, name: str, words: list[str], given: dict[str, Variant], error: str, text: str
) -> None:
    service.sandbox.image("web")
    answer = await refused(service, "SetMachineSettings", "sasa{sv}", name, words, given)
    assert (answer[0], text in answer[1]) == (error, True)
    assert files(service) == {}


async def test_set_makes_a_machine_of_a_tree_elsewhere(service: Served) -> None:
    tree = service.sandbox.image("web")
    words = [f"Image.Directory={tree}"]
    await do(service, "SetMachineSettings", "sasa{sv}", "other", words, {})
    _, command, *_ = await do(service, "ExplainMachine", "sa{sv}", "other", {})
    assert f"--directory={tree}" in command


async def test_a_disk_that_cannot_be_written_to(service: Served) -> None:
    service.sandbox.image("web")
    (service.sandbox.configuration / "machines").mkdir(parents=True)
    (service.sandbox.configuration / "machines/web.conf.d").write_text("in the way", encoding="utf-8")
    name, text = await refused(service, "SetMachineSettings", "sasa{sv}", "web", ["Hostname=a"], {})
    assert name == "org.freedesktop.DBus.Error.Failed"
    assert "50-set.conf': File exists" in text


async def test_settings_of_a_start_are_more_than_a_start(service: Served) -> None:
    service.sandbox.image("web")
    service.pretend(1000)
    given = {"settings": Variant("as", ["Bind=/:/host"])}
    await do(service, "StartMachine", "sa{sv}", "web", given)
    asked = [service.polkit.questions.get_nowait().action for _ in range(2)]
    assert asked == ["org.machined1.start-machine", "org.machined1.configure-machine"]


# -- apply -------------------------------------------------------------------------------------------------

WEB = {"machine": {"web": {"settings": {"Exec": {"Hostname": "a"}}, "properties": {"MemoryMax": "1G"}}}}


async def apply(service: Served, document: dict[str, Any], **given: bool) -> dict[str, Any]:
    values = {name.replace("_", "-"): Variant("b", value) for name, value in given.items()}
    found: dict[str, Any] = json.loads(
        await do(service, "ApplyMachines", "sa{sv}", json.dumps(document), values)
    )
    return found


async def test_apply_is_idempotent(service: Served) -> None:
    service.sandbox.image("web")
    first = (await apply(service, WEB, dry_run=True))["web"]
    assert files(service) == {}
    assert first["changed"]
    assert "+Hostname=a" in first["diff"]
    assert (await apply(service, WEB))["web"] == first
    [(path, text)] = files(service).items()
    assert path == "etc-machined/machines/web.conf"
    assert "MemoryMax=1G" in text
    assert first == {
        "changed": True, "file": str(service.sandbox.root / path), "actions": [], "restart_needed": False,
        "warnings": [], "error": None, "diff": first["diff"],
    }  # fmt: skip
    again = (await apply(service, WEB))["web"]
    assert again == first | {"changed": False, "diff": []}
    await service.running("web")
    second = {"machine": {"web": {"settings": {"Exec": {"Hostname": "b"}}}}}
    third = (await apply(service, second))["web"]
    assert third["restart_needed"]
    assert {"-Hostname=a", "+Hostname=b", "-MemoryMax=1G"} <= set(third["diff"])
    gone = (await apply(service, {"machine": {"web": {"settings": {}}}}))["web"]
    assert gone["changed"]
    assert files(service) == {}
    nothing = (await apply(service, {"machine": {"web": {}}}))["web"]
    assert (nothing["changed"], nothing["file"]) == (False, "")


async def test_apply_does_all_or_nothing(service: Served) -> None:
    service.sandbox.image("web")
    good = WEB["machine"]["web"]
    own = service.sandbox.configuration / "machines/mine.conf"
    own.parent.mkdir(parents=True)
    own.write_text("[Exec]\nHostname=mine\n", encoding="utf-8")
    before = files(service)
    for other, error, text in (
        ({"web2": {"settings": {"Exec": {"Boot": "x"}}}}, SETTINGS, "machine.web2.settings.Exec.Boot: 'x'"),
        ({"web2": {"settings": {"Network": {"Private": False, "Port": "80"}}}}, SETTINGS, "own network"),
        ({"web2": {"running": True}}, NO_IMAGE, "No image 'web2' known"),
        ({"web2": {"profiles": ["none"]}}, SETTINGS, "Profile=none"),
        ({"mine": {"settings": {}}}, "org.freedesktop.DBus.Error.FileExists", "--force"),
    ):
        text_of_all = json.dumps({"machine": {"web": good, **other}})
        answer = await refused(service, "ApplyMachines", "sa{sv}", text_of_all, {})
        assert (answer[0], text in answer[1]) == (error, True), answer
        assert files(service) == before
    document = {"machine": {"mine": {"settings": {"Exec": {"Hostname": "b"}}}}}
    told = (await apply(service, document, force=True))["mine"]
    assert told["warnings"] == ["There is no image 'mine' yet."]
    assert "Hostname=b" in files(service)["etc-machined/machines/mine.conf"]


async def test_apply_enables_and_runs(service: Served) -> None:
    service.sandbox.image("web")

    def boots(unit: str, *_: Any) -> None:
        async def register() -> None:
            await service.machine("web", unit)
            service.pid1.finish(unit)

        service.tasks = [asyncio.ensure_future(register())]  # type: ignore[attr-defined]

    service.pid1.hooks["StartTransientUnit"] = boots
    document = {"machine": {"web": {"enabled": True, "running": True, **WEB["machine"]["web"]}}}
    dry = (await apply(service, document, dry_run=True))["web"]
    assert (dry["actions"], service.pid1.called("StartTransientUnit")) == (["enable", "start"], [])
    told = (await apply(service, document))["web"]
    assert (told["actions"], told["error"], told["restart_needed"]) == (["enable", "start"], None, False)
    [(_, _, properties)] = service.pid1.called("StartTransientUnit")
    assert ("MemoryMax", "t", 1 << 30) in properties


async def test_apply_says_what_did_not_start(service: Served) -> None:
    service.sandbox.image("web")
    service.sandbox.last_words = "Directory tree is busy"

    def fail(unit: str, *_: Any) -> None:
        service.pid1.emit(unit, ActiveState="failed", SubState="failed", Result="exit-code")
        service.pid1.finish(unit, "failed")

    service.pid1.hooks["StartTransientUnit"] = fail
    told = (await apply(service, {"machine": {"web": {"running": True}}}))["web"]
    assert told["error"].startswith("Could not start machine 'web':")
    assert "Directory tree is busy" in told["error"]
    assert (told["changed"], told["actions"]) == (False, [])


# -- images that go and are renamed ------------------------------------------------------------------------


async def test_settings_go_with_an_image(service: Served) -> None:
    service.sandbox.image("web")
    await do(service, "SetMachineSettings", "sasa{sv}", "web", ["Hostname=a"], {})
    await do(service, "RenameImage", "ssa{sv}", "web", "new", {})
    assert list(files(service)) == ["etc-machined/machines/new.conf.d/50-set.conf"]
    kept = await do(service, "RemoveImage", "sa{sv}", "new", {})
    assert kept == [str(service.sandbox.configuration / "machines/new.conf.d")]
    assert list(files(service)) == ["etc-machined/machines/new.conf.d/50-set.conf"]
    service.sandbox.image("other")
    await do(service, "SetMachineSettings", "sasa{sv}", "other", ["Hostname=a"], {})
    name, text = await refused(service, "RenameImage", "ssa{sv}", "other", "new", {})
    assert (name, "Move one of them away" in text) == ("org.freedesktop.DBus.Error.FileExists", True)
    assert (service.sandbox.pool / "other").is_dir()
    await do(service, "RemoveImage", "sa{sv}", "other", {"purge": Variant("b", True)})
    assert list(files(service)) == ["etc-machined/machines/new.conf.d/50-set.conf"]
