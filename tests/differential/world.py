# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a case has at hand inside the host: calls that note their answers, processes, a look at the files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.differential import wire
from tests.differential.normal import Normal
from tests.differential.wire import Bus

RECORDS: Final = Path("/run/systemd/machines")
MANAGER: Final = "org.freedesktop.machine1.Manager"
MACHINE: Final = "org.freedesktop.machine1.Machine"
IMAGE: Final = "org.freedesktop.machine1.Image"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"
ROOT: Final = wire.ROOT

# The users that run the script: the administrator, somebody whom polkit asks to prove that, and somebody
# whom a rule of polkit lets do everything.
SUPER, USER, TRUSTED = "root", "tester", "trusted"
EVERYBODY: Final = (SUPER, USER, TRUSTED)


@dataclass(slots=True)
class World:
    """One user's run of the script with one daemon."""

    user: str
    version: int
    since: int
    labels: dict[int, str] = field(default_factory=dict)
    answers: list[Any] = field(default_factory=list)
    bus: Bus = field(default_factory=Bus)
    normal: Normal = field(init=False)

    def __post_init__(self) -> None:
        self.label(os.getpid(), "<caller>")
        self.normal = Normal(self.labels, self.since)

    # -- noting --------------------------------------------------------------------------------------------

    def note(self, answer: Any) -> None:
        self.answers.append(self.normal.value(answer))

    def label(self, pid: int, text: str) -> None:
        """Call a process by this name in answers, by its pid and by the inode number of its pidfd."""
        self.labels[pid] = text
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            self.labels[os.fstat(fd).st_ino] = f"{text} pidfd"
        finally:
            os.close(fd)

    # -- asking --------------------------------------------------------------------------------------------

    def call(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        *body: Any,
        flags: int = 0,
        seconds: float = wire.SECONDS,
    ) -> dict[str, Any]:
        """A D-Bus call, noted; the answer as it came."""
        answer = self.bus.call(path, interface, member, signature, body, flags=flags, seconds=seconds)
        if "timeout" in answer:
            self.bus.close()
            self.bus = Bus()
        self.note(answer)
        return answer

    def manager(self, member: str, signature: str = "", *body: Any, flags: int = 0) -> dict[str, Any]:
        return self.call(ROOT, MANAGER, member, signature, *body, flags=flags)

    def in_scope(self, name: str) -> bool:
        """Whether a machine has a scope of its own: what ends the unit of another one may end the caller."""
        path = f"{ROOT}/machine/{name.replace('-', '_2d')}"
        answer = self.bus.call(path, PROPERTIES, "Get", "ss", (MACHINE, "Unit"))
        return "reply" in answer and str(answer["reply"][1][0][1]).endswith(".scope")

    @staticmethod
    def settle(name: str) -> None:
        """Wait until PID 1 has made the scope of a machine: not every reply waits for that."""
        deadline = time.monotonic() + wire.SECONDS
        record = RECORDS / name
        while record.exists() and "\nSCOPE_JOB=" in record.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)

    def fence(self) -> None:
        """Note the signals that the daemon has sent by now."""
        answer = self.bus.call(ROOT, wire.PEER, "Ping")
        self.note({"signals": answer.get("signals", [])})

    def gone(self, name: str) -> None:
        """Wait until a machine has been removed, and note the signals up to then."""
        self.note(self.bus.wait_signal("MachineRemoved", name))

    def introspect(self, path: str) -> None:
        """Note each interface, member, argument, annotation and child of an object as a line, in order."""
        answer = self.bus.call(path, INTROSPECTABLE, "Introspect")
        if "reply" in answer:
            self.note(list(members(answer["reply"][1][0])))
        else:
            self.note(answer)

    def varlink(
        self,
        path: str,
        *frames: dict[str, Any] | bytes,
        fds: tuple[int, ...] = (),
        fence: bool = True,
        seconds: float = 3,
    ) -> list[Any]:
        """Frames (objects, or bytes as they are) sent to a socket at once, noted."""
        data = [f if isinstance(f, bytes) else json.dumps(f).encode() + b"\0" for f in frames]
        answers = wire.varlink(path, data, list(fds), fence=fence, seconds=seconds)
        self.note(answers)
        return answers

    def program(self, *argv: str, seconds: float = 30, note: bool = True) -> str:
        """Run a program; its exit status and output are noted."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "SYSTEMD_COLORS": "0",
            "SYSTEMD_PAGER": "", "COLUMNS": "160", "HOME": "/", "SYSTEMD_URLIFY": "0",
        }  # fmt: skip
        try:
            done = subprocess.run(
                argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            self.note({"timeout": seconds})
            return ""
        if note:
            self.note({"status": done.returncode, "out": done.stdout, "err": done.stderr})
        return done.stdout

    # -- looking -------------------------------------------------------------------------------------------

    def records(self, *names: str) -> None:
        """Note the files about machines in /run/systemd/machines: type, mode, owner, and what is in them."""
        found: list[Any] = []
        for path in sorted(RECORDS.iterdir()):
            link = os.readlink(path) if path.is_symlink() else ""
            if path.name not in names and link not in names:
                continue
            status = path.lstat()
            head = [path.name, stat.filemode(status.st_mode), status.st_uid, status.st_gid]
            content = link or path.read_text(encoding="utf-8", errors="replace").splitlines()
            found.append([*head, content])
        self.note({"records": found})

    def machines(self) -> None:
        """Note which machines there are; the order of the table means nothing."""
        answer = self.bus.call(ROOT, MANAGER, "ListMachines")
        self.note({"machines": sorted(answer["reply"][1][0])} if "reply" in answer else answer)

    def unit(self, name: str, *properties: str) -> None:
        """Note properties of a unit of the host."""
        self.program("systemctl", "show", name, *(f"--property={name}" for name in properties))

    def tree(self, directory: str) -> None:
        """Note names, types, modes, owners and contents below a directory."""
        found = []
        for path in sorted(Path(directory).rglob("*")):
            status = path.lstat()
            content = ""
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file() and status.st_size < 200:
                content = path.read_text(encoding="utf-8", errors="replace")
            name = str(path.relative_to(directory))
            found.append([name, stat.filemode(status.st_mode), status.st_uid, status.st_gid, content])
        self.note({"tree": found})

    # -- processes -----------------------------------------------------------------------------------------

    def service(self, unit: str, label: str) -> int:
        """Start a service that only sleeps; its main process, which answers call by the label."""
        run = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", "--", "sleep", "3600"]
        subprocess.run(run, check=True, timeout=30, capture_output=True)
        show = ["systemctl", "show", "--value", "--property=MainPID", unit]
        pid = int(subprocess.run(show, check=True, timeout=30, capture_output=True, text=True).stdout)
        self.label(pid, label)
        return pid

    @staticmethod
    def stop(*units: str) -> None:
        """Stop units without a word, and forget about those that had failed."""
        for verb in ("stop", "reset-failed"):
            subprocess.run(["systemctl", verb, *units], check=False, timeout=60, capture_output=True)

    @contextmanager
    def child(self, label: str) -> Iterator[int]:
        """A process of the caller's, in the caller's unit."""
        quiet = subprocess.DEVNULL  # or it keeps the pipes open if it outlives the caller
        with subprocess.Popen(["sleep", "3600"], stdout=quiet, stderr=quiet) as process:
            self.label(process.pid, label)
            try:
                yield process.pid
            finally:
                process.kill()


def members(text: str) -> Iterator[str]:
    """The introspection of an object, flat. Interfaces of our own are left out: stock has none."""
    node = ElementTree.fromstring(text)
    # Children come in the order of a hash table.
    yield from sorted(f"{child.tag} {child.attrib}" for child in node if child.tag != "interface")
    for child in node.iter("interface"):
        interface = child.attrib["name"]
        if interface.startswith("org.machined1."):
            continue
        yield f"interface {interface}"
        for member in child:
            yield f"{interface} {member.tag} {_attributes(member)}"
            for part in member:
                name = member.attrib.get("name", "")
                yield f"{interface} {member.tag} {name}: {part.tag} {_attributes(part)}"


def _attributes(element: ElementTree.Element) -> str:
    return " ".join(f"{key}={value!r}" for key, value in element.attrib.items())


@dataclass(frozen=True, slots=True)
class Case:
    """A name, who runs it, from which version of systemd on and until which, and what is done."""

    name: str
    run: Callable[[World], object]
    who: tuple[str, ...] = EVERYBODY
    since: int = 0
    until: int = 1000


CASES: Final[list[Case]] = []


def add(
    name: str,
    run: Callable[[World], object],
    who: tuple[str, ...] = EVERYBODY,
    since: int = 0,
    until: int = 1000,
) -> None:
    """Add a case to the script. Cases run in the order of adding."""
    assert all(case.name != name for case in CASES), f"there are two cases '{name}'"
    CASES.append(Case(name, run, who, since, until))


def asking(do: Callable[..., object], *arguments: Any, **more: Any) -> Callable[[World], object]:
    """What a case of one step does: a method of World, or a function of one, with these arguments."""

    def run(w: World) -> object:
        return do(w, *arguments, **more)

    return run


def case(
    name: str, who: tuple[str, ...] = (SUPER,), since: int = 0
) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """The decorator for cases of several steps."""

    def register(run: Callable[[World], None]) -> Callable[[World], None]:
        add(name, run, who, since)
        return run

    return register
