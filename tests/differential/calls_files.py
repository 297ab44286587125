# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files between host and machine: bind mounts and copies, with what is there afterwards."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from tests.differential.calls_bus import OBJECTS, TARGETS
from tests.differential.wire import INTERACTIVE
from tests.differential.world import MACHINE, SUPER, TRUSTED, World, add, asking, case

# The leader's root, as the host sees it; nspawn's own mounts are not in the way below /root.
INSIDE: Final = "/root/d"

_FAULTS: Final[dict[str, tuple[str, str]]] = {
    "relative source": ("srv/d", INSIDE),
    "empty source": ("", INSIDE),
    "source with dots": ("/srv/../srv/d", INSIDE),
    "source with slashes": ("/srv//d", INSIDE),
    "relative destination": ("/srv/d", "root/d"),
    "destination with dots": ("/srv/d", "/root/../root/d"),
    "no source": ("/srv/nosuch", INSIDE),
    "no parent": ("/srv/d", "/no/such/parent"),
    "slash": ("/", INSIDE),
    "to slash": ("/srv/d", "/"),
    "long": ("/" + "x" * 5000, INSIDE),
    "trailing slash": ("/srv/d/", INSIDE),
    "newline": ("/srv/d\n", INSIDE),
    "one dot": ("/srv/./d", INSIDE),
}


def _refused(flags: int, w: World) -> None:
    plain = OBJECTS["plain"]
    w.manager("BindMountMachine", "sssbb", "plain", "/srv/d", INSIDE, False, True, flags=flags)
    w.manager("CopyToMachine", "sss", "plain", "/srv/d", INSIDE, flags=flags)
    w.manager("CopyFromMachine", "sss", "plain", "/etc/passwd", "/srv/stolen", flags=flags)
    w.manager("CopyToMachineWithFlags", "ssst", "plain", "/srv/d", INSIDE, 1, flags=flags)
    w.manager("OpenMachineRootDirectory", "s", "plain", flags=flags)
    w.call(plain, MACHINE, "CopyTo", "ss", "/srv/d", INSIDE, flags=flags)
    w.call(plain, MACHINE, "BindMount", "ssbb", "/srv/d", INSIDE, False, True, flags=flags)


def _faults() -> None:
    for label, (source, destination) in _FAULTS.items():
        if label not in {"slash", "to slash", "trailing slash"}:  # they are done, and cannot be undone
            add(
                f"files/bind/{label}",
                asking(
                    World.manager, "BindMountMachine", "sssbb", "plain", source, destination, False, False
                ),
                (SUPER,),
            )
        for method in ("CopyToMachine", "CopyFromMachine"):
            add(
                f"files/{method}/{label}",
                asking(World.manager, method, "sss", "plain", source, destination),
                (SUPER,),
            )
    for target in (*TARGETS, "nosuch"):
        if target not in {"plain", "d-scope"}:
            add(
                f"files/bind/{target}",
                asking(World.manager, "BindMountMachine", "sssbb", target, "/srv/d", INSIDE, False, True),
            )
        for method in ("CopyToMachine", "CopyFromMachine"):
            if target in {".host", "d-vm", "nosuch"}:
                add(
                    f"files/{method}/{target}",
                    asking(World.manager, method, "sss", target, "/srv/d", ""),
                )
    for method in ("CopyToMachineWithFlags", "CopyFromMachineWithFlags"):
        for flags in (2, 1 << 63, 3):
            add(
                f"files/{method}/{flags}",
                asking(World.manager, method, "ssst", "plain", "/srv/nosuch", INSIDE, flags),
            )
    for flags in (0, INTERACTIVE):
        add(
            f"files/refused/{flags}",
            partial(_refused, flags),
            ("tester",),
        )


_faults()


def _root(w: World, target: str) -> str:
    answer = w.bus.call(OBJECTS[target], "org.freedesktop.DBus.Properties", "Get", "ss", (MACHINE, "Leader"))
    return f"/proc/{answer['reply'][1][0][1]}/root"


