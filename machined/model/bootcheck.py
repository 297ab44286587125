# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a tree can be booted as a machine and be logged in to, and what is missing if not.

`preflight` asks only what would keep a start from succeeding; this is for the moment a tree is made.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from machined.linux.treelook import Facts
from machined.linux.worker import Workers
from machined.model.preflight import INIT_PATHS, OS_RELEASE_PATHS


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # it boots, but not everything will work
    MISSING = "missing"  # it does not boot, or nobody gets in


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it."""

    what: str
    level: Level
    hint: str


# Programs by their names, in any of the places for them.
_BIN: Final = ("usr/bin", "usr/sbin", "bin", "sbin")
_SYSTEMD: Final = ("usr/lib/systemd/systemd", "lib/systemd/systemd")
_UNITS: Final = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_CONSOLES: Final = ("console-getty.service", "container-getty@.service")
_LOGIND: Final = ("usr/lib/systemd/systemd-logind", "lib/systemd/systemd-logind")
_NETWORKD: Final = ("usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd")
_NETWORK_ENABLED: Final = (
    "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
    "etc/systemd/system/dbus-org.freedesktop.network1.service",
    "etc/systemd/system/sockets.target.wants/systemd-networkd.socket",
)
_OTHER_NETWORK: Final = ("ifup", "NetworkManager", "dhcpcd", "connmand")
_LIBRARIES: Final = ("usr/lib", "lib", "usr/lib64", "lib64")
_PAM: Final = "security/pam_systemd.so"
_PROGRAMS: Final = ("dbus-daemon", "dbus-broker", "agetty", "login", "sshd", *_OTHER_NETWORK)
_FILES: Final = ("etc/shadow", "etc/passwd", "etc/machine-id", "etc/securetty", "etc/inittab")
_KEYS: Final = "root/.ssh/authorized_keys"
_LIMIT: Final = 64 * 1024
_LIBRARY_DIRECTORIES: Final = 64

# e_machine of ELF files, <elf.h>.
_ARCHITECTURES: Final = {
    3: "x86", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86-64", 183: "arm64",
    243: "riscv", 258: "loongarch",
}  # fmt: skip
_RUNS: Final = {("x86-64", "x86"), ("arm64", "arm"), ("ppc64", "ppc")}
"""Which programs a host runs besides its own: (host, tree)."""


def _places(program: str) -> list[str]:
    return [f"{directory}/{program}" for directory in _BIN]


async def check(trees: Sequence[str], workers: Workers) -> list[Finding]:
    """Look at a tree, or at layers; nothing in it is run or trusted. OSError when there is none."""
    paths = [
        *INIT_PATHS, *OS_RELEASE_PATHS, *_SYSTEMD, *_LOGIND, *_NETWORKD, *_NETWORK_ENABLED, _KEYS,
        *itertools.chain.from_iterable(map(_places, _PROGRAMS)),
        *(f"{directory}/{unit}" for directory in _UNITS for unit in (*_CONSOLES, "dbus.service")),
    ]  # fmt: skip
    files = [*_FILES, *INIT_PATHS]
    look = "machined.linux.treelook:look"
    facts: Facts = await workers.run(look, list(trees), paths, files, list(_LIBRARIES), _LIMIT)
    # The directory of a library is named after its architecture, which is to be found out first.
    where = [
        f"{top}/{name}"
        for top, names in facts[2].items()
        for name in [n for n in names if "-linux-" in n][:_LIBRARY_DIRECTORIES]
    ]
    modules = [f"{directory}/{_PAM}" for directory in (*_LIBRARIES, *where)]
    more: Facts = await workers.run(look, list(trees), modules, [], [], _LIMIT)
    return list(findings(Tree({**facts[0], **more[0]}, facts[1]), host_architecture()))


@functools.cache
def host_architecture() -> str:
    """What our own interpreter is made for."""
    with open("/proc/self/exe", "rb") as own:
        return architecture(own.read(20))


@dataclass(frozen=True, slots=True)
class Tree:
    """The facts of a tree: what its paths are, and how its files begin."""

    kinds: Mapping[str, str]
    files: Mapping[str, bytes]

    def has(self, paths: Sequence[str], *kinds: str) -> bool:
        return any(self.kinds.get(path, "") in (kinds or ("program", "file")) for path in paths)

    def program(self, *names: str) -> bool:
        return any(self.has(_places(name), "program") for name in names)

    def unit(self, name: str) -> bool:
        """Whether there is a unit of this name, and nobody has masked it."""
        for directory in _UNITS:
            kind = self.kinds.get(f"{directory}/{name}", "")
            if kind:
                return kind != "null"
        return False

    def lines(self, path: str) -> list[str]:
        return self.files.get(path, b"").decode(errors="replace").splitlines()


def findings(tree: Tree, host: str) -> Iterator[Finding]:
    """What can be said of a tree with these facts, on a host of this architecture."""
    yield _finding(
        "os-release",
        tree.has(OS_RELEASE_PATHS),
        "It has neither /etc/os-release nor /usr/lib/os-release: is this the top of a system's tree?",
    )
    init = next((path for path in INIT_PATHS if tree.kinds.get(path) == "program"), "")
    yield _finding("init", bool(init), "Nothing in it can boot: install systemd (Debian: systemd-sysv).")
    yield from _architecture(architecture(tree.files.get(init, b"")), host)
    if tree.has(_SYSTEMD, "program"):
        yield from _of_systemd(tree)
    elif init:
        yield from _of_another_init(tree)
    yield from _ways_in(tree)


def _finding(what: str, good: bool, hint: str, otherwise: Level = Level.MISSING) -> Finding:
    return Finding(what, Level.OK, "") if good else Finding(what, otherwise, hint)


def _architecture(tree: str, host: str) -> Iterator[Finding]:
    if tree and host:
        yield _finding(
            "architecture",
            tree == host or (host, tree) in _RUNS,
            f"Its programs are for {tree}, and the host is {host}: it boots only where binfmt_misc and a "
            f"static qemu-user can run them.",
            Level.WARN,
        )


def _of_systemd(tree: Tree) -> Iterator[Finding]:
    yield _finding(
        "dbus",
        tree.program("dbus-daemon", "dbus-broker") and tree.unit("dbus.service"),
        "'machinectl login' and 'shell' talk to the guest over its D-Bus: install dbus or dbus-broker.",
    )
    yield _finding(
        "logind",
        tree.has(_LOGIND, "program"),
        "Without systemd-logind there are no sessions, and no clean power-off from inside: install it.",
        Level.WARN,
    )
    yield _finding(
        "pam_systemd",
        any(kind in {"file", "program"} for path, kind in tree.kinds.items() if path.endswith(_PAM)),
        "Logins get no session of logind's: install pam_systemd (Debian: libpam-systemd).",
        Level.WARN,
    )
    yield _finding(
        "getty",
        tree.program("agetty") and any(map(tree.unit, _CONSOLES)),
        "'machinectl login' starts agetty by container-getty@.service, which is missing or masked: install "
        "util-linux, or 'systemctl unmask console-getty.service'.",
    )
    yield _finding("login", tree.program("login"), "There is no program 'login' to log in with: install it.")
    network = tree.has(_NETWORK_ENABLED) or tree.program(*_OTHER_NETWORK)
    have = tree.has(_NETWORKD, "program")
    yield _finding(
        "network",
        network,
        "Nothing in it sets up host0, so it gets no address: "
        + ("" if have else "install systemd-networkd, then ")
        + "'systemctl enable systemd-networkd' in it.",
        Level.WARN,
    )


def _of_another_init(tree: Tree) -> Iterator[Finding]:
    yield Finding(
        "systemd",
        Level.WARN,
        "Its init is not systemd: it boots, but 'machinectl login' and 'shell', and a state beyond "
        "'starting', need systemd and D-Bus in the guest.",
    )
    inittab = tree.lines("etc/inittab")
    if inittab:
        yield _finding(
            "getty",
            any(" console" in line and "getty" in line and line[:1] != "#" for line in inittab),
            "No getty on the console: in /etc/inittab disable those of tty1 to tty6, and add "
            "'x1:12345:respawn:/sbin/agetty 38400 console linux'.",
            Level.WARN,
        )


def _ways_in(tree: Tree) -> Iterator[Finding]:
    root = _fields(tree.lines("etc/passwd"))
    yield _finding("root", bool(root), "/etc/passwd knows no root, so nobody can log in.")
    secret = (_fields(tree.lines("etc/shadow")) or root or ["", "!"])[1]
    if root:
        yield _finding(
            "password",
            secret == "" or secret[0] not in "!*x",
            "root has no password to log in with: give one with --root-password; 'machinectl shell NAME' "
            "needs none.",
            Level.WARN,
        )
    if _KEYS in tree.kinds and tree.kinds[_KEYS] in {"file", "program"}:
        yield _finding(
            "sshd",
            tree.program("sshd"),
            "root has an SSH key, but there is no sshd: install openssh-server (with include=).",
            Level.WARN,
        )
    secure = tree.lines("etc/securetty")
    if "etc/securetty" in tree.files:
        yield _finding(
            "securetty",
            any(line.startswith("pts/") for line in secure),
            "/etc/securetty lets root log in on none of pts/…: add 'pts/0' to 'pts/9', or remove the file.",
            Level.WARN,
        )
    identity = "".join(tree.lines("etc/machine-id")).strip()
    yield _finding(
        "machine-id",
        identity in {"", "uninitialized"},
        "It has a machine-id already: a copy of a machine needs one of its own, empty /etc/machine-id in it "
        "unless it was never booted elsewhere.",
        Level.WARN,
    )


def _fields(lines: list[str]) -> list[str]:
    found = next((line for line in lines if line.startswith("root:")), "")
    return found.split(":") if found.count(":") >= 2 else []


def architecture(beginning: bytes) -> str:
    """What an ELF file is made for; empty for what is none, or is not known."""
    if beginning[:4] != b"\x7fELF" or len(beginning) < 20:
        return ""
    order = ">" if beginning[5] == 2 else "<"
    (machine,) = struct.unpack_from(f"{order}H", beginning, 18)
    return _ARCHITECTURES.get(machine, "")


def missing(found: Sequence[Finding]) -> list[Finding]:
    """Those that keep a machine from booting, or everybody out."""
    return [finding for finding in found if finding.level is Level.MISSING]
