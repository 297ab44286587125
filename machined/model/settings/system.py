# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of values that the kernel has a say in: signals, capabilities, limits, users, processors."""

from __future__ import annotations

import os
import re
import signal
from typing import Final

from machined.model.settings import kinds
from machined.model.settings.kinds import Kind

# capabilities(7), by number.
CAPABILITIES: Final = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
    "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM",
    "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
_MAX_CAPABILITY: Final = 62
# What a machine of each kind can pretend to be, in systemd's names.
_PERSONALITIES: Final = {
    "x86_64": ("x86-64", "x86"),
    "i686": ("x86",),
    "aarch64": ("arm64", "arm"),
    "ppc64": ("ppc64", "ppc"),
    "ppc64le": ("ppc64-le", "ppc-le"),
    "s390x": ("s390x", "s390"),
    "riscv64": ("riscv64",),
}
_RANGE_MAX: Final = 0xFFFF_FFFF


def capability(text: str) -> str:
    """CAP_NAME, or 'all'."""
    if text.lower() == "all":
        return "all"
    name = text.upper().removeprefix("CAP_")
    if text.upper().startswith("CAP_") and name in CAPABILITIES:
        return f"CAP_{name}"
    if text.isdecimal() and len(text) < 3 and int(text) <= _MAX_CAPABILITY:
        return f"CAP_{CAPABILITIES[int(text)]}" if int(text) < len(CAPABILITIES) else text
    raise ValueError(f"'{text}' is no capability; capabilities(7) has them, as CAP_NET_ADMIN, or say 'all'")


CAPABILITY: Final = Kind(
    "CAP_…", capability, words=True, choices=("all", *(f"CAP_{name}" for name in CAPABILITIES))
)


def signal_name(text: str) -> str:
    """SIGNAME, or SIGRTMIN+n."""
    name = text.upper().removeprefix("SIG")
    if name.isdecimal() and len(name) < 3:
        value = int(name)
        if 0 < value < signal.SIGRTMIN and value in {int(s) for s in signal.Signals}:
            return signal.Signals(value).name
        if signal.SIGRTMIN <= value <= signal.SIGRTMAX:
            return _realtime(value - signal.SIGRTMIN)
    elif f"SIG{name}" in signal.Signals.__members__:
        return f"SIG{name}"
    elif found := re.fullmatch(r"RTM(IN\+|AX-)([0-9]{1,2})", name):
        step = int(found[2])
        span = signal.SIGRTMAX - signal.SIGRTMIN
        if step <= span:
            return _realtime(step if found[1] == "IN+" else span - step)
    raise ValueError(f"'{text}' is no signal; signal(7) has them, as SIGTERM or SIGRTMIN+3")


def _realtime(step: int) -> str:
    return f"SIGRTMIN+{step}" if step else "SIGRTMIN"


SIGNAL: Final = Kind("SIGNAL", signal_name, choices=("SIGTERM", "SIGRTMIN+3", "SIGRTMIN+4", "SIGUSR2"))


def machine_id(text: str) -> str:
    """32 digits."""
    value = text.lower().replace("-", "") if re.fullmatch(r"[0-9a-fA-F-]+", text) else ""
    if len(value) == 32 and value.strip("0") and (len(text) in {32, 36}):
        return value
    raise ValueError("must be 32 hexadecimal digits, not all zero (systemd-id128 new)")


MACHINE_ID: Final = Kind("ID", machine_id)


def users(text: str) -> str:
    """A word, or FIRST:COUNT."""
    if text in {"pick", "identity", "managed"}:
        return text
    if not re.fullmatch(r"[0-9]{2,}(:[0-9]+)?|[0-9]:[0-9]+", text):
        try:
            return kinds.boolean(text)
        except ValueError:
            pass
    first, colon, count = text.partition(":")
    if first.isdecimal() and (not colon or count.isdecimal()):
        base, size = int(first), int(count or 65536)
        if size and base + size <= _RANGE_MAX:
            return f"{base}:{size}"
    raise ValueError("must be 'pick', 'no', 'yes', 'identity', 'managed', or FIRST[:COUNT]")


USERS: Final = Kind("USERS", users, choices=("pick", "no", "yes", "identity", "managed"))
_SIZE = r"(infinity|[0-9]+(\.[0-9]+)?[KMGTPE]?)"
_TIME = r"(infinity|([0-9]+(\.[0-9]+)?(us|ms|s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?|w|weeks?)?)+)"
_COUNT = r"(infinity|[0-9]+)"
_NICE = r"(infinity|[+-]?[0-9]+)"
RLIMITS: Final = {
    "CPU": _TIME, "FSIZE": _SIZE, "DATA": _SIZE, "STACK": _SIZE, "CORE": _SIZE, "RSS": _SIZE,
    "NOFILE": _COUNT, "AS": _SIZE, "NPROC": _COUNT, "MEMLOCK": _SIZE, "LOCKS": _COUNT, "SIGPENDING": _COUNT,
    "MSGQUEUE": _SIZE, "NICE": _NICE, "RTPRIO": _COUNT, "RTTIME": _TIME,
}  # fmt: skip
_EXAMPLE: Final = {_SIZE: "512M", _TIME: "10min", _COUNT: "1024", _NICE: "10"}


def rlimit(name: str) -> Kind:
    """A limit, or SOFT:HARD."""
    one = RLIMITS[name]
    valid = f"a limit as '{_EXAMPLE[one]}' or 'infinity', or two as SOFT:HARD"
    return kinds.matching(f"{one}(:{one})?", valid, shown="LIMIT[:LIMIT]")


def _processors(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", text):
        raise ValueError("must be processors and ranges of them, as '0-3,8'")
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise ValueError(f"the range '{part}' ends before it begins")
    return text


PROCESSORS: Final = Kind("CPUS", _processors, words=True)
PERSONALITY: Final = kinds.one_of(
    *_PERSONALITIES.get(os.uname().machine, (os.uname().machine,)), shown="ARCHITECTURE"
)
FAMILIES: Final = kinds.matching(
    r"none|~?AF_[A-Z0-9_]+", "'none', or address families as AF_INET, after ~ for all but these",
    shown="[~]AF_…", words=True,
)  # fmt: skip
SYSTEM_CALLS: Final = kinds.matching(
    r"~?@?[a-z0-9_-]+(:[A-Za-z0-9]+)?",
    "system calls or @groups of them (systemd-analyze syscall-filter), after ~ to prohibit these",
    shown="[~]CALL…", words=True,
)  # fmt: skip
USER: Final = kinds.matching(
    r"[0-9]{1,10}|[A-Za-z0-9_][A-Za-z0-9_.-]{0,255}\$?", "a user's name or number", shown="USER"
)
