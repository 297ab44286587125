# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in a host, stock or ours: the same calls, and their answers as one JSON object on standard output.

A container is a service with a user namespace of its own here: that is all that names and numbers need.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MACHINE = "/run/systemd/machine/io.systemd.Machine"
USERS = "/run/systemd/userdb/io.systemd.Machine"
HOOK = "/run/systemd/resolve.hook/io.systemd.Machine"
NAME, ROOT = "org.freedesktop.machine1", "/org/freedesktop/machine1"

LEADER = """
import os, signal, sys
own, (read, write) = os.getpid(), os.pipe()
if os.fork() == 0:
    os.close(write)
    os.read(read, 1)
    for kind in ("uid", "gid"):
        with open(f"/proc/{own}/{kind}_map", "w") as file:
            file.write(f"0 {sys.argv[1]} 65536")
    os._exit(0)
os.unshare(0x10000000)
os.write(write, b"x")
os.wait()
signal.pause()
"""

modern = sys.argv[1] == "262"
units: list[str] = []
results: dict[str, Any] = {}


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SYSTEMD_LOG_LEVEL": "debug", "SYSTEMD_LOG_TARGET": "console"}
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, env=env, stdin=subprocess.DEVNULL
    )


def leader(unit: str, *command: str) -> int:
    """The first process of a new service."""
    subprocess.run(["systemd-run", "--quiet", f"--unit={unit}", *command], check=True, timeout=60)
    units.append(unit)
    shown = subprocess.run(
        ["systemctl", "show", "-P", "MainPID", unit], check=True, capture_output=True, text=True, timeout=60
    )
    return int(shown.stdout)


def bus(member: str, signature: str, *words: str) -> None:
    """A method of the manager: what busctl prints, or the error's name and text."""
    done = run("busctl", "--", "call", NAME, ROOT, f"{NAME}.Manager", member, signature, *words)
    answer = done.stdout.strip()
    if done.returncode:
        found = re.findall(r"error-name=(\S+) error-message=(.*)", done.stderr)
        answer = " ".join(next(pair for pair in reversed(found) if pair[0] != "n/a"))
    results[f"{member} {' '.join(words)}"] = answer


class Varlink:
    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(20)
        self._sock.connect(path)
        self._data = b""

    def read(self) -> Any:
        while b"\0" not in self._data:
            data = self._sock.recv(65536)
            if not data:
                return "end"
            self._data += data
        text, _, self._data = self._data.partition(b"\0")
        return json.loads(text)

    def call(self, method: str, parameters: Any = None, **more: Any) -> Any:
        message = {"method": method, "parameters": {} if parameters is None else parameters, **more}
        self._sock.sendall(json.dumps(message).encode() + b"\0")
        return self.read()


def ask(path: str, interface: str, method: str, *given: dict[str, Any]) -> None:
    connection = Varlink(path)
    for parameters in given:
        reply = connection.call(f"{interface}.{method}", parameters)
        results[f"{method} {json.dumps(parameters)}"] = reply
        if reply == "end":
            connection = Varlink(path)


def described(path: str) -> None:
    """What the service says of itself, and its interfaces without their comments."""
    connection = Varlink(path)
    info = connection.call("org.varlink.service.GetInfo")["parameters"]
    results[f"info {path}"] = info
    for name in info["interfaces"]:
        reply = connection.call("org.varlink.service.GetInterfaceDescription", {"interface": name})
        lines = reply["parameters"]["description"].splitlines()
        text = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        results[f"interface {path} {name}"] = text
        shown = run("varlinkctl", "introspect", path, name)
        results[f"varlinkctl introspect {path} {name}"] = shown.returncode


def maps() -> None:
    for member in ("MapFromMachineUser", "MapFromMachineGroup"):
        for name, number in (
            ("n1", 0), ("n1", 65534), ("n1", 65535), ("n1", 65536), ("n1", 2**32 - 1), ("plain", 5),
            ("vm1", 0), (".host", 0), ("gone", 0), ("gone", 2**32 - 1),
        ):  # fmt: skip
            bus(member, "su", name, str(number))
    for member in ("MapToMachineUser", "MapToMachineGroup"):
        for number in (0, 65534, 65535, 65536, 600_000, 600_009, 665_535, 665_536, 2**32 - 1):
            bus(member, "u", str(number))
    ask(MACHINE, "io.systemd.Machine", "MapFrom", {}, {"name": "n1"}, {"name": "n1", "uid": 5, "gid": 6},
        {"name": "n1", "uid": 65536}, {"name": "n1", "gid": 65536}, {"name": "n1", "uid": 65535},
        {"name": "n1", "uid": None}, {"name": "n1", "uid": 5.0}, {"name": "n1", "uid": "5"},
        {"name": ".host", "uid": 0}, {"name": "vm1", "uid": 0},
        {"name": "n1", "uid": 1, "allowInteractiveAuthentication": True})  # fmt: skip
    ask(MACHINE, "io.systemd.Machine", "MapTo", {}, {"uid": 0}, {"uid": 600_001}, {"gid": 70_000},
        {"uid": 600_001, "gid": 600_002}, {"uid": 600_001, "gid": 3}, {"name": "n1"})  # fmt: skip


