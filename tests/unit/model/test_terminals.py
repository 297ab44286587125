# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os

import pytest

from machined.linux import pty
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.machine import Machine, MachineClass
from machined.model.names import HOST
from machined.model.terminals import ShellRequest, is_assignment, open_login, open_pty, open_shell
from tests.fakes.guest import FakeConnector

DOT_HOST = Machine(HOST, MachineClass.HOST)


@pytest.fixture
def connector() -> FakeConnector:
    return FakeConnector()


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("A=b", True),
        ("_a1=", True),
        ("A=b=c\nd", True),
        ("A", False),
        ("1A=b", False),
        ("=b", False),
        ("A b=c", False),
    ],
)
def test_assignments(text: str, good: bool) -> None:
    assert is_assignment(text) is good


def test_commands() -> None:
    program, argv = ShellRequest(user="web", args=("ignored",)).command()
    assert program == "/bin/sh"
    assert argv[:2] == ["sh", "-c"]
    assert argv[3] == "web"
    assert ShellRequest(path="/bin/ls").command() == ("/bin/ls", ["/bin/ls"])
    assert ShellRequest(path="/bin/ls", args=("ls", "-l")).command() == ("/bin/ls", ["ls", "-l"])


async def test_pty() -> None:
    terminal = await open_pty(DOT_HOST)
    with terminal.master as master, pty.open_peer(master.fileno()) as peer:
        assert os.ttyname(peer.fileno()) == terminal.path
        assert terminal.number == terminal.path.rpartition("/")[2]
        assert not os.get_inheritable(master.fileno())


async def test_virtual_machines_have_none() -> None:
    with pytest.raises(MachineError) as raised:
        await open_pty(Machine("vm", MachineClass.VM))
    assert raised.value.problem is Problem.NOT_SUPPORTED


async def test_a_container_whose_leader_has_gone() -> None:
    with pytest.raises(ProcessLookupError, match="No such process"):
        await open_pty(Machine("web", MachineClass.CONTAINER))


async def test_stock_login(connector: FakeConnector) -> None:
    terminal = await open_login(DOT_HOST, connector)
    terminal.master.close()
    assert connector.guest.calls == [("start_unit", f"container-getty@{terminal.number}.service")]
    assert connector.leaders == [None]
    assert connector.guest.closed


async def test_login_on_a_known_terminal(connector: FakeConnector) -> None:
    terminal = await open_login(DOT_HOST, connector, term="xterm-256color", rows=50, columns=132)
    with terminal.master as master:
        assert os.get_terminal_size(master.fileno()) == (132, 50)
    [(_, unit, rows, fds)] = connector.guest.calls
    assert unit == f"machined-login@{terminal.number}.service"
    assert rows["Environment"] == ["TERM=xterm-256color"]
    assert rows["ExecStart"][0][1][-1] == "xterm-256color"
    assert rows["TTYPath"] == terminal.path
    assert fds == 0


@pytest.mark.parametrize("term", ["../x", "x y", "-x", "x" * 65, "x\n"])
async def test_bad_types_of_terminals(connector: FakeConnector, term: str) -> None:
    with pytest.raises(MachineError) as raised:
        await open_login(DOT_HOST, connector, term=term)
    assert raised.value.problem is Problem.INVALID_ARGS


@pytest.mark.parametrize("known", ["UnknownProperty", "PropertyReadOnly", "InvalidArgs"])
async def test_an_old_guest_uses_its_own_template(
    connector: FakeConnector, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    async def refuse(name: str, properties: object, fds: object) -> None:
        raise ServiceManagerError(f"org.freedesktop.DBus.Error.{known}", "what?")

    monkeypatch.setattr(connector.guest, "start_transient", refuse)
    terminal = await open_login(DOT_HOST, connector, term="xterm")
    terminal.master.close()
    assert connector.guest.calls == [("start_unit", f"container-getty@{terminal.number}.service")]


async def test_other_errors_of_a_guest_are_told(
    connector: FakeConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(name: str, properties: object, fds: object) -> None:
        raise ServiceManagerError("org.freedesktop.DBus.Error.AccessDenied", "no")

    monkeypatch.setattr(connector.guest, "start_transient", refuse)
    with pytest.raises(ServiceManagerError):
        await open_login(DOT_HOST, connector, term="xterm")
    assert connector.guest.closed


@pytest.mark.parametrize("error", [FileNotFoundError(2, "x"), ConnectionRefusedError(111, "x")])
async def test_no_bus(connector: FakeConnector, error: OSError) -> None:
    connector.error = error
    with pytest.raises(MachineError, match=r"There is no system bus in container \.host\.") as raised:
        await open_login(DOT_HOST, connector)
    assert raised.value.problem is Problem.FILE_NOT_FOUND


@pytest.mark.parametrize("environment", [(), ("TERM=xterm", "A=b c")])
async def test_shell(connector: FakeConnector, environment: tuple[str, ...]) -> None:
    request = ShellRequest("web", "/bin/ls", ("ls", "-l"), environment)
    terminal = await open_shell(DOT_HOST, connector, request)
    terminal.master.close()
    [(_, unit, rows, fds)] = connector.guest.calls
    assert unit == f"container-shell@{terminal.number}.service"
    assert fds == 1
    expected = {
        "Description": "Shell for User web",
        "StandardInputFileDescriptor": 0,
        "StandardOutputFileDescriptor": 0,
        "StandardErrorFileDescriptor": 0,
        "SendSIGHUP": True,
        "IgnoreSIGPIPE": False,
        "KillMode": "mixed",
        "TTYPath": terminal.path,
        "TTYReset": True,
        "UtmpIdentifier": f"pts/{terminal.number}",
        "UtmpMode": "user",
        "PAMName": "login",
        "WorkingDirectory": "-~",
        "User": "web",
        "ExecStart": [["/bin/ls", ["ls", "-l"], True]],
    }
    assert rows == (expected | {"Environment": list(environment)} if environment else expected)
