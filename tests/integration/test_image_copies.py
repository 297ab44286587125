# SPDX-License-Identifier: LGPL-2.1-or-later
"""A copy of an image has all that the original has, though the daemon that makes it is in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.host.boot import Host
from tests.integration.driver import NAME, ROOT, Driver, unique_name

pytestmark = [pytest.mark.integration, pytest.mark.either("trixie")]

POOL: Final = "/var/lib/machines"

# Run in the host: makes a tree with everything that a tree can have. Its argument is where.
MAKE: Final = r"""
import ctypes, fcntl, os, socket, struct, subprocess, sys
top = sys.argv[1]
os.makedirs(f"{top}/etc/deep/er")
os.umask(0)
def file(path, data=b"data", mode=0o644, owner=(0, 0)):
    with open(f"{top}/{path}", "wb") as f:
        f.write(data)
    os.chown(f.name, *owner)
    os.chmod(f.name, mode)
    return f.name
file("etc/plain")
file("etc/empty", b"")
file("etc/large", os.urandom(3_000_000))
file("etc/a name\nwith \xff bytes".encode("utf-8", "surrogateescape").decode(), b"x")
file("etc/setuid", b"#!", 0o4755)
file("etc/setgid", b"#!", 0o2751, (0, 5))
file("etc/shifted", b"of a guest's user", 0o600, (1 << 20 | 1000, 1 << 20 | 1001))
file("etc/shifted-setuid", b"#!", 0o6755, (1 << 20, 1 << 20))
os.mkdir(f"{top}/sticky"); os.chmod(f"{top}/sticky", 0o1777)
# Names that are one file, in two directories, and another pair.
os.link(f"{top}/etc/plain", f"{top}/etc/deep/hard")
os.link(f"{top}/etc/plain", f"{top}/etc/deep/er/hard")
os.link(f"{top}/etc/shifted", f"{top}/etc/deep/other")
os.symlink("etc/plain", f"{top}/link")
os.symlink("/nowhere/at all", f"{top}/etc/dangling")
os.chown(f"{top}/etc/dangling", 1 << 20 | 7, 1 << 20 | 8, follow_symlinks=False)
os.link(f"{top}/etc/dangling", f"{top}/etc/hard-link-of-link", follow_symlinks=False)
os.mkfifo(f"{top}/pipe", 0o640)
with socket.socket(socket.AF_UNIX) as s:
    s.bind(f"{top}/socket")
os.chmod(f"{top}/socket", 0o755)
os.mknod(f"{top}/null", 0o666 | 0o020000, os.makedev(1, 3))
os.mknod(f"{top}/disk", 0o660 | 0o060000, os.makedev(252, 4711))
os.mknod(f"{top}/whiteout", 0o020000, os.makedev(0, 0))
os.chown(f"{top}/disk", 0, 6)
with open(f"{top}/sparse", "wb") as f:
    f.write(b"begin"); f.seek(40 << 20); f.write(b"middle"); f.truncate(100 << 20)
for name, path in (("user.note", "etc/plain"), ("user.note", "etc/deep"), ("user.big", "etc/large")):
    os.setxattr(f"{top}/{path}", name, b"n" * (3000 if name == "user.big" else 3))
for path in ("etc/plain", "etc", "link", "pipe", "null", "whiteout"):
    os.setxattr(f"{top}/{path}", "trusted.machined", path.encode(), follow_symlinks=False)
os.setxattr(f"{top}/etc/deep", "trusted.overlay.opaque", b"y")
os.setxattr(f"{top}/etc/plain", "security.test", b"label")
# cap_net_raw+ep, of the host and of a guest whose root is 1048576 (<linux/capability.h>, revisions 2 and 3)
file("etc/capable", b"#!", 0o755)
os.setxattr(f"{top}/etc/capable", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))
file("etc/capable-inside", b"#!", 0o755, (1 << 20, 1 << 20))
os.setxattr(f"{top}/etc/capable-inside", "security.capability",
            struct.pack("<IIIIII", 0x03000001, 1 << 13, 0, 0, 0, 1 << 20))
