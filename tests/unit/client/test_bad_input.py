# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each mistake of the issue's list: a sentence on stderr, exit status 1, and nothing is changed."""

from __future__ import annotations

import pytest

from .conftest import Client
from .fakebus import DBUS_ERROR, MACHINE1, MANAGER, OURS, Peer


@pytest.mark.parametrize("verb", ["start", "enable", "disable"])
def test_invalid_names(manager: Peer, client: Client, verb: str) -> None:
    result = client(verb, "good", "my_box")
    assert result.status == 1
    assert result.err.splitlines()[0] == (
        "Machine name 'my_box' is not valid: only letters, digits, '-' and '.' are allowed (try 'my-box')."
    )
    assert manager.calls == []


@pytest.mark.parametrize(
    ("verb", "member", "message"),
    [
        ("status", "GetMachine", "Could not get path to machine: No machine 'x' known"),
        ("show", "GetMachine", "Could not get path to machine: No machine 'x' known"),
        ("kill", "KillMachine", "Could not kill machine 'x': No machine 'x' known"),
        ("login", "OpenMachineLogin", "Failed to get login PTY of machine 'x': No machine 'x' known"),
        ("shell", "OpenMachineShell", "Failed to get shell PTY of machine 'x': No machine 'x' known"),
    ],
)
def test_unknown_machine(manager: Peer, client: Client, verb: str, member: str, message: str) -> None:
    manager.fail(MANAGER, member, f"{MACHINE1}.NoSuchMachine", "No machine 'x' known")
    result = client(verb, "x")
    assert (result.status, result.out) == (1, "")
    assert result.err == f"{message}\n'machinectl list' shows the machines that run.\n"


@pytest.mark.parametrize("error", ["NotBootable", "NoExecMount", "ImageBusy"])
def test_our_managers_sentences_are_printed(manager: Peer, client: Client, error: str) -> None:
    manager.fail(OURS, "StartMachine", f"org.machined1.Error.{error}", "The sentence.")
    assert client("start", "x") == (1, "", "Could not start machine 'x': The sentence.\n")


@pytest.mark.parametrize("verb", [["list"], ["start", "x"], ["shell", "x"], ["show"], ["wait", "x"]])
def test_no_manager(system_bus: str, client: Client, verb: list[str]) -> None:
    result = client(*verb)
    assert (result.status, result.out) == (1, "")
    assert f"the machine manager ({MACHINE1}) is not running: " in result.err
    assert "Start it with 'systemctl start systemd-machined.service'" in result.err


def test_a_manager_that_does_not_answer(
    manager: Peer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    release = threading.Event()
    manager.on(OURS, "ListAll", lambda *_: (release.wait(10), None)[1])
    monkeypatch.setattr("machinectl.bus.Bus.call.__kwdefaults__", {"reply": "", "timeout": 0.05})
    result = client("list")
    release.set()
    assert result.status == 1
    assert "is not running: No answer in time" in result.err


def test_no_bus(no_bus: None, client: Client) -> None:
    result = client("list")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("Failed to connect to the system bus at 'unix:path=")
    assert "No such file or directory\nIs D-Bus running?" in result.err


@pytest.mark.parametrize(
    "address", ["", "tcp:host=localhost", "unix:path=/x;nonsense", "unix:abstract=/none"]
)
def test_addresses_that_lead_nowhere(client: Client, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    monkeypatch.setattr("machinectl.bus.SYSTEM_BUS", "unix:path=/nowhere")
    result = client("list")
    assert result.status == 1
    assert result.err.startswith("Failed to connect to the system bus at '")


def test_not_permitted(manager: Peer, client: Client) -> None:
    manager.fail(MANAGER, "TerminateMachine", DBUS_ERROR + "AccessDenied", "Access denied")
    assert client("terminate", "x").err == (
        "Could not terminate machine 'x': Access denied.\n"
        "This needs administrator rights: try 'sudo machinectl terminate …'.\n"
    )


def test_not_permitted_without_a_password(manager: Peer, client: Client) -> None:
    text = "Interactive authentication required."
    manager.fail(OURS, "StartMachine", DBUS_ERROR + "InteractiveAuthorizationRequired", text)
    asked = client("start", "x").err
    assert asked.startswith("Could not start machine 'x': Interactive authentication required.\n")
    assert "where polkit can ask" in asked
    assert "leave out --no-ask-password" in client("start", "--no-ask-password", "x").err


@pytest.mark.parametrize("verb", ["login", "shell"])
def test_a_guest_without_a_bus(manager: Peer, client: Client, verb: str) -> None:
    text = "There is no system bus in container box."
    for interface, member in ((OURS, "OpenLogin"), (MANAGER, "OpenMachineShell")):
        manager.fail(interface, member, DBUS_ERROR + "FileNotFound", text)
    result = client(verb, "box")
    assert result.status == 1
    assert result.err.startswith(
        f"Failed to get {verb} PTY of machine 'box': {text}\nA login or a shell is started by the guest's"
    )


def test_login_options_that_belong_to_shell(manager: Peer, client: Client) -> None:
    for argv in (["--uid=x", "login", "a"], ["login", "-E", "A=b", "a"]):
        assert client(*argv).err == (
            "--setenv= and --uid= are not supported for 'login'. Use 'shell' instead.\n"
        )
    assert client("shell", "@a").status == 1
    assert client("-H", "h", "login").err == "Login only supported on local machines.\n"
    assert client("-H", "h", "shell").err == "Shell only supported on local machines.\n"
    assert manager.calls == []


def test_texts_of_errors_are_cleaned(manager: Peer, client: Client) -> None:
    manager.fail(OURS, "StartMachine", "x.Y", "bad \x1b[31mred\x07\nline")
    assert client("start", "x").err == "Could not start machine 'x': bad [31mred\nline\n"


def test_a_name_that_is_no_utf8(manager: Peer, client: Client) -> None:
    result = client("terminate", "a\udcff")
    assert result.status == 1
    assert "is not valid UTF-8" in result.err
