# SPDX-License-Identifier: LGPL-2.1-or-later
"""Profiles that come with machined: what certain programs need, as plain settings, fit for this host.

An administrator's profile of the same name is instead of one of these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ORIGIN: Final = "preset {}"
"""Where values of a preset come from, in place of a file."""
_TABLE_MAX: Final = 16 * 1024 * 1024
"""Bytes of the kernel's table of sockets."""
_LISTENS: Final = "00010000"
"""The flag of a socket that waits for connections."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a preset may look at: the version of systemd, and files below `root`."""

    version: int
    root: Path = Path("/")

    def has(self, path: str) -> bool:
        return (self.root / path.lstrip("/")).exists()

    def sockets(self, pattern: str) -> list[str]:
        """The paths of sockets that somebody listens at and that match as a whole, sorted.

        By the kernel's own table, proc_net(5): the directories belong to users, and whoever looks into them
        waits for what they have mounted there.
        """
        try:
            with open(self.root / "proc/net/unix", "rb") as file:
                lines = file.read(_TABLE_MAX).decode(errors="replace").splitlines()
        except OSError:
            return []
        found = {
            fields[7] for line in lines if len(fields := line.split(None, 7)) == 8 and fields[3] == _LISTENS
        }
        return sorted(path for path in found if re.fullmatch(pattern, path))


class NotHereError(Exception):
    """The host lacks what a preset is about; the text says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Preset:
    """What it is for, and its lines: "Section.Key=value"."""

    help: str
    lines: Callable[[Host], Iterator[str]]


def text(name: str, host: Host) -> str | None:
    """A preset as the text of a file, None when there is none of this name. Raises NotHereError."""
    preset = PRESETS.get(name)
    if preset is None:
        return None
    written = [f"# {preset.help}"]
    section = ""
    for line in preset.lines(host):
        where, _, assignment = line.partition(".")
        written += [f"[{where}]"] if where != section else []
        written.append(assignment)
        section = where
    return "".join(f"{line}\n" for line in written)


def _gpu(host: Host) -> Iterator[str]:
    if not host.has("/dev/dri"):
        raise NotHereError(
            "this host has no /dev/dri: no graphics driver is loaded ('nvidia' is for NVIDIA's own)"
        )
    yield "Machine.Device=/dev/dri"
    # Computing on cards of AMD.
    if host.has("/dev/kfd"):
        yield "Machine.Device=/dev/kfd"


def _nvidia(host: Host) -> Iterator[str]:
    yield "Machine.Device=nvidia.com/gpu=all"


def _x11(host: Host) -> Iterator[str]:
    displays = host.sockets(r"/tmp/\.X11-unix/X[0-9]{1,5}")
    if not displays:
        raise NotHereError("no X server of this host listens in /tmp/.X11-unix")
    yield f"Exec.Environment=DISPLAY=:{min(int(path.rpartition('X')[2]) for path in displays)}"
    yield "Files.BindReadOnly=/tmp/.X11-unix"
    if host.has("/dev/dri"):
        yield "Machine.Device=/dev/dri"


def _wayland(host: Host) -> Iterator[str]:
    displays = host.sockets(r"/run/user/[0-9]{1,10}/wayland-[0-9]{1,5}")
    if len(displays) != 1:
        there = f"{len(displays)} ({', '.join(displays[:10])})" if displays else "no"
        raise NotHereError(
            f"there are {there} Wayland displays in /run/user: bind the right one by hand, as "
            f"BindReadOnly=/run/user/1000/wayland-0:/run/host/wayland-0:idmap with "
            f"Environment=WAYLAND_DISPLAY=/run/host/wayland-0"
        )
    yield "Exec.Environment=WAYLAND_DISPLAY=/run/host/wayland-0"
    # It belongs to a user of the host: so that the one with the same number inside may use it.
    yield f"Files.BindReadOnly={displays[0]}:/run/host/wayland-0:idmap"
    if host.has("/dev/dri"):
        yield "Machine.Device=/dev/dri"


def _kvm(host: Host) -> Iterator[str]:
    if not host.has("/dev/kvm"):
        raise NotHereError(
            "this host has no /dev/kvm: its processor cannot, or 'modprobe kvm_intel' (kvm_amd) was not done"
        )
    yield "Machine.Device=/dev/kvm"
    for path in ("/dev/vhost-net", "/dev/vhost-vsock"):
        if host.has(path):
            yield f"Machine.Device={path}"


def _fuse(host: Host) -> Iterator[str]:
    if not host.has("/dev/fuse"):
        raise NotHereError("this host has no /dev/fuse: 'modprobe fuse'")
    yield "Machine.Device=/dev/fuse"


def _tun(host: Host) -> Iterator[str]:
    if not host.has("/dev/net/tun"):
        raise NotHereError("this host has no /dev/net/tun: 'modprobe tun'")
    yield "Machine.Device=/dev/net/tun"


def _nesting(host: Host) -> Iterator[str]:
    # What container engines ask the kernel for, and systemd-nspawn's filter refuses.
    yield "Exec.SystemCallFilter=add_key keyctl bpf"
    # The kernel lets nobody mount a /proc or /sys of a namespace where none is to be seen as a whole; what
    # is mounted on the host's is not needed.
    yield "Files.Bind=/proc:/run/proc:norbind"
    yield "Files.Bind=/sys:/run/sys:norbind"
    if host.has("/dev/fuse"):
        yield "Machine.Device=/dev/fuse"


def _hardened(host: Host) -> Iterator[str]:
    yield "Exec.PrivateUsers=pick"
    yield "Exec.NoNewPrivileges=yes"
    yield (
        "Exec.DropCapability=CAP_AUDIT_CONTROL CAP_AUDIT_WRITE CAP_LEASE CAP_LINUX_IMMUTABLE CAP_MKNOD "
        "CAP_SYS_TTY_CONFIG"
    )
    yield "Exec.SystemCallFilter=~@clock @module @raw-io @swap @cpu-emulation @obsolete bpf perf_event_open"
    yield "Exec.LimitCORE=0"
    yield "Service.MemorySwapMax=0"


PRESETS: Final = {
    "fuse": Preset("File systems of user space", _fuse),
    "gpu": Preset("Graphics cards: drawing and computing through /dev/dri", _gpu),
    "hardened": Preset("Fewer privileges than a system usually has", _hardened),
    "kvm": Preset("Virtual machines inside", _kvm),
    "nesting": Preset("Containers inside: systemd-nspawn, podman, Docker, bubblewrap", _nesting),
    "nvidia": Preset("NVIDIA's cards, as their CDI file describes them", _nvidia),
    "tun": Preset("Tunnels: VPNs inside", _tun),
    "wayland": Preset("Windows on the host's Wayland display", _wayland),
    "x11": Preset("Windows on the host's X display", _x11),
}
