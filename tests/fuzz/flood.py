# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeps machined busy until standard input is closed: `python3 -m tests.fuzz.flood KIND MACHINE` in a host.

KIND is a D-Bus flood of `looks` (jobs in the guest), `questions` (to polkit) or `waits`, or `varlink`:
messages that are large when parsed, on many connections. Prints "ready" when it has begun.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time

from tests.fuzz.wire import ERROR, NO_REPLY, RETURN, Client, Message

NAME = "org.freedesktop.machine1.Manager"
OWN = "org.machined1.Manager"
VARLINK = "/run/systemd/machine/io.systemd.Machine"
CONNECTIONS = {"looks": 4, "questions": 60, "waits": 40}
WINDOW = 100


def message(kind: str, machine: str) -> Message:
    match kind:
        case "looks":
            return Message(interface=NAME, member="GetMachineOSRelease", signature="s", body=[machine])
        case "questions":
            return Message(interface=NAME, member="TerminateMachine", signature="s", body=[machine])
        case _:
            body = [machine, "stopped", 0]
            return Message(interface=OWN, member="WaitMachine", signature="sst", body=body, flags=NO_REPLY)


def told_to_stop() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def bus(kind: str, machine: str) -> int:
    """As many calls as answers come back; those without answers in bursts."""
    clients = {Client(): 0 for _ in range(CONNECTIONS[kind])}
    sent, call = 0, message(kind, machine)
    print("ready", flush=True)
    while not told_to_stop():
        for client in clients:
            for _ in range(WINDOW - clients[client]):
                client.send(call)
                sent += 1
                clients[client] += not call.flags & NO_REPLY
            while client.take(0):
                pass
            clients[client] -= sum(answer.type in (RETURN, ERROR) for answer in client.answers())
        time.sleep(0.002)
    return sent


def varlink() -> int:
    data = b'{"method":"io.systemd.Machine.List","parameters":{"x":[' + b"[]," * 300_000 + b"1]}}\0"
    peers = []
    for _ in range(300):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(VARLINK)
        sock.setblocking(False)
        peers.append(sock)
    at = dict.fromkeys(peers, 0)
    sent = 0
    print("ready", flush=True)
    while not told_to_stop():
        for sock in peers:
            with contextlib.suppress(OSError):
                taken = sock.send(data[at[sock] : at[sock] + 200_000])
                at[sock] = (at[sock] + taken) % len(data)
                sent += taken
        time.sleep(0.001)
    return sent


if __name__ == "__main__":
    print(varlink() if sys.argv[1] == "varlink" else bus(sys.argv[1], sys.argv[2]))
