# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that take orders on a varlink socket, and providers of volumes: played by threads."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinectl import volumes
from machinectl.errors import CommandError
from machinectl.varlink import Connection, VarlinkError

from .conftest import Client
from .fakebus import MACHINE1, MANAGER, Peer, join

Answer = Callable[[str, dict[str, Any]], bytes]


class Service:
    """Answers varlink calls; `calls` has (method, parameters, sizes of the files that came along)."""

    def __init__(self, path: Path) -> None:
        self.calls: list[tuple[str, dict[str, Any], list[int]]] = []
        self.answers: dict[str, bytes] = {}
        self.fds: list[int] = []
        self.hangs_up = False  # after each answer
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        join(self._thread)
        self._listener.close()

    def reply(self, method: str, **parameters: Any) -> None:
        self.answers[method] = json.dumps({"parameters": parameters}).encode() + b"\0"

    def fail(self, method: str, error: str) -> None:
        self.answers[method] = json.dumps({"error": error, "parameters": {}}).encode() + b"\0"

    def methods(self) -> list[str]:
        return [method.rpartition(".")[2] for method, _, _ in self.calls]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # (Who asked may have gone.)
            with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(connection, 65536, 4)
            if not data:
                return
            call = json.loads(data[:-1])
            sizes = [os.fstat(fd).st_size for fd in fds]
            for fd in fds:
                os.close(fd)
            self.calls.append((call["method"], call.get("parameters", {}), sizes))
            answer = self.answers.get(call["method"], b'{"parameters":{}}\0')
            if not answer:
                return
            if self.fds:
                socket.send_fds(connection, [answer], self.fds)
            else:
                connection.sendall(answer)
            if self.hangs_up:
                return


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Sockets are in it, whose paths have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="m-") as directory:
        monkeypatch.setattr("machinectl.control.RUNTIME", directory)
        yield Path(directory)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "service")
    yield service
    service.close()


@pytest.fixture
def machined(runtime: Path) -> Iterator[Service]:
    """A manager that knows where machine 'vm' takes orders."""
    service = Service(runtime / "systemd/machine/io.systemd.Machine")
    service.reply("io.systemd.Machine.List", name="vm", controlAddress=os.fspath(runtime / "vm"))
    yield service
    service.close()


@pytest.fixture
def vm(machined: Service, runtime: Path) -> Iterator[Service]:
    service = Service(runtime / "vm")
    yield service
    service.close()


@pytest.fixture
def provider(runtime: Path) -> Iterator[Service]:
    service = Service(runtime / "systemd/io.systemd.StorageProvider/fs")
    (runtime / "volume").write_bytes(b"1234567")
    fd = os.open(runtime / "volume", os.O_RDONLY)
    service.fds = [fd]
    service.reply("io.systemd.StorageProvider.Acquire", fileDescriptorIndex=0, type="reg")
    yield service
    os.close(fd)
    service.close()


def test_a_call(service: Service, tmp_path: Path) -> None:
    service.reply("a.b.C", x=[1])
    with Connection(os.fspath(tmp_path / "service")) as connection:
        assert connection.call("a.b.C", {"y": "ä"}) == {"x": [1]}
        assert connection.call("a.b.D", {}) == {}
        with pytest.raises(OSError, match="did not come with it"):
            connection.take_fd(0)
    assert service.calls == [("a.b.C", {"y": "ä"}, []), ("a.b.D", {}, [])]


def test_an_error(service: Service, tmp_path: Path) -> None:
    service.fail("a.b.C", "a.b.Wrong")
    with Connection(f"unix:{tmp_path}/service") as connection, pytest.raises(VarlinkError) as caught:
        connection.call("a.b.C", {})
    assert (caught.value.name, caught.value.parameters) == ("a.b.Wrong", {})


@pytest.mark.parametrize(
    "answer", [b"", b"no\0", b"[]\0", b'{"parameters":3}\0', b'{"parameters":{}', b"\xff\0"]
)
def test_answers_that_are_none(service: Service, tmp_path: Path, answer: bytes) -> None:
    service.answers["a.b.C"] = answer
    with Connection(os.fspath(tmp_path / "service")) as connection, pytest.raises(OSError):
        connection.call("a.b.C", {}, timeout=0.2)


