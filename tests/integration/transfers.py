# SPDX-License-Identifier: LGPL-2.1-or-later
"""The script of bind mounts and copies that the stock daemon and ours are both put through.

Each step is a shell command run in the host; what it prints and its status are the answer. `{m}` stands for
the machine, `{r}` for its root directory on the host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

MANAGER: Final = (
    "busctl call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager"
)
VARLINK: Final = "varlinkctl call /run/systemd/machine/io.systemd.Machine io.systemd.Machine"
AS_USER: Final = "setpriv --reuid=1000 --regid=1000 --clear-groups"
LONG: Final = "/" + "a" * 300
DEEP: Final = "/" + "a/" * 3000

SETUP: Final = """
rm -rf /srv/h; mkdir -p /srv/h/src/sub /srv/h/src/old; cd /srv/h
echo a >src/a; echo b >src/sub/b; ln src/a src/a2; ln src/a src/sub/a3; ln -s a src/l
ln -s /etc/hostname src/abs; mkfifo src/f; mknod src/n c 1 3; echo in >src/old/in
truncate -s 1M src/sparse; echo end >>src/sparse
echo f >file; ln -s file link; ln -s src dlink; ln -s /nope dangling; echo host >real
python3 -c '
import os, socket
socket.socket(socket.AF_UNIX).bind("/srv/h/src/sock")
os.setxattr("/srv/h/src/a", "user.x", b"1")
os.setxattr("/srv/h/src/sub", "user.y", b"2")
'
chown 1000:1001 src/sub/b; chown -h 1000:1001 src/l src/f; chmod 4755 src/a; chmod 2770 src/sub
chmod 1755 src/old; chmod 640 src/f
touch -d @1000000 src/a src/sub/b src/sub src/old/in src/old src/sparse src/sock src; touch -d @1000000 file
touch -h -d @1000000 src/l src/f src/n src/abs link dlink dangling
mkdir -p {r}/srv/d {r}/srv/merge/old; echo was >{r}/srv/merge/a; chmod 700 {r}/srv/merge/old
touch -d @2000000 {r}/srv/merge/a {r}/srv/merge/old {r}/srv/merge
mkdir -p {r}/srv/gs/sub; echo g >{r}/srv/gs/g; chown -R --reference={r}/etc {r}/srv/gs
echo g >{r}/srv/gs/sub/r; ln -s /etc/passwd {r}/srv/gs/abs; ln {r}/srv/gs/g {r}/srv/gs/g2
ln -s /srv/gs {r}/srv/gslink; touch -d @1000000 {r}/srv/gs/g {r}/srv/gs/sub/r {r}/srv/gs/sub {r}/srv/gs
touch -h -d @1000000 {r}/srv/gs/abs {r}/srv/gslink
ln -s / {r}/srv/rootlink; ln -s /../../../../../srv/h {r}/srv/up; mkdir -p {r}/srv/h {r}/srv/evil
ln -s /srv/h/real {r}/srv/evil/file; ln -s /srv/h {r}/srv/evil/sub
mkdir -p {r}/srv/b /srv/h/mnt; touch {r}/srv/bf; mountpoint -q /srv/h/mnt || mount -t tmpfs t /srv/h/mnt
touch /srv/h/mnt/inside
"""
CLEANUP: Final = "umount /srv/h/mnt; rm -rf /srv/h /srv/gs /srv/c1 /srv/v1"
MOUNTS: Final = """
leader=$(busctl get-property org.freedesktop.machine1 /org/freedesktop/machine1/machine/{m} \
  org.freedesktop.machine1.Machine Leader | cut -d' ' -f2)
awk '$2 ~ /srv/ {{split($4, o, ","); print $2, $3, o[1]}}' /proc/$leader/mounts
"""
ATTRIBUTES: Final = """python3 -c '
import os, sys
for top, directories, files in os.walk(sys.argv[1]):
    for name in sorted(directories + files):
        path = os.path.join(top, name)
        print(path, [(n, os.getxattr(path, n)) for n in os.listxattr(path, follow_symlinks=False)
              if n.startswith("user.") and not os.path.islink(path)])