def users() -> None:
    ours = {"service": "io.systemd.Machine"}
    keys: list[dict[str, Any]] = [
        {}, {"uid": 600_000}, {"uid": 600_005, "userName": "vu-n1-5"},
        {"uid": 600_005, "userName": "vu-n1-6"},
        {"userName": "vu-n1-5"}, {"userName": "vu-plain-5"}, {"userName": "vu-vm1-5"}, {"userName": "vu-n1"},
        {"userName": "vu-n1-05"}, {"userName": "vu-n1-65535"}, {"userName": "vu-n1-65536"},
        {"userName": ""}, {"userName": "a:b"}, {"userName": "12"}, {"userName": 5}, {"uid": "5"},
        {"uid": 0}, {"uid": 65535}, {"uid": 2**32 - 1}, {"uid": 665_535}, {"uid": None}, {"uidMin": 5},
        {"frob": 1}, {"service": "x"}, {"service": None},
    ]  # fmt: skip
    ask(USERS, "io.systemd.UserDatabase", "GetUserRecord", {}, *(ours | key for key in keys))
    ask(USERS, "io.systemd.UserDatabase", "GetGroupRecord", ours | {"gid": 600_000},
        ours | {"groupName": "vg-n1-5"}, ours | {"groupName": "vu-n1-5"}, ours | {"gid": 3})  # fmt: skip
    ask(USERS, "io.systemd.UserDatabase", "GetMemberships", ours, {"service": "x"})
    for database, names in (
        ("passwd", ("vu-n1-0", "600000", "600007", "vu-gone-1", "900000")),
        ("group", ("vg-n1-0", "600000", "600007", "vg-gone-1", "900000")),
    ):
        for name in names:
            done = run("getent", database, name)
            results[f"getent {database} {name}"] = [done.returncode, done.stdout]


def registration(numbers: dict[str, int]) -> None:
    words = {
        "name": ("", "0", "s", "x", "1", "r"),
        "id": ("m", "1", "7", "s", "x", "1", "r"),
        "class": ("m", "0", "s", "host", "1", "r"),
        "leader": ("m", "0", "s", "container", "1", "r"),
        "root": ("m", "0", "s", "container", str(numbers["plain"]), "r"),
        "pin": ("n1", "0", "s", "container", "3999999", ""),
        "exists": ("n1", "0", "s", "", str(numbers["plain"]), ""),
        "no class": ("m", "0", "s", "", str(numbers["spare"]), ""),
    }
    for arguments in words.values():
        bus("RegisterMachine", "sayssus", *arguments)
    for prefix in (("m", "0", "s", "x", "1", "r"), ("m", "0", "s", "container", "1", "r")):
        bus("RegisterMachineWithNetwork", "sayssusai", *prefix, "2", "5", "-1")
    if modern:
        for properties in (
            ("Frob", "s", "x"), ("Class", "u", "3"), ("VSockCID", "u", "2"),
            ("NetworkInterfaces", "ai", "1", "0"),
            ("LeaderPID", "u", "9"), ("LeaderPIDFDID", "t", "9"), ("RootDirectory", "s", "r"),
        ):  # fmt: skip
            bus("RegisterMachineEx", "sa(sv)", "m", "1", *properties)
    base = {"name": "m", "class": "vm", "leader": numbers["spare"]}
    ask(MACHINE, "io.systemd.Machine", "Register", {}, {"name": "m"}, {"name": "_", "class": "zz"},
        {"class": "zz", "name": "_"}, {"frob": 1, "name": "_"}, {**base, "frob": 1}, {**base, "class": ""},
        {**base, "class": "host"}, {**base, "leader": 1}, {**base, "leader": 3999999},
        {**base, "leader": "x"},
        {**base, "leader": True}, {**base, "leaderProcessId": {"pid": 0}}, {**base, "id": ""},
        {**base, "leaderProcessId": {"pid": numbers["plain"]}}, {**base, "id": None},
        {**base, "vSockCid": 2},
        {**base, "rootDirectory": ""}, {**base, "rootDirectory": "/a/../b"}, {**base, "ifIndices": [0]},
        {**base, "sshPrivateKeyPath": "k"}, {**base, "sshAddress": "a\nb"},
        {**base, "controlAddress": "x"},
        {**base, "name": "n1"}, {**base, "vSockCid": 1, "id": "x"},
        {**base, "id": "x", "vSockCid": 1})  # fmt: skip
    ask(MACHINE, "io.systemd.Machine", "Kill", {"name": "n1", "signal": 0}, {"name": "n1", "signal": 99},
        {"name": "n1"}, {"name": "n1", "signal": 18, "whom": "x"},
        {"name": "_", "signal": 18, "whom": "x"},
        {"name": "n1", "signal": "18"}, {"name": ".host", "signal": 18},
        {"name": "n1", "signal": None})  # fmt: skip
    ask(
        MACHINE,
        "io.systemd.Machine",
        "Terminate",
        {"name": ".host"},
        {"name": None},
        {"pid": None},
        {"pid": 5},
    )