# user::rw-, user:1049576:rwx, group::r--, mask::rwx, other::--- (<linux/posix_acl_xattr.h>)
def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)
none = 0xFFFFFFFF
access = acl((1, 6, none), (2, 7, 1 << 20 | 1000), (4, 4, none), (0x10, 7, none), (0x20, 0, none))
os.setxattr(f"{top}/etc/large", "system.posix_acl_access", access)
os.setxattr(f"{top}/etc/deep/er", "system.posix_acl_access", access)
os.setxattr(f"{top}/etc/deep/er", "system.posix_acl_default", access)
# What chattr(1) sets: nodump, noatime, and none can change or shorten it.
for name, flag in (("nodump", "+dA"), ("immutable", "+i"), ("growing", "+a")):
    file(f"etc/{name}")
    subprocess.run(["chattr", flag, f"{top}/etc/{name}"], check=True)
for where, directories, files, fd in os.fwalk(top, topdown=False):
    for number, name in enumerate([*files, *directories]):
        if name not in ("immutable", "growing"):
            os.utime(name, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321 + number), dir_fd=fd,
                     follow_symlinks=False)
os.chmod(top, 0o751)
os.chown(top, 1 << 20, 1 << 20)
os.utime(top, ns=(1_600_000_000_000_000_001, 1_500_000_000_000_000_002))
"""

# Run in the host: what a tree is like, in full, as JSON.
LOOK: Final = r"""
import fcntl, hashlib, json, os, stat, sys
top = sys.argv[1]
found, inodes = {}, {}
def flags(path, st):
    if not (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)):
        return 0
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return int.from_bytes(fcntl.ioctl(fd, 0x80086601, bytes(8))[:4], "little") & 0xF0  # what users set
    except OSError:
        return 0
    finally:
        os.close(fd)
def look(path):
    st = os.lstat(path)
    name = os.path.relpath(path, top).encode("utf-8", "surrogateescape").hex()
    entry = {
        "path": path[len(top):], "mode": oct(st.st_mode), "uid": st.st_uid, "gid": st.st_gid,
        "mtime": st.st_mtime_ns, "rdev": st.st_rdev, "flags": flags(path, st),
        "xattrs": {n: os.getxattr(path, n, follow_symlinks=False).hex()
                   for n in sorted(os.listxattr(path, follow_symlinks=False))},
    }
    if stat.S_ISREG(st.st_mode):
        with open(path, "rb") as f:
            entry |= {"size": st.st_size, "data": hashlib.file_digest(f, "sha256").hexdigest()}
        entry["blocks"] = st.st_blocks
    if stat.S_ISLNK(st.st_mode):
        entry["link"] = os.readlink(path)
    if not stat.S_ISDIR(st.st_mode):
        entry["links"] = st.st_nlink
        entry["same"] = inodes.setdefault(st.st_ino, name)
    found[name] = entry
look(top)
for where, directories, files in os.walk(top):
    directories.sort()
    for name in sorted([*files, *directories]):
        look(os.path.join(where, name))
