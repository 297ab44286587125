# SPDX-License-Identifier: LGPL-2.1-or-later
"""`explain`, `check`, `profiles`, `set`, `apply`, `start --set`: calls, what is printed, exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Client
from .fakebus import DBUS_ERROR, OURS, Peer

SETTINGS = [
    ("Exec", "Boot", "yes", "default", "default"),
    ("Exec", "Environment", "A=b c", "machine", "/etc/machined/machines/web.conf:3"),
]
COMMAND = ["systemd-nspawn", "--quiet", "--setenv=A=b c", "--machine=web"]
PROPERTIES = [("Slice", "machine.slice"), ("DeviceAllow", "/dev/fuse rwm")]
WARNING = ("warning", "/etc/systemd/nspawn/web.nspawn:2", "unknown.")
ERROR = ("error", "", "No good.")

EXPLAINED = """\
SECTION KEY         VALUE ORIGIN
Exec    Boot        yes   default
Exec    Environment A=b c /etc/machined/machines/web.conf:3

2 settings listed.

Command:
  systemd-nspawn \\
    --quiet \\
    '--setenv=A=b c' \\
    --machine=web

Unit:
  Slice=machine.slice
  DeviceAllow=/dev/fuse rwm
"""


def explained(manager: Peer, *findings: tuple[str, str, str], command: list[str] = COMMAND) -> None:
    signature = "a(sssss)asa(ss)a(sss)"
    manager.on(
        OURS, "ExplainMachine", lambda *_: (signature, (SETTINGS, command, PROPERTIES, list(findings)))
    )


def test_explain(manager: Peer, client: Client) -> None:
    explained(manager, WARNING)
    told = client("explain", "web")
    assert told == (0, EXPLAINED, "/etc/systemd/nspawn/web.nspawn:2: warning: unknown.\n")
    assert manager.calls == [("ExplainMachine", ("web", {}))]
    record = json.loads(client("explain", "web", "--json").out)
    assert record["settings"][1] == {
        "section": "Exec", "key": "Environment", "value": "A=b c", "source": "machine",
        "origin": "/etc/machined/machines/web.conf:3",
    }  # fmt: skip
    assert record["command"] == COMMAND
    assert record["properties"][0] == {"name": "Slice", "value": "machine.slice"}
    assert record["findings"] == [
        {"severity": "warning", "origin": WARNING[1], "text": "unknown."},
    ]


def test_explain_as_start_would_have_it(manager: Peer, client: Client) -> None:
    explained(manager)
    assert client("explain", "web", "--as", "one", "--set=Boot=no", "--set", "User=me", "-x").status == 0
    [(_, (name, given))] = manager.calls
    assert (name, given) == (
        "one", {"settings": ("as", ["Boot=no", "User=me"]), "ephemeral": ("b", True), "image": ("s", "web")}
    )  # fmt: skip
    assert client("explain", "web", "--as=a", "--as=b").status == 1


def test_explain_what_does_not_start(manager: Peer, client: Client) -> None:
    explained(manager, ERROR, command=[])
    told = client("explain", "web")
    assert (told.status, told.err) == (1, "error: No good.\n")
    assert "Command:" not in told.out
    explained(manager, command=[])
    assert client("explain", "web").err == "Machine 'web' has nothing to start.\n"


def test_check(manager: Peer, client: Client) -> None:
    manager.on(OURS, "CheckMachine", lambda name: ("a(sss)", ([WARNING] if name == "web" else [],)))
    assert client("check", "web", "db", "web") == (0, f"{WARNING[1]}: warning: unknown.\n", "")
    assert manager.members() == ["CheckMachine"] * 2
    manager.answer(OURS, "CheckMachines", "a(ssss)", [("db", *ERROR), ("web", *WARNING)])
    told = client("check")
    assert told == (1, f"db: error: No good.\n{WARNING[1]}: warning: unknown.\n", "")
    assert json.loads(client("check", "--json").out)[0] == {
        "machine": "db", "severity": "error", "origin": None, "text": "No good.",
    }  # fmt: skip
    assert client("check", "../x").status == 1


def test_profiles(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "ListProfiles", "a(sss)", [("small", "/etc/machined/profiles/small.conf", "")])
    text = "NAME  DESCRIPTION FILE\nsmall -           /etc/machined/profiles/small.conf\n"
    assert client("profiles", "--no-legend").out.split() == [
        "small",
        "-",
        "/etc/machined/profiles/small.conf",
    ]
    assert client("profiles").out == f"{text}\n1 profiles listed.\n"


def test_set(manager: Peer, client: Client) -> None:
    answer: list[Any] = [["/etc/x.conf"], [], []]
    manager.on(OURS, "SetMachineSettings", lambda *_: ("asasa(sss)", tuple(answer)))
    assert client("set", "web", "Boot=no", "Bind+=/a") == (0, "", "Changed '/etc/x.conf'.\n")
    assert client("set", "web", "Boot=no", "--runtime", "--quiet") == (0, "", "")
    assert manager.calls == [
        ("SetMachineSettings", ("web", ["Boot=no", "Bind+=/a"], {})),
        ("SetMachineSettings", ("web", ["Boot=no"], {"runtime": ("b", True)})),
    ]
    answer[1:] = [["[Exec] Boot="], [WARNING]]
    told = client("set", "web", "Boot=no").err
    assert "unknown." in told
    assert "from its next start on: [Exec] Boot= ('machinectl poweroff web'" in told
    answer[:] = [[], [], []]
    assert "already" in client("set", "web", "Boot=no").err
    assert client("set", "web").status == 1
    manager.fail(OURS, "SetMachineSettings", f"{DBUS_ERROR}InvalidArgs", "Nothing was done:\n  no.")
    assert client("set", "web", "x") == (
        1, "", "Could not change the settings of machine 'web': Nothing was done:\n  no.\n"
    )  # fmt: skip


OUTCOME: dict[str, Any] = {
    "changed": True, "file": "/etc/x.conf", "diff": ["--- /etc/x.conf", "+++ /etc/x.conf", "+Boot=no"],
    "actions": [], "restart_needed": True, "warnings": [], "error": None,
}  # fmt: skip


@pytest.fixture
def document(tmp_path: Path) -> str:
    path = tmp_path / "machines.toml"
    path.write_text("[machine.web]\n", encoding="utf-8")
    return str(path)


def test_apply(manager: Peer, client: Client, document: str) -> None:
    result = {"web": OUTCOME, "db": OUTCOME | {"diff": [], "changed": False, "restart_needed": False}}
    manager.on(OURS, "ApplyMachines", lambda *_: ("s", (json.dumps(result),)))
    lines = "web: changed (settings, from its next start on)\ndb: unchanged\n"
    assert client("apply", "-f", document) == (0, lines, "")
    told = client("apply", f"--file={document}", "--dry-run", "--diff", "--force")
    assert told.out.splitlines() == [
        *result["web"]["diff"], "web: would be changed (settings, from its next start on)", "db: unchanged"
    ]  # fmt: skip
    assert json.loads(client("apply", "-f", document, "--json").out) == result
    assert manager.calls[:2] == [
        ("ApplyMachines", ("[machine.web]\n", {})),
        ("ApplyMachines", ("[machine.web]\n", {"dry-run": ("b", True), "force": ("b", True)})),
    ]
    result["db"] |= {"error": "It did not start.", "warnings": ["Hm."], "actions": ["enable"]}
    told = client("apply", "-f", document)
    assert (told.status, told.err) == (1, "Warning: Hm.\nIt did not start.\n")
    assert told.out.endswith("db: changed (enable)\n")


def test_apply_of_nothing(manager: Peer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\xff")
    (tmp_path / "large").write_bytes(b"#" * (1 << 20) + b"#")
    for words in ([], ["-f", "/nonexistent"], ["-f", f"{tmp_path}/bad"], ["-f", f"{tmp_path}/large"]):
        assert client("apply", *words).status == 1
    assert manager.calls == []


def test_start_with_settings(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "StartMachine", "o", "/org/machined1/job/1")
    assert client("start", "--set=Boot=no", "--set=User=me", "--no-block", "web").status == 0
    assert manager.calls == [("StartMachine", ("web", {"settings": ("as", ["Boot=no", "User=me"])}))]


@pytest.mark.parametrize(
    "line",
    ["explain web", "check", "check web", "profiles", "set web A=b", "apply -f FILE", "start --set=A=b web"],
)
def test_what_systemds_manager_cannot_do(manager: Peer, client: Client, document: str, line: str) -> None:
    told = client(*line.replace("FILE", document).split())
    assert told.status == 1
    assert "machined" in told.err
    assert "Unknown method" not in told.err