def listing() -> None:
    for given in (
        {"name": "n1"}, {"name": "vm1"}, {"name": ".host"}, {"name": "gone"}, {"name": "_"}, {},
        {"pid": {"pid": 0}},
        {"name": "n1", "acquireMetadata": "yes"}, {"name": "n1", "acquireMetadata": "graceful"},
        {"name": "vm1", "acquireMetadata": "yes"}, {"name": "vm1", "acquireMetadata": "graceful"},
        {"name": "n1", "acquireMetadata": "x"}, {"name": "n1", "acquireMetadata": None},
    ):  # fmt: skip
        ask(MACHINE, "io.systemd.Machine", "List", given)


def hook() -> None:
    def question(name: str, kind: Any = 1, class_: Any = 1) -> dict[str, Any]:
        return {"question": [{"key": {"class": class_, "type": kind, "name": name}}]}

    ask(HOOK, "io.systemd.Resolve.Hook", "ResolveRecord", {}, {"question": []}, question("n1"),
        question("n1", 16), question("n1", class_=3), question("vm1"), question("gone"), question("x.n1"),
        question("n1."), question("N1"), question(".host"), question("a..b"), question("n1", 2**16),
        question("n1", "1"), question("n1", True), {"question": [{"key": {"name": "n1"}}]})  # fmt: skip
    connection = Varlink(HOOK)
    method = "io.systemd.Resolve.Hook.QueryFilter"
    replies = [connection.call(method, more=True)]
    ask(MACHINE, "io.systemd.Machine", "Unregister", {"name": "vm1"})
    replies.append(connection.read())
    for reply in replies:
        reply["parameters"]["filterDomains"].sort()
    results["QueryFilter"] = replies
    done = run("resolvectl", "query", "x.n1")
    results["resolvectl"] = [done.returncode, "not found" in done.stderr]


def main() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".py", dir="/run") as file:
        file.write(LEADER)
        file.flush()
        Path(file.name).chmod(0o644)
        numbers = {"n1": leader("calls-n1", sys.executable, file.name, "600000")}
        deadline = time.monotonic() + 20
        while "600000" not in Path(f"/proc/{numbers['n1']}/uid_map").read_text(encoding="ascii"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    for name in ("plain", "vm1", "spare"):
        numbers[name] = leader(f"calls-{name}", "sleep", "infinity")
    for name, class_ in (("n1", "container"), ("plain", "container"), ("vm1", "vm")):
        given = {"name": name, "class": class_, "leader": numbers[name], "service": "calls"}
        reply = Varlink(MACHINE).call("io.systemd.Machine.Register", given)
        assert "error" not in reply, reply
    try:
        for path in (MACHINE, USERS, *([HOOK] if modern else [])):
            described(path)
        maps()
        users()
        registration(numbers)
        listing()
        ask(MACHINE, "org.varlink.service", "Frob", {})
        ask(MACHINE, "io.systemd.service", "Ping", {}, {"x": 1})
        ask(MACHINE, "io.systemd.service", "SetLogLevel", {}, {"level": 9}, {"level": 6}, {"level": "x"})
        ask(MACHINE, "io.systemd.service", "GetLogLevel", {})
        ask(MACHINE, "io.systemd.service", "Reload", {})
        if modern:
            hook()
    finally:
        for name in ("n1", "plain", "vm1"):
            Varlink(MACHINE).call("io.systemd.Machine.Unregister", {"name": name})
        subprocess.run(["systemctl", "stop", *units], check=False, timeout=60)
    text = json.dumps(results)
    for name, number in numbers.items():
        text = re.sub(rf"\b{number}\b", name.upper(), text)
    print(text)


main()