' """

# Which source and destination, in both directions.
ENDS: Final = (
    ("/srv/h/nope", "/srv/x"),
    ("/srv/nope/x", "/srv/x"),
    ("/srv/h/file", "/nope/x"),
    ("/", "/srv/root"),
    ("/srv/h/file", "/"),
    ("srv/h/file", "/srv/x"),
    ("/srv/h/file", "srv/x"),
    ("", "/srv/x"),
    ("/srv/h/../h/file", "/srv/y1"),
    ("/srv/h/file", "/srv/d/../y2"),
    ("/srv/h//file", "/srv//y3"),
    ("/srv/h/./file", "/srv/./y4"),
    ("/srv/h/file/", "/srv/y5"),
    ("/srv/h/file", "/srv/y6/"),
    ("/srv/h/..", "/srv/y7"),
    ("/srv/h/file", "/srv/.."),
    ("/srv/h/src/.", "/srv/y8"),
    ("/srv/h/file/x", "/srv/y9"),
    ("/srv/h/file", "/srv/file/x"),
    ("/srv/h/src/", "/srv/y10/"),
    (LONG, "/srv/x"),
    ("/srv/h/file", LONG),
    (DEEP, "/srv/x"),
    ("/srv/h/file", DEEP),
    ("/srv/h/file", "/srv/" + "c" * 255),
    ("/srv/h/file", "/srv/" + "c" * 256),
    ("/srv/h/dangling/x", "/srv/y11"),
    ("/srv/h/mnt", "/srv/y12"),
)

# Source, destination, read-only, mkdir.
BINDS: Final = (
    ("/srv/h/src", "/srv/b", 0, 0),
    ("/srv/h/src", "/srv/b", 1, 0),
    ("/srv/h/src", "/srv/bm/x/y", 1, 1),
    ("/srv/h/src", "/srv/bn", 0, 0),
    ("/srv/h/file", "/srv/bf", 1, 0),
    ("/srv/h/file", "/srv/bg/h", 1, 1),
    ("/srv/h/src", "/srv/bf", 0, 0),
    ("/srv/h/file", "/srv/b", 0, 0),
    ("/srv/h/link", "/srv/blink", 1, 1),
    ("/srv/h/dlink", "/srv/bdlink", 1, 1),
    ("/srv/h/dangling", "/srv/bdd", 1, 1),
    ("/srv/h/src/sock", "/srv/bsock", 1, 1),
    ("/srv/h/src/f", "/srv/bfifo", 1, 1),
    ("/srv/h/src/n", "/srv/bnode", 1, 1),
    ("/srv/h/src", "", 1, 1),
    ("/srv/h/mnt", "/srv/bmnt", 0, 1),
    ("/srv/h", "/srv/babove", 0, 1),
    ("/srv/h/nope", "/srv/zz", 1, 1),
    ("srv", "/srv/b", 1, 1),
    ("/srv", "b", 1, 1),
    ("/srv/../srv", "/srv/b", 1, 1),
    ("/srv/h/src", "/srv/../b", 1, 1),
    ("/srv//h", "/srv/b", 1, 1),
    ("/srv/./h", "/srv/b", 1, 1),
    ("/srv/h/.", "/srv/b", 1, 1),
    ("/srv/h/", "/srv/b1", 1, 1),
    ("/srv/h", "/srv/b2/", 1, 1),
    ("/srv/h/src", "/srv/rootlink/srv/via", 0, 1),
    ("/srv/h/src", "/srv/up/bnd", 1, 1),
    ("/srv/h/src", "/srv/up", 0, 0),
    ("", "/srv/b", 1, 1),
    (LONG, "/srv/b", 1, 1),
    ("/srv/h", LONG, 1, 1),
    ("/proc/self/ns/net", "/srv/bns", 0, 1),
    ("/proc", "/srv/bproc", 0, 1),
    ("/srv/h/file", "/srv/bf/x", 0, 1),
    ("/srv/h/src", "/proc/xx", 0, 1),
    ("/srv/h/src", "/sys/xx", 0, 1),
)