def test_an_answer_that_is_too_long(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machinectl.varlink._REPLY_MAX", 1000)
    service.reply("a.b.C", x="x" * 2000)
    with Connection(os.fspath(tmp_path / "service")) as connection, pytest.raises(OSError, match="too long"):
        connection.call("a.b.C", {})


def test_descriptors_that_come_are_ours_to_close(service: Service, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    service.fds = [fd]
    with Connection(os.fspath(tmp_path / "service")) as connection:
        connection.call("a.b.C", {})
        ours = connection.take_fd(0)
        for index in (1, -1, None, "0"):
            with pytest.raises(OSError, match="did not come with it"):
                connection.take_fd(index)
    assert os.fstat(ours).st_size == 3
    assert not os.get_inheritable(ours)
    os.close(ours)
    os.close(fd)


def test_a_peer_that_hangs_up_when_it_has_answered(service: Service, tmp_path: Path) -> None:
    service.hangs_up = True
    service.reply("a.b.C", x=1)
    for _ in range(20):
        with Connection(os.fspath(tmp_path / "service")) as connection:
            assert connection.call("a.b.C", {}) == {"x": 1}


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_pause_and_resume(vm: Service, machined: Service, client: Client, verb: str) -> None:
    assert client(verb, "vm", "vm") == (0, "", "")
    assert vm.calls == [(f"io.systemd.MachineInstance.{verb.capitalize()}", {}, [])] * 2
    assert machined.calls == [("io.systemd.Machine.List", {"name": "vm"}, [])] * 2


@pytest.mark.parametrize(
    "verb", ["pause box", "resume box", "bind-volume box fs:x", "unbind-volume box fs:x"]
)
def test_machines_without_a_control_socket(machined: Service, client: Client, verb: str) -> None:
    machined.reply("io.systemd.Machine.List", name="box")
    result = client(*verb.split())
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        "Machine 'box' does not expose a varlink control socket.",
        "Only virtual machines of systemd-vmspawn 262 and later do; containers cannot be told this way.",
    ]


def test_a_machine_nobody_knows(machined: Service, client: Client) -> None:
    machined.fail("io.systemd.Machine.List", "io.systemd.Machine.NoSuchMachine")
    assert client("pause", "x").err.splitlines()[0] == "Failed to look up machine 'x': No machine 'x' known"


def test_no_manager_on_varlink(runtime: Path, client: Client) -> None:
    err = client("pause", "x").err
    assert err.startswith(
        f"Failed to ask the machine manager at '{runtime}/systemd/machine/io.systemd.Machine'"
    )


def test_a_control_socket_nobody_listens_on(machined: Service, client: Client) -> None:
    assert ": No such file or directory\n" in client("pause", "vm").err
    vm = "Failed to reach machine 'vm' at"
    assert client("resume", "vm").err.startswith(vm)


def test_a_machine_that_refuses(vm: Service, client: Client) -> None:
    vm.fail("io.systemd.MachineInstance.Pause", "io.systemd.MachineInstance.NotConnected")
    assert client("pause", "vm").err == (
        "Machine 'vm' refuses 'Pause': io.systemd.MachineInstance.NotConnected\n"
    )


def test_only_here(client: Client, runtime: Path) -> None:
    assert client("pause", "-Mbox", "vm").err.startswith("'pause' works on machines of this host alone")
    for verb in ("bind-volume", "unbind-volume"):
        assert client(verb, "-M.host", "vm", "fs:x").err == (
            f"{verb} is only supported on the local transport.\n"
        )


@pytest.mark.parametrize(
    ("verb", "order"), [("poweroff", "PowerOff"), ("reboot", "Reboot"), ("terminate", "Terminate")]
)
def test_who_takes_orders_gets_them(
    vm: Service, manager: Peer, client: Client, verb: str, order: str
) -> None:
    assert client(verb, "vm") == (0, "", "")
    assert vm.methods() == [order]
    assert manager.calls == []


def test_who_takes_none_is_signalled(machined: Service, manager: Peer, client: Client) -> None:
    machined.reply("io.systemd.Machine.List", name="box")
    manager.on(MANAGER, "KillMachine", lambda *_: None)
    manager.fail(MANAGER, "TerminateMachine", f"{MACHINE1}.NoSuchMachine", "No machine 'box' known")
    assert client("poweroff", "box").status == 0
    assert client("terminate", "box").status == 1
    assert ("KillMachine", ("box", "leader", 38)) in manager.calls
    assert client("--runner=vmspawn", "reboot", "box").err.startswith("Could not reboot machine 'box'")


def test_bind_volume(vm: Service, provider: Service, client: Client) -> None:
    spec = r"fs:v\:1:virtio-scsi:create=new,size=1M,template=t,ro=no,request-as=reg"
    assert client("--no-ask-password", "bind-volume", "vm", spec) == (0, "", "")
    assert provider.calls == [
        (
            "io.systemd.StorageProvider.Acquire",
            {"name": "v:1", "createMode": "new", "createSizeBytes": 2**20, "template": "t",
             "readOnly": False, "requestAs": "reg", "allowInteractiveAuthentication": False},
            [],
        )
    ]  # fmt: skip
    parameters = {"fileDescriptorIndex": 0, "name": "fs:v:1", "config": "virtio-scsi"}
    assert vm.calls == [("io.systemd.MachineInstance.AddStorage", parameters, [7])]


def test_a_volume_that_cannot_be_had(vm: Service, provider: Service, client: Client) -> None:
    provider.fds = []
    what = "Failed to acquire storage volume 'fs:x' from provider: "
    assert client("bind-volume", "vm", "fs:x").err.startswith(f"{what}the answer names a file descriptor")
    provider.fail("io.systemd.StorageProvider.Acquire", "io.systemd.StorageProvider.NoSuchVolume")
    assert client("bind-volume", "vm", "fs:x").err == f"{what}io.systemd.StorageProvider.NoSuchVolume\n"
    assert "there is no provider 'nix'" in client("bind-volume", "vm", "nix:x").err
    assert vm.calls == []


def test_a_volume_the_machine_does_not_take(vm: Service, provider: Service, client: Client) -> None:
    vm.fail("io.systemd.MachineInstance.AddStorage", "io.systemd.MachineInstance.StorageExists")
    err = client("bind-volume", "vm", "fs:x").err
    assert err.startswith("Machine 'vm' does not take volume 'fs:x': it has it already")


def test_no_volume_is_made_for_a_machine_that_is_not_there(
    machined: Service, provider: Service, client: Client
) -> None:
    machined.reply("io.systemd.Machine.List", name="vm")
    assert client("bind-volume", "vm", "fs:x::create=new").status == 1
    assert provider.calls == []


def test_unbind_volume(vm: Service, client: Client) -> None:
    assert client("unbind-volume", "vm", "fs:x") == (0, "", "")
    assert vm.calls == [("io.systemd.MachineInstance.RemoveStorage", {"name": "fs:x"}, [])]
    vm.fail("io.systemd.MachineInstance.RemoveStorage", "io.systemd.MachineInstance.StorageImmutable")
    assert "it was there from the start and stays" in client("unbind-volume", "vm", "fs:x").err


@pytest.mark.parametrize(
    "spec",
    ["", "fs", "fs:", ":x", "a/b:x", "..:x", "fs:\n", "fs:x:a:b", "fs:x:a:x=y", "fs:x::create=x",
     "fs:x::ro=x", "fs:x::size=x", "fs:x::create=new,create=new", "fs:x::size=1,create-size=1",
     "fs:x::ro=auto,read-only=auto", "fs:x:::", "fs:x::template=", "fs:x::request-as=x", "fs:x::=x"],
)  # fmt: skip
def test_volumes_that_are_none(spec: str) -> None:
    with pytest.raises(CommandError):
        volumes.parse(spec)


def test_how_to_acquire_is_up_to_the_provider_where_nothing_is_said() -> None:
    for spec in ("fs:x", "fs:x:", "fs:x::", "fs:x::,", "fs:x::ro=auto"):
        volume = volumes.parse(spec)
        assert (volume.provider, volume.name, volume.config, volume.parameters) == ("fs", "x", "", {})


@given(st.text(max_size=40))
def test_any_text_is_a_volume_or_refused(text: str) -> None:
    try:
        volume = volumes.parse(text)
    except CommandError:
        return
    assert volume.provider
    assert "/" not in volume.provider
    assert volume.name