def _copy(w: World, target: str) -> None:
    root = _root(w, target)
    steps: tuple[tuple[Any, ...], ...] = (
        ("CopyToMachine", "sss", target, "/srv/d", INSIDE),
        ("CopyToMachine", "sss", target, "/srv/d", INSIDE),
        ("CopyToMachineWithFlags", "ssst", target, "/srv/d", INSIDE, 1),
        ("CopyToMachine", "sss", target, "/srv/d/file", "/root/d-file"),
        ("CopyToMachine", "sss", target, "/srv/d/file", "/root/d-file"),
        ("CopyToMachineWithFlags", "ssst", target, "/srv/d/file", "/root/d-file", 1),
        ("CopyFromMachine", "sss", target, INSIDE, "/srv/back"),
        ("CopyFromMachine", "sss", target, INSIDE, "/srv/back"),
        ("CopyFromMachineWithFlags", "ssst", target, "/root/d-file", "/srv/back/file", 1),
        ("CopyToMachine", "sss", target, "/srv/d", "/root/escape/d"),
    )
    w.program("sh", "-c", f"ln -sfn /srv/out {root}/root/escape; mkdir -p /srv/out", note=False)
    for step in steps:
        w.manager(*step)
    w.tree(f"{root}/root")
    w.tree("/srv/back")
    w.tree("/srv/out")
    w.program(
        "sh",
        "-c",
        f"rm -rf {root}/root/d {root}/root/d-file {root}/root/escape /srv/back /srv/out",
        note=False,
    )


for _target in ("plain", "private"):
    add(f"files/copy/{_target}", partial(_copy, target=_target), (SUPER, TRUSTED))


@case("files/bind", (SUPER, TRUSTED))
def _bind(w: World) -> None:
    root = _root(w, "plain")
    leader = root.split("/")[2]
    for destination, read_only, mkdir in (
        ("/root/d", False, False),
        ("/root/d", False, True),
        ("/root/d", True, False),
        ("", False, True),
    ):
        w.manager("BindMountMachine", "sssbb", "plain", "/srv/d", destination, read_only, mkdir)
        w.program(
            "sh", "-c", f"awk '{{print $4, $5, $6}}' /proc/{leader}/mountinfo | grep '/d '; ls /srv/out"
        )
    w.manager("BindMountMachine", "sssbb", "plain", "/srv/d/file", "/root/d-file", False, True)
    w.program("sh", "-c", f"awk '{{print $4, $5, $6}}' /proc/{leader}/mountinfo | grep d-file")
    _unbind(w, leader)


# Run on the host's Python: not every container has an umount(8). Nothing recursive, as what is mounted is
# the host's.
_UNBIND: Final = """
import contextlib, ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
namespace = os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY)
root = os.open(f"/proc/{sys.argv[1]}/root", os.O_PATH)
os.setns(namespace)
os.fchdir(root)
os.chroot(".")
for path in ("/root/d", "/srv/out/d", "/srv/d", "/root/d-file"):
    while libc.umount2(path.encode(), 2) == 0:
        pass
for path in ("/root/d", "/srv/out/d", "/srv/out", "/srv/d"):
    with contextlib.suppress(OSError):
        os.rmdir(path)
for path in ("/root/d-file", "/root/escape"):
    with contextlib.suppress(OSError):
        os.unlink(path)
"""


def _unbind(w: World, leader: str) -> None:
    w.program("/usr/bin/python3", "-c", _UNBIND, leader, note=False)
    w.program("rm", "-rf", "/srv/out", note=False)


def _bind_through_a_link(w: World, dangling: bool) -> None:
    """A link of the guest's leads to a directory of its own that may not be there; the host has one."""
    root = _root(w, "plain")
    leader = root.split("/")[2]
    w.program("sh", "-c", f"ln -sfn /srv/out {root}/root/escape; mkdir -p /srv/out", note=False)
    if not dangling:
        w.program("mkdir", "-p", f"{root}/srv/out", note=False)
    w.manager("BindMountMachine", "sssbb", "plain", "/srv/d", "/root/escape/d", False, True)
    w.program("sh", "-c", f"awk '{{print $4, $5, $6}}' /proc/{leader}/mountinfo | grep '/d '; ls /srv/out")
    _unbind(w, leader)


def mounts(w: World) -> None:
    """What of the host's is mounted in the container by now."""
    leader = _root(w, "plain").split("/")[2]
    w.program("sh", "-c", f"awk '{{print $4, $5, $6}}' /proc/{leader}/mountinfo | grep /srv/d")


# The link is made by the host's root.
add("files/bind through a link", partial(_bind_through_a_link, dangling=False), (SUPER,))
add("files/bind through a dangling link", partial(_bind_through_a_link, dangling=True), (SUPER,))
