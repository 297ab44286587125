# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in the host: makes cheap machines, and measures. Commands and answers are lines of JSON.

It takes the host's python3 and the jeepney of the installed client, whose directory is the one argument.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(sys.argv[1])
from jeepney import DBusAddress, MessageType, Parser, new_method_call
from jeepney.io.blocking import open_dbus_connection

MACHINE1 = "org.freedesktop.machine1"
MANAGER = DBusAddress("/org/freedesktop/machine1", bus_name=MACHINE1, interface=f"{MACHINE1}.Manager")
OURS = DBusAddress("/org/freedesktop/machine1", bus_name=MACHINE1, interface="org.machined1.Manager")
SYSTEMD1 = DBusAddress(
    "/org/freedesktop/systemd1",
    bus_name="org.freedesktop.systemd1",
    interface="org.freedesktop.systemd1.Manager",
)
DRIVER = DBusAddress(
    "/org/freedesktop/DBus", bus_name="org.freedesktop.DBus", interface="org.freedesktop.DBus"
)
REGISTER = "sayssus"
# Python 3.12 has it, and every host has that.
UNSHARE: Callable[[int], None] = getattr(os, "unshare", lambda flags: None)
NAMESPACES = 0x40000000 | 0x00020000 | 0x04000000  # CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS
ROOT = Path("/run/bench-root")
OS_RELEASE = 'ID=bench\nNAME="Bench"\nPRETTY_NAME="A bench"\nVERSION_ID=1\n'
PATIENCE = 120.0


class Wire:
    """One kept connection, measured from the first byte out to the last one in, without our own parsing."""

    def __init__(self) -> None:
        self.connection = open_dbus_connection("SYSTEM")
        self.sock: socket.socket = self.connection.sock
        self.parser = Parser()
        self.signals: list[Any] = []

    def call(self, address: Any, member: str, signature: str = "", *body: Any) -> tuple[float, Any]:
        """Seconds, and the body. RuntimeError for an error reply."""
        message = new_method_call(address, member, signature or None, body)
        serial = next(self.connection.outgoing_serial)
        data = message.serialise(serial=serial)
        begin = time.perf_counter()
        self.sock.sendall(data)
        end, reply = self.wait(lambda m: m.header.fields.get(5) == serial)
        if reply.header.message_type is MessageType.error:
            raise RuntimeError(f"{member}: {reply.body}")
        return end - begin, reply.body

    def wait(self, wanted: Callable[[Any], bool]) -> tuple[float, Any]:
        """Receive until a message fits; all others are signals to look at later."""
        deadline = time.monotonic() + PATIENCE
        when = time.perf_counter()
        while True:
            while (message := self.parser.get_next_message()) is not None:
                if wanted(message):
                    return when, message
                self.signals.append(message)
            if not select.select([self.sock], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise RuntimeError("no answer in time")
            data = self.sock.recv(1 << 20)
            when = time.perf_counter()
            if not data:
                raise RuntimeError("the bus has hung up")
            self.parser.add_data(data)


def make_root() -> None:
    (ROOT / "etc").mkdir(parents=True, exist_ok=True)
    (ROOT / "etc/os-release").write_text(OS_RELEASE)
    for name in ("usr", "proc"):
        (ROOT / name).mkdir(exist_ok=True)
    for name in ("lib", "lib64", "bin"):
        if not (ROOT / name).is_symlink():
            (ROOT / name).symlink_to(f"usr/{name}")
    if not (ROOT / "usr/bin").exists():
        subprocess.run(["mount", "--bind", "/usr", str(ROOT / "usr")], check=True)


def add_address(number: int) -> None:
    """10.x.y.z on the loopback interface of our own network namespace, for everybody to use."""
    address = bytes([10, number >> 16 & 255, number >> 8 & 255, number & 255])
    attributes = struct.pack("=HH4s", 8, 2, address) + struct.pack("=HH4s", 8, 1, address)
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1) + attributes
    header = struct.pack("=IHHII", 16 + len(body), 20, 0x405, 1, 0)  # RTM_NEWADDR, REQUEST|ACK|CREATE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(header + body)
        sock.recv(4096)