print(json.dumps(found))
"""


def look(host: Host, path: str) -> dict[str, dict[str, Any]]:
    """All that there is to know of each file in a tree."""
    found: dict[str, dict[str, Any]] = json.loads(host.run(["python3", "-c", LOOK, path]).stdout)
    return found


def clone(host: Host, old: str, new: str) -> None:
    words = ["call", NAME, ROOT, f"{NAME}.Manager", "CloneImage", "ssb", old, new, "false"]
    host.run(["busctl", "--timeout=100", *words], timeout=105)


def remove(host: Host, *names: str) -> None:
    for name in names:
        words = ["call", NAME, ROOT, f"{NAME}.Manager", "RemoveImage", "s", name]
        host.run(["busctl", "--timeout=100", *words], timeout=105)


@contextmanager
def btrfs_pool(host: Host) -> Iterator[None]:
    """The pool is a file system of its own inside the block."""
    if "\tbtrfs" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip("no btrfs in this kernel")
    make = f"truncate -s 400M /srv/copies && mkfs.btrfs -q /srv/copies && mount -o loop /srv/copies {POOL}"
    host.run(["sh", "-ec", make])
    try:
        yield
    finally:
        host.run(["sh", "-ec", f"umount {POOL}; rm /srv/copies"])


def test_a_copy_is_like_the_original(managed: Driver) -> None:
    """Everything is kept but the attributes of chattr(1), which stock's daemon drops as well."""
    host, old, new = managed.host, unique_name(), unique_name()
    host.run(["python3", "-c", MAKE, f"{POOL}/{old}"])
    clone(host, old, new)
    before, after = look(host, f"{POOL}/{old}"), look(host, f"{POOL}/{new}")
    assert {entry["flags"] for entry in before.values()} >= {0x10, 0x20, 0xC0}
    for name, entry in before.items():
        entry["flags"] = 0
        if "blocks" in entry:
            assert after[name].pop("blocks") <= entry.pop("blocks"), entry["path"]
    assert after == before
    # What makes it hard to get rid of it: files that nobody may remove.
    remove(host, old, new)
    assert not [name for name in (old, new) if host.path(f"{POOL}/{name}").exists()]


def test_stock_keeps_no_more(host: Host, managed: Driver) -> None:
    """What the stock daemon's copy has, ours has."""
    found = []
    for machine in (host, managed.host):
        old, new = "t-original", "t-copied"
        machine.run(["python3", "-c", MAKE, f"{POOL}/{old}"])
        clone(machine, old, new)
        found.append(look(machine, f"{POOL}/{new}"))
        machine.run(["sh", "-c", f"chattr -R -i -a {POOL}/{old} 2>&1; rm -r {POOL}/{old} {POOL}/{new}"])
    stock, ours = found
    assert set(stock) <= set(ours)
    for name, entry in stock.items():
        mine = ours[name]
        assert set(entry["xattrs"]) <= set(mine["xattrs"]), entry["path"]
        kept = {"mode", "uid", "gid", "rdev", "size", "link"} & set(entry)
        if entry["path"]:  # (of the top itself it keeps neither owner nor mode)
            assert {key: mine[key] for key in kept} == {key: entry[key] for key in kept}, entry["path"]


def test_on_btrfs_a_copy_shares_the_blocks(managed: Driver) -> None:
    """Of a plain directory, which becomes a subvolume; and it is as exact as elsewhere."""
    host, old, new = managed.host, unique_name(), unique_name()
    with btrfs_pool(host):
        host.run(["python3", "-c", MAKE, f"{POOL}/{old}"])
        clone(host, old, new)
        before, after = look(host, f"{POOL}/{old}"), look(host, f"{POOL}/{new}")
        for entry in (*before.values(), *after.values()):
            entry.pop("blocks", None)
            entry["flags"] = 0
        assert after == before
        host.run(["sync"])
        extents = host.run(["filefrag", "-v", f"{POOL}/{new}/etc/large"]).stdout
        assert "shared" in extents
        remove(host, old, new)
        assert not [name for name in (old, new) if host.path(f"{POOL}/{name}").exists()]


def test_a_disk_image_is_copied_with_its_holes(managed: Driver) -> None:
    host, old, new = managed.host, unique_name(), unique_name()
    source, target = f"{POOL}/{old}.raw", f"{POOL}/{new}.raw"
    make = f"truncate -s 200M {source} && echo begin | dd of={source} conv=notrunc,fsync seek=70 bs=1M"
    host.run(["sh", "-ec", make])
    clone(host, old, new)
    host.run(["cmp", source, target])
    before, after = host.path(source).stat(), host.path(target).stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert after.st_blocks <= before.st_blocks
    remove(host, old, new)