@dataclass(frozen=True, slots=True)
class Step:
    label: str
    command: str


def tree(path: str, *leave_out: str) -> str:
    """What is below a path: name, kind, mode, owners, size, links, target, time."""
    prune = "".join(f"-path '{name}' -prune -o " for name in leave_out)
    return f"find {path} {prune}" + "-printf '%P %y %m %U %G %s %n %l %T@\\n' 2>&1 | sort"


def quoted(text: str) -> str:
    return f"'{text}'"


def copy(machine: str, way: str, source: str, destination: str, flags: int | None = None) -> str:
    """A Manager call of busctl: `way` is From or To."""
    ends = f"{machine} {quoted(source)} {quoted(destination)}"
    if flags is None:
        return f"{MANAGER} Copy{way}Machine sss {ends}"
    return f"{MANAGER} Copy{way}MachineWithFlags ssst {ends} {flags}"


def bind(machine: str, source: str, destination: str, read_only: int, mkdir: int) -> str:
    ends = f"{machine} {quoted(source)} {quoted(destination)}"
    return f"{MANAGER} BindMountMachine sssbb {ends} {read_only} {mkdir}"


def script(machine: str) -> Iterator[Step]:
    """All steps for a running machine, whose tree is changed by them."""
    root = f"/var/lib/machines/{machine}"
    commands = (
        _copies(machine, root),
        _stock_client(machine),
        _hostile(machine, root),
        _binds(machine, root),
        _refused(machine),
        _varlink(machine, root),
    )
    yield Step("setup", SETUP.format(r=root))
    for number, command in enumerate(step for group in commands for step in group):
        yield Step(f"{number}: {command[:300]}", command)
    yield Step("cleanup", CLEANUP)


def _copies(m: str, root: str) -> Iterator[str]:
    yield copy(m, "To", "/srv/h/src", "/srv/t")
    yield tree(f"{root}/srv/t")
    yield ATTRIBUTES + f"{root}/srv/t"
    yield copy(m, "To", "/srv/h/src", "/srv/t")
    yield tree(f"{root}/srv/t")
    yield copy(m, "To", "/srv/h/src", "/srv/t", 0)
    yield copy(m, "To", "/srv/h/src", "/srv/t", 1)
    yield tree(f"{root}/srv/t")
    yield f"stat -c %i {root}/srv/t/a {root}/srv/t/a2 {root}/srv/t/sub/a3 | sort -u | wc -l"
    yield copy(m, "To", "/srv/h/src", "/srv/merge")
    yield tree(f"{root}/srv/merge")
    yield copy(m, "To", "/srv/h/src", "/srv/merge", 1)
    yield tree(f"{root}/srv/merge") + f"; cat {root}/srv/merge/a"
    for flags in (2, 3, 1 << 63, (1 << 64) - 1):
        yield copy(m, "To", "/srv/h/src", "/srv/t3", flags)
        yield copy(m, "From", "relative", "/srv/t3", flags)
    for name in ("file", "link", "dlink", "dlink/", "dangling", "src/sock", "src/f", "src/n"):
        for flags in (0, 0, 1):
            yield copy(m, "To", f"/srv/h/{name}", f"/srv/{name.strip('/').replace('/', '-')}", flags)
    for flags in (0, 1):
        yield copy(m, "To", "/srv/h/file", "/srv/d", flags)
        yield copy(m, "To", "/srv/h/src", "/srv/file", flags)
    for source, destination in ENDS:
        yield copy(m, "To", source, destination)
        yield copy(m, "From", destination, source)
    yield copy(m, "To", "/srv/h/file", "")
    yield copy(m, "From", "/srv/gs", "")
    yield copy(m, "To", "/proc/version", "/srv/version")
    yield f"cmp /proc/version {root}/srv/version; stat -c %a {root}/srv/version"
    yield copy(m, "To", "/srv/h/file", "/sys/x")
    yield copy(m, "To", "/srv/h/file", "/proc/x")
    yield tree(f"{root}/srv", "*/version")
    for flags in (0, 0, 1):
        yield copy(m, "From", "/srv/gs", "/srv/h/gs", flags)
    yield copy(m, "From", "/srv/gslink/g", "/srv/h/g2")
    yield copy(m, "From", "/srv/gslink", "/srv/h/g3")
    yield copy(m, "From", "/srv/gslink/", "/srv/h/g4")
    machine = f"busctl call org.freedesktop.machine1 /org/freedesktop/machine1/machine/{m}"
    machine += " org.freedesktop.machine1.Machine"
    yield f"{machine} CopyTo ss /srv/h/file /srv/o1"
    yield f"{machine} CopyFrom ss /srv/gs/g /srv/h/o1"
    yield f"{machine} CopyToWithFlags sst /srv/h/file /srv/o1 1"
    yield f"{machine} CopyFromWithFlags sst /srv/gs/g /srv/h/o1 0"
    yield f"{machine} BindMount ssbb /srv/h/src /srv/ob 1 1"
    yield tree("/srv")


