# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that take orders themselves (262): both clients send the same, to one that writes it down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.integration.both_clients import BothClients, Said

pytestmark = pytest.mark.integration

SOCKET: Final = "/run/test-vm.socket"
LOG: Final = "/run/test-vm.log"
UNIT: Final = "test-vm.service"

# A virtual machine as far as the manager can tell, whose first process answers on a control socket. It
# writes down each call with the sizes of the files that came along, and keeps 'fs:immutable'.
MACHINE: Final = f"""
import json, os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("{SOCKET}")
listener.listen()
while True:
    connection, _ = listener.accept()
    with connection:
        data, fds, _, _ = socket.recv_fds(connection, 65536, 4)
        if not data:
            continue
        call = json.loads(data[:-1])
        with open("{LOG}", "a") as log:
            print(json.dumps([call, [os.fstat(fd).st_size for fd in fds]]), file=log)
        for fd in fds:
            os.close(fd)
        answer = {{"parameters": {{}}}}
        if call.get("parameters", {{}}).get("name") == "fs:immutable":
            answer["error"] = "io.systemd.MachineInstance.StorageImmutable"
        connection.sendall(json.dumps(answer).encode() + b"\\0")
"""

LINES = [
    "pause vm", "resume vm", "poweroff vm", "reboot vm", "terminate vm", "stop vm vm",
    "bind-volume vm fs:vol::create=new,size=1M,template=sparse-file", "bind-volume vm fs:vol",
    "bind-volume vm fs:vol:virtio-scsi:ro=yes", "bind-volume vm fs:vol:nvme:ro=auto,request-as=reg",
    "bind-volume vm fs:vol::create=new", "bind-volume vm nix:vol", "bind-volume vm fs:a/b",
    "bind-volume vm fs:vol::template=a/b", "unbind-volume vm fs:vol", "unbind-volume vm fs:immutable",
]  # fmt: skip


@pytest.fixture
def vm(clients: BothClients) -> Iterator[BothClients]:
    if not clients.modern:
        pytest.skip("machines have control sockets since systemd 262")
    clients.host.path("/run/test-vm.py").write_text(MACHINE, encoding="utf-8")
    clients.sh(f"systemd-run --quiet --unit={UNIT} /usr/bin/python3 /run/test-vm.py")
    pid = int(clients.sh(f"until [ -S {SOCKET} ]; do sleep 0.05; done; systemctl show -P MainPID {UNIT}"))
    parameters = {
        "name": "vm", "class": "vm", "service": "test", "leader": pid, "controlAddress": SOCKET,
    }  # fmt: skip
    manager = "/run/systemd/machine/io.systemd.Machine"
    command = ["varlinkctl", "call", manager, "io.systemd.Machine.Register", json.dumps(parameters)]
    clients.host.run(command)
    yield clients
    clients.sh(f"systemctl stop {UNIT}; rm -rf {SOCKET} {LOG} /run/test-vm.py /var/lib/storage/vol*")


def test_orders(vm: BothClients) -> None:
    logs: list[list[Any]] = []
    said: list[list[Said]] = []
    for run in (vm.stock, vm.ours):
        vm.sh(f"rm -rf /var/lib/storage/vol* {LOG}")
        said.append([run(*line.split()) for line in LINES])
        logs.append(list(map(json.loads, vm.sh(f"cat {LOG}").splitlines())))
    for theirs, ours, status in zip(*said, [0] * 10 + [1] * 4 + [0, 1], strict=True):
        assert (theirs.status, ours.status) == (status, status), (theirs, ours)
    assert logs[1] == logs[0]
    assert [call["method"].rpartition(".")[2] for call, _ in logs[1]] == [
        "Pause", "Resume", "PowerOff", "Reboot", "Terminate", "PowerOff", "PowerOff",
        *["AddStorage"] * 4, "RemoveStorage", "RemoveStorage",
    ]  # fmt: skip
    assert [sizes for _, sizes in logs[1][7:11]] == [[2**20]] * 4