def cheap_machine(number: int) -> int:
    """A process in network, mount and host name namespaces of its own, with a small root; its number."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            UNSHARE(NAMESPACES)
            add_address(number)
            os.chroot(ROOT)
            os.chdir("/")
            os.execv("/usr/bin/sleep", ["sleep", "infinity"])  # closes the pipe
        finally:
            os._exit(1)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return pid


class Bench:
    """The commands."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.names: list[str] = []
        self.number = 0

    def _next(self) -> tuple[str, int]:
        self.number += 1
        return f"bench-{self.number}", self.number

    def grow(self, count: int) -> int:
        """Have so many cheap machines."""
        make_root()
        while len(self.names) < count:
            name, number = self._next()
            pid = cheap_machine(number)
            arguments: tuple[Any, ...] = (name, b"", "bench", "container", pid, str(ROOT), [])
            self.wire.call(MANAGER, "CreateMachine", f"{REGISTER}a(sv)", *arguments)
            self.names.append(name)
        return len(self.names)

    def create(self, count: int) -> list[float]:
        """CreateMachine of a fresh process each time."""
        make_root()
        times = []
        for _ in range(count):
            name, number = self._next()
            pid = cheap_machine(number)
            arguments: tuple[Any, ...] = (name, b"", "bench", "container", pid, str(ROOT), [])
            seconds, _ = self.wire.call(MANAGER, "CreateMachine", f"{REGISTER}a(sv)", *arguments)
            times.append(seconds)
            self.wire.call(MANAGER, "TerminateMachine", "s", name)
            os.waitpid(pid, 0)
            self._gone(name)
        return times

    def _gone(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                self.wire.call(MANAGER, "GetMachine", "s", name)
            except RuntimeError:
                return
            time.sleep(0.01)
        raise RuntimeError(f"machine '{name}' does not end")

    def register(self, count: int) -> list[float]:
        """RegisterMachine of one process again and again."""
        make_root()
        name, number = self._next()
        pid = cheap_machine(number)
        arguments = (name, b"", "bench", "container", pid, str(ROOT))
        times = []
        try:
            for _ in range(count):
                times.append(self.wire.call(MANAGER, "RegisterMachine", REGISTER, *arguments)[0])
                self.wire.call(MANAGER, "UnregisterMachine", "s", name)
                self._gone(name)
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        return times

    def start(self, name: str, by: str) -> float:
        """From the call that starts a machine to the word that its job is done."""
        address, member, signature, body = {
            "ours": (OURS, "StartMachine", "sa{sv}", (name, {})),
            "stock": (SYSTEMD1, "StartUnit", "ss", (f"systemd-nspawn@{name}.service", "fail")),
        }[by]
        rule = f"type='signal',interface='{address.interface}',member='JobRemoved'"
        self.wire.call(DRIVER, "AddMatch", "s", rule)
        if by == "stock":
            with contextlib.suppress(RuntimeError):
                self.wire.call(SYSTEMD1, "Subscribe")
        self.wire.signals.clear()
        begin = time.perf_counter()
        _, (job,) = self.wire.call(address, member, signature, *body)

        def ends(message: Any) -> bool:
            return bool(message.header.fields.get(3) == "JobRemoved" and message.body[1] == job)

        done = [message for message in self.wire.signals if ends(message)]
        end, message = (time.perf_counter(), done[0]) if done else self.wire.wait(ends)
        self.wire.call(DRIVER, "RemoveMatch", "s", rule)
        if "done" not in message.body:
            log = ["journalctl", "--no-pager", "-n", "15", "-u", f"*{name}*"]
            said = subprocess.run(log, capture_output=True, text=True, check=False).stdout
            raise RuntimeError(f"the start of '{name}' ended with {message.body}: {said}")
        return end - begin

    def clone(self, source: str, by: str, count: int) -> list[float]:
        """CloneImage alone, of ours as cheap as it can; the clones are removed again."""
        times = []
        wish: object = False
        address, signature = MANAGER, "ssb"
        if by != "stock":
            address, signature, wish = OURS, "ssa{sv}", {}
        for _ in range(count):
            name, _ = self._next()
            times.append(self.wire.call(address, "CloneImage", signature, source, name, wish)[0])
            self.wire.call(MANAGER, "RemoveImage", "s", name)
        return times

    def each(self, argv: list[str], undo: list[str], count: int) -> list[float]:
        """Wall clock of a command with a new number for `{}` each time; another one takes it back."""
        times = []
        for _ in range(count):
            number = str(self._next()[1])
            times += self.run([word.replace("{}", number) for word in argv], 1)
            self.run([word.replace("{}", number) for word in undo], 1)
        return times

    def ask(self, member: str, count: int) -> list[float]:
        """A method of the manager without arguments, again and again."""
        return [self.wire.call(MANAGER, member)[0] for _ in range(count)]

    def run(self, argv: list[str], count: int, expect: int = 0) -> list[float]:
        """Wall clock of a command, its output read; which has to have so many lines at least."""
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE
            )
            times.append(time.perf_counter() - begin)
            if done.returncode or len(done.stdout.splitlines()) < expect:
                raise RuntimeError(f"{argv} ends with {done.returncode}: {done.stdout[-500:]}{done.stderr}")
        return times

    def shell(self, argv: list[str], count: int) -> list[float]:
        """Wall clock of a command on a terminal, as a shell in a machine is."""
        times = []
        for _ in range(count):
            master, slave = os.openpty()
            begin = time.perf_counter()
            with subprocess.Popen(
                argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
            ) as process:
                os.close(slave)
                said = b""
                with contextlib.suppress(OSError):
                    while data := os.read(master, 65536):
                        said += data
                status = process.wait(PATIENCE)
            times.append(time.perf_counter() - begin)
            os.close(master)
            if status:
                raise RuntimeError(f"{argv} ends with {status}: {said.decode(errors='replace')}")
        return times

    def owner(self) -> str:
        """Who has the name of the service."""
        return str(self.wire.call(DRIVER, "GetNameOwner", "s", MACHINE1)[1][0])

    def ready(self) -> bool:
        """Wait until the daemon answers, and has no more to do."""
        self.wire.call(MANAGER, "ListMachines")
        pid = self._pid()
        deadline = time.monotonic() + PATIENCE
        quiet = 0
        while time.monotonic() < deadline and quiet < 4:
            before = _busy(pid)
            time.sleep(0.5)
            quiet = quiet + 1 if _busy(pid) - before < 0.02 else 0
        return quiet > 0

    def _pid(self) -> int:
        return int(self.wire.call(DRIVER, "GetConnectionUnixProcessID", "s", self.owner())[1][0])

    def idle(self, seconds: float) -> list[float]:
        """The daemon's memory (MB), and its CPU time (ms) in so many seconds of rest."""
        pid = self._pid()
        before = _busy(pid)
        time.sleep(seconds)
        status = Path(f"/proc/{pid}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        return [rss / 1024, (_busy(pid) - before) * 1000]

    def flood(self, clients: int, seconds: float, depth: int) -> dict[str, Any]:
        """Clients that ask for the list again and again, `depth` calls ahead of the answers."""
        owner = self.owner()
        socks = [open_dbus_connection("SYSTEM").sock for _ in range(clients)]
        call = new_method_call(MANAGER, "ListMachines")
        served, buffers = [0] * clients, [bytearray() for _ in range(clients)]
        serials = [100] * clients
        poll = select.epoll()
        for index, sock in enumerate(socks):
            poll.register(sock.fileno(), select.EPOLLIN)
            for _ in range(depth):
                serials[index] += 1
                sock.sendall(call.serialise(serial=serials[index]))
        index_of = {sock.fileno(): index for index, sock in enumerate(socks)}
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(left):
                index = index_of[fd]
                data = socks[index].recv(1 << 20)
                if not data:
                    raise RuntimeError("a client was thrown off the bus")
                buffer = buffers[index]
                buffer += data
                while (length := _length(buffer)) and len(buffer) >= length:
                    is_answer = buffer[1] == 2
                    del buffer[:length]
                    if is_answer:
                        served[index] += 1
                        serials[index] += 1
                        socks[index].sendall(call.serialise(serial=serials[index]))
        for sock in socks:
            sock.close()
        return {"served": served, "kept": self.owner() == owner}

    def stop(self, name: str) -> None:
        """Power a machine off, and wait until its unit is over and nothing of it is left."""
        ticks = 0
        units = [f"systemd-nspawn@{name}.service", f"machine-{name}.service"]
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if ticks % 10 == 0:  # its init may not have got as far as to hear it
                with contextlib.suppress(RuntimeError):
                    self.wire.call(MANAGER, "KillMachine", "ssi", name, "leader", signal.SIGRTMIN + 4)
            ticks += 1
            states = subprocess.run(
                ["systemctl", "is-active", *units], capture_output=True, text=True, check=False
            ).stdout.split()
            link = Path(f"/sys/class/net/ve-{name}")  # the kernel takes it away some time later
            alive = {"active", "activating", "deactivating"} & set(states)
            if not alive and not link.exists():
                subprocess.run(["systemctl", "reset-failed", *units], capture_output=True, check=False)
                return self._gone(name)
            time.sleep(0.05)
        raise RuntimeError(f"machine '{name}' does not stop")


def _length(buffer: bytearray) -> int:
    """Of the message at the start (D-Bus specification, "Message Format"); 0 when too little is there."""
    if len(buffer) < 16:
        return 0
    body, _, fields = struct.unpack("<3I", bytes(buffer[4:16]))
    return int(16 + (fields + 7) // 8 * 8 + body)


def _busy(pid: int) -> float:
    """CPU seconds of a process so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    bench = Bench()
    for line in sys.stdin:
        command, arguments = json.loads(line)
        try:
            answer = {"ok": getattr(bench, command)(**arguments)}
        except Exception as error:  # the other side decides what becomes of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