def _stock_client(m: str) -> Iterator[str]:
    yield f"/usr/bin/machinectl copy-to {m} /srv/h/file /srv/c1"
    yield f"/usr/bin/machinectl copy-to {m} /srv/h/file /srv/c1"
    yield f"/usr/bin/machinectl copy-to --force {m} /srv/h/file /srv/c1"
    yield f"cd /srv/h && /usr/bin/machinectl copy-to {m} file"
    yield f"/usr/bin/machinectl copy-from {m} /srv/c1 /srv/h/c1"
    yield f"/usr/bin/machinectl copy-from {m} /srv/c1"
    yield f"/usr/bin/machinectl copy-from {m} /srv/c1"
    yield f"/usr/bin/machinectl copy-from --force {m} /srv/c1"
    yield f"/usr/bin/machinectl copy-from {m} /nope"
    yield f"/usr/bin/machinectl bind --read-only --mkdir {m} /srv/h/src /srv/cb"
    yield f"/usr/bin/machinectl bind {m} /srv/h/src /srv/cb2"
    yield f"/usr/bin/machinectl bind --mkdir {m} /srv/h/file"
    yield f"/usr/bin/machinectl bind --mkdir {m} /srv/h/nope"
    yield "/usr/bin/machinectl bind nope /srv/h/nope"


def _hostile(m: str, root: str) -> Iterator[str]:
    """A guest has put links where copies go to."""
    yield copy(m, "To", "/srv/h/file", "/srv/up/escaped")
    yield f"ls /srv/h/escaped {root}/srv/h/escaped 2>&1"
    for flags in (0, 1):
        yield copy(m, "To", "/srv/h/file", "/srv/evil/file", flags)
        yield copy(m, "To", "/srv/h/src/sub", "/srv/evil/sub", flags)
        yield copy(m, "To", "/srv/h/src", "/srv/evil", flags)
    yield "cat /srv/h/real; " + tree(f"{root}/srv/evil")
    yield copy(m, "From", "/srv/up/real", "/srv/h/stolen")
    yield copy(m, "From", "/srv/evil/file", "/srv/h/stolen2")
    yield "ls -l /srv/h/stolen* 2>&1 | wc -l"


def _binds(m: str, root: str) -> Iterator[str]:
    for source, destination, read_only, mkdir in BINDS:
        yield bind(m, source, destination, read_only, mkdir)
    yield MOUNTS.format(m=m)
    yield "awk '$2 ~ /srv/ {print $2, $3}' /proc/self/mounts"
    yield tree(f"{root}/srv/b*")
    yield "ls -A /srv/h"


def _refused(m: str) -> Iterator[str]:
    for name in ("nope", ".host", "../x", ""):
        yield copy(quoted(name), "To", "/a", "/b")
        yield copy(quoted(name), "From", "a", "b", 77)
        yield bind(quoted(name), "/a", "/b", 0, 0)
        yield bind(quoted(name), "a", "b", 0, 0)
    yield f"{MANAGER} CopyToMachine ss {m} /a"
    yield f"{MANAGER} CopyToMachineWithFlags sssu {m} /a /b 1"
    yield f"{MANAGER} BindMountMachine sss {m} /a /b"
    yield f"{AS_USER} {copy(m, 'To', '/srv/h/file', '/srv/u')}"
    yield f"{AS_USER} {copy(m, 'From', 'relative', '/srv/u')}"
    yield f"{AS_USER} {copy(m, 'To', '/srv/h/file', '/srv/u', 1)}"
    yield f"{AS_USER} {copy(m, 'To', '/srv/h/file', '/srv/u', 2)}"
    yield f"{AS_USER} {bind(m, '/srv/h', '/srv/b', 0, 0)}"
    yield f"{AS_USER} {bind(m, 'relative', '/srv/b', 0, 0)}"


def varlink(method: str, **parameters: Any) -> str:
    return f"{VARLINK}.{method} '{json.dumps(parameters)}'"


def _varlink(m: str, root: str) -> Iterator[str]:
    file = {"source": "/srv/h/file"}
    for end in (
        {"destination": "/srv/v1"}, {"destination": "/srv/v1"}, {"destination": "/srv/v1", "replace": True},
        {"destination": "relative"}, {"destination": ""}, {"destination": None}, {},
        {"destination": "/srv/v2", "replace": 1}, {"destination": "/srv/v2", "bogus": 1},
        {"destination": "/srv//v3"}, {"destination": "/srv/../v3"}, {"destination": "/"},
        {"destination": "/nope/x"}, {"destination": "/srv/v3/"}, {"destination": LONG},
    ):  # fmt: skip
        yield varlink("CopyTo", name=m, **file, **end)
    for method in ("CopyTo", "CopyFrom", "BindMount"):
        yield varlink(method, name=m)
        yield varlink(method, name=m, source=None)
        yield varlink(method, name=m, source="relative")
        yield varlink(method, **file)
        for name in ("nope", "no/pe", ".host"):
            yield varlink(method, name=name, **file)
            yield varlink(method, name=name, source="relative")
        yield f"{AS_USER} " + varlink(method, name=m, source="/srv/h/file", destination="/srv/vu")
        yield f"{AS_USER} " + varlink(method, name=m, source="relative", destination="/srv/vu")
    yield varlink("CopyFrom", name=m, source="/srv/gs", destination="/srv/h/v9")
    yield varlink("CopyFrom", name=m, source="/srv/nope", destination="/srv/h/v10")
    yield varlink("CopyFrom", name=m, source="/", destination="/srv/h/v10")
    source = {"source": "/srv/h/src"}
    yield varlink("BindMount", name=m, **source, destination="/srv/vb", mkdir=True, readOnly=True)
    yield varlink("BindMount", name=m, **source, destination="/srv/vbn")
    yield varlink("BindMount", name=m, **source, destination="relative")
    yield varlink("BindMount", name=m, **source, destination=None)
    yield varlink("BindMount", name=m, source="/srv/nope", destination="/srv/vbn", mkdir=True)
    yield varlink("BindMount", name=m, **source, mkdir=True)
    for name in (m, ".host", "nope", "no/pe"):
        yield varlink("OpenRootDirectory", name=name)
        yield f"{AS_USER} " + varlink("OpenRootDirectory", name=name)
    yield varlink("OpenRootDirectory")
    yield MOUNTS.format(m=m)
    yield tree(f"{root}/srv/v*") + "; " + tree("/srv/h/v*")


_TIME: Final = re.compile(r"\b1[0-9]{9}\.[0-9]+\b")


def normalised(text: str, machine: str) -> str:
    """An answer without what differs from run to run."""
    return _TIME.sub("NOW", text).replace(machine, "MACHINE")
