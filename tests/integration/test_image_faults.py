# SPDX-License-Identifier: LGPL-2.1-or-later
"""Full disks, and processes killed in the middle: nothing half-done is seen, and nothing of it stays."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.host.boot import Host
from tests.integration.driver import NAME, ROOT, UNIT, Driver

pytestmark = [pytest.mark.integration, pytest.mark.either("sid")]

POOL: Final = "/var/lib/machines"
FILE_SYSTEMS: Final = ("ext4", "btrfs")

# Holds a lease of a file (fcntl(2), F_SETLEASE): who opens it waits. Says when somebody does.
HOLD: Final = """
import fcntl, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
signal.sigwait({signal.SIGIO})
print("asked", flush=True)
sys.stdin.readline()
"""

# Stops every operation of the daemon (its argument) as soon as a hidden name of ours appears in the pool.
STOP: Final = """
import ctypes, os, signal, struct, sys
pool, daemon = sys.argv[1:]
libc = ctypes.CDLL(None)
fd = libc.inotify_init1(0)
assert libc.inotify_add_watch(fd, pool.encode(), 0x100 | 0x80) > 0  # IN_CREATE | IN_MOVED_TO
print("ready", flush=True)
while True:
    data = os.read(fd, 4096)
    if b".#machined-" in data:
        break
kept = open(f"/proc/{daemon}/task/{daemon}/children").read().split()
workers = [w for k in kept for w in open(f"/proc/{k}/task/{k}/children").read().split()]
for worker in workers:
    os.kill(int(worker), signal.SIGSTOP)
print(" ".join(workers), flush=True)
"""


def manager(host: Host, *words: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """A method of machine1's manager, which may fail."""
    call = ["busctl", f"--timeout={timeout:g}", "call", NAME, ROOT, f"{NAME}.Manager", *words]
    return host.run(call, check=False, timeout=timeout + 5)


def images(managed: Driver) -> list[str]:
    """The names that are shown, hidden ones too."""
    rows = managed.ctl("list-images", "--all", "--no-legend").stdout.splitlines()
    return sorted(row.split()[0] for row in rows if row.strip())


def leftovers(managed: Driver, pattern: str = ".#*") -> list[str]:
    """What lies hidden in the pool, but for locks."""
    found = managed.host.path(POOL).glob(pattern)
    return sorted(path.name for path in found if not path.name.endswith(".lck"))


def until_swept(managed: Driver) -> None:
    look = f"ls -d {POOL}/.#machined-* 2>/dev/null"
    managed.host.run(["timeout", "30", "sh", "-c", f"while {look}; do sleep 0.02; done"], timeout=35)


def workers(managed: Driver) -> list[str]:
    """The processes that are at an operation: children of the one that is kept for them."""
    pid = managed.daemon_pid()
    kept = managed.host.path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    found = [managed.host.path(f"/proc/{child}/task/{child}/children") for child in kept]
    return [pid for children in found for pid in children.read_text(encoding="ascii").split()]


def kill_worker(managed: Driver) -> None:
    """With -9 what is at work."""
    found = workers(managed)
    assert found
    managed.host.run(["kill", "-KILL", *found])


def kill_daemon(managed: Driver) -> None:
    managed.host.run(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT])


@pytest.fixture(params=FILE_SYSTEMS)
def kind(request: pytest.FixtureRequest) -> str:
    if f"\t{request.param}" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip(f"no {request.param} in this kernel")
    return str(request.param)


@contextmanager
def mounted(host: Host, kind: str, size: str) -> Iterator[None]:
    options = "-m 0" if kind == "ext4" else ""
    make = f"truncate -s {size} /srv/small && mkfs.{kind} -q {options} /srv/small"
    host.run(["sh", "-ec", f"{make} && mount -o loop /srv/small {POOL} && rm -rf {POOL}/lost+found"])
    try:
        yield
    finally:
        host.run(["sh", "-c", f"umount {POOL} || umount --lazy {POOL}; rm -f /srv/small"])


@pytest.fixture
def small(managed: Driver, kind: str) -> Iterator[Driver]:
    """A host whose pool is a small file system with a tree "one" and a disk image "disk" in it."""
    size = "160M" if kind == "btrfs" else "96M"
    with mounted(managed.host, kind, size):
        make = f"""
            mkdir -p {POOL}/one/etc {POOL}/one/data
            echo ID=test >{POOL}/one/etc/os-release
            for i in $(seq 20); do head -c 1000000 /dev/urandom >{POOL}/one/data/$i; done
            head -c 20000000 /dev/urandom >{POOL}/disk.raw
            sync
        """
        managed.host.run(["sh", "-ec", make])
        yield managed


def fill(host: Host, leave: int = 0) -> None:
    """Take all room in the pool but `leave` bytes."""
    dd = f"dd if=/dev/zero of={POOL}/.ballast bs=64k 2>/dev/null; dd if=/dev/zero of={POOL}/.ballast2 bs=512"
    give_back = f"[ {leave} = 0 ] || truncate -s -{leave} {POOL}/.ballast"
    host.run(["sh", "-c", f"{dd} 2>/dev/null; sync; {give_back}; sync"])


# -- a full disk -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["one", "disk.raw"])
def test_no_room_for_a_copy(small: Driver, image: str) -> None:
    """The original is elsewhere: no blocks can be shared."""
    host, far = small.host, "/run/machines/far" + Path(image).suffix
    host.run(["sh", "-ec", f"mkdir -p /run/machines && cp -a {POOL}/{image} {far}"])
    try:
        fill(host, 5_000_000)
        before, free = images(small), host.run(["df", "--output=avail", POOL]).stdout
        done = small.stock("clone", "far", "copy", check=False)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert images(small) == before
        assert leftovers(small) == []
        if (
            host.run(["stat", "-fc", "%T", POOL]).stdout != "btrfs\n"
        ):  # which gives room back in its own time
            assert host.run(["df", "--output=avail", POOL]).stdout == free
    finally:
        host.run(["rm", "-rf", "/run/machines"])


def test_what_still_works_when_it_is_full(small: Driver) -> None:
    host = small.host
    fill(host)
    small.ctl("rename", "one", "two")
    small.ctl("read-only", "two")
    small.ctl("read-only", "two", "false")
    small.ctl("read-only", "disk")
    small.ctl("rename", "disk", "plate")
    small.ctl("remove", "two")
    small.ctl("remove", "plate")
    assert not {"one", "two", "disk", "plate"} & set(images(small))
    assert leftovers(small) == []


CLONE: Final = ("call", NAME, ROOT, f"{NAME}.Manager", "CloneImage", "ssb", "one", "copy", "false")

# -- killed in the middle ----------------------------------------------------------------------------------


@contextmanager
def copying(small: Driver) -> Iterator[subprocess.Popen[str]]:
    """Inside the block a copy of "one" to "copy" hangs half-way; its caller is what is yielded."""
    host = small.host
    path = f"{POOL}/one/data/20"
    with host.popen(["timeout", "30", "python3", "-c", HOLD, path], stdin=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            with small.background(["busctl", "--timeout=90", *CLONE]) as caller:
                asked = holder.stdout.readline()
                assert asked == "asked\n", caller.communicate(timeout=100)
                yield caller
        finally:
            holder.kill()


def test_the_process_of_a_copy_is_killed(small: Driver) -> None:
    before = images(small)
    with copying(small) as caller:
        assert len(leftovers(small, ".#machined-*")) == 1
        assert images(small) == before
        # It is at work: whoever cleans leaves it alone.
        small.ctl("clean")
        assert len(leftovers(small, ".#machined-*")) == 1
        kill_worker(small)
        assert "died" in caller.communicate(timeout=30)[1]
        assert caller.returncode == 1
    assert images(small) == before
    assert len(leftovers(small, ".#machined-*")) == 1
    assert "Removed 0 images in total" in small.ctl("clean").stderr
    assert leftovers(small) == []
    # Nothing is in the way of another try.
    small.stock("clone", "one", "copy")
    assert "copy" in images(small)


def test_the_daemon_is_killed_in_a_copy(small: Driver) -> None:
    before = images(small)
    with copying(small) as caller:
        kill_daemon(small)
        assert caller.communicate(timeout=30)[1] != ""
        assert caller.returncode == 1
    assert images(small) == before
    until_swept(small)
    assert leftovers(small) == []


def test_a_copy_is_broken_off(small: Driver) -> None:
    """The daemon is told to end: the copy is taken back at once."""
    before = images(small)
    with copying(small) as caller:
        small.host.run(["systemctl", "restart", UNIT])
        assert caller.communicate(timeout=30)[1] != ""
    assert images(small) == before
    until_swept(small)


@contextmanager
def stopped(small: Driver, prepare: str, *call: str) -> Iterator[subprocess.Popen[str]]:
    """A call whose operation is stopped under a hidden name inside the block; its caller is what is yielded.

    `prepare` is done before each try: the operation may be faster than whoever stops it.
    """
    host = small.host
    command = ["busctl", "--timeout=90", "call", NAME, ROOT, f"{NAME}.Manager", *call]
    for _ in range(20):
        host.run(["sh", "-ec", prepare])
        manager(host, "GetImage", "s", "one")  # it runs, and has nothing else to do
        stop = ["timeout", "30", "python3", "-c", STOP, POOL, str(small.daemon_pid())]
        with small.background(stop) as stopper:
            assert stopper.stdout is not None
            assert stopper.stdout.readline() == "ready\n"
            with small.background(command) as caller:
                if stopper.stdout.readline().split() and leftovers(small, ".#machined-*"):
                    yield caller
                    return
                caller.communicate(timeout=60)
    raise AssertionError("no operation could be stopped in its middle")


MANY: Final = f"""
    mkdir -p {POOL}/many/etc && echo ID=test >{POOL}/many/etc/os-release
    for i in $(seq 40); do mkdir -p {POOL}/many/$i; (cd {POOL}/many/$i && seq 250 | xargs touch); done
"""
KILLED: Final = {"worker": kill_worker, "daemon": kill_daemon}


@pytest.mark.parametrize("victim", KILLED)
def test_killed_in_a_removal(small: Driver, victim: str) -> None:
    """Once it has begun the image is gone: what is left of it has no name, and goes later."""
    with stopped(small, MANY, "RemoveImage", "s", "many") as caller:
        assert "many" not in images(small)
        KILLED[victim](small)
        assert caller.communicate(timeout=30)[1] != ""
        assert caller.returncode == 1
    assert "many" not in images(small)
    if victim == "worker":
        assert len(leftovers(small, ".#machined-*")) == 1
        small.ctl("clean")
        assert leftovers(small) == []
    until_swept(small)
    assert images(small) == [".host", "disk", "one"]


@pytest.mark.parametrize("victim", KILLED)
def test_killed_in_the_copy_of_a_disk(small: Driver, kind: str, victim: str) -> None:
    if kind == "btrfs":
        pytest.skip("on btrfs it shares all blocks, in one step")
    call = ("CloneImage", "ssb", "disk", "copy", "false")
    with stopped(small, f"rm -f {POOL}/copy.raw", *call) as caller:
        assert images(small) == [".host", "disk", "one"]
        KILLED[victim](small)
        assert caller.communicate(timeout=30)[1] != ""
        assert caller.returncode == 1
    if victim == "worker":
        assert len(leftovers(small, ".#machined-*")) == 1
        small.ctl("clean")
    until_swept(small)
    assert images(small) == [".host", "disk", "one"]
    assert leftovers(small) == []


# -- what others leave -------------------------------------------------------------------------------------


def test_what_a_killed_nspawn_has_left(managed: Driver, machine: str) -> None:
    """Its ephemeral copy, up to then, is nobody else's to touch."""
    host, unit = managed.host, f"ephemeral-{machine}.service"
    nspawn = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--ephemeral",
        f"--machine={machine}",
    ]
    run = ["systemd-run", "--quiet", f"--unit={unit}", "--property=Type=notify"]
    host.run([*run, *nspawn, f"--directory={POOL}/{machine}", "--as-pid2", "sleep", "infinity"])
    try:
        (copy,) = leftovers(managed)
        managed.ctl("clean")
        assert leftovers(managed) == [copy]
        host.run(["systemctl", "kill", "--signal=KILL", unit])
        host.run(["timeout", "20", "sh", "-c", f"while systemctl -q is-active {unit}; do sleep 0.02; done"])
        assert leftovers(managed) == [copy]
        assert "Removed 0 images in total" in managed.ctl("clean").stderr
        assert leftovers(managed) == []
        assert not list(host.path(POOL).glob(f"*{machine}*.lck"))
    finally:
        host.run(["systemctl", "stop", unit], check=False)
        host.run(["systemctl", "reset-failed", unit], check=False)
        # What else a killed nspawn leaves is for the next start of that machine to clean.
        state = "/run/systemd/nspawn"
        places = f"{state}/{machine}/unix-export {state}/unix-export/{machine} {state}/propagate/{machine}"
        unmount = f"for i in {places}; do umount -q $i; done; rm -rf {places} {state}/{machine}"
        host.run(["sh", "-c", unmount])


def test_what_a_killed_importer_has_left(managed: Driver) -> None:
    host = managed.host
    tar = "mkdir -p /tmp/tree/etc; tar -C /tmp/tree -c etc; head -c 99999 /dev/zero; exec sleep 300"
    command = f"({tar}) | importctl import-tar -m - t-imported"
    until = f"until ls -d {POOL}/.#t-imported* 2>/dev/null; do sleep 0.02; done"
    with managed.background(["sh", "-c", command]):
        host.run(["timeout", "30", "sh", "-c", until], timeout=35)
        (partial,) = leftovers(managed)
        managed.ctl("clean")
        assert leftovers(managed) == [partial]
        host.run(["systemctl", "kill", "--signal=KILL", "systemd-importd.service"])
    gone = "while pgrep -x systemd-import; do sleep 0.02; done"
    host.run(["timeout", "30", "sh", "-c", gone], timeout=35)
    host.run(["pkill", "-f", "sleep 300"], check=False)
    managed.host.run(["systemctl", "restart", UNIT])
    swept = f"while ls -d {POOL}/.#t-imported* 2>/dev/null; do sleep 0.02; done"
    host.run(["timeout", "30", "sh", "-c", swept], timeout=35)
    assert leftovers(managed) == []


def test_what_only_looks_like_a_leftover_stays(managed: Driver) -> None:
    host = managed.host
    names = (".#machined-not-ours", ".#plain", ".#machine.short1234", ".hidden.#x0123456789abcdef.d")
    held = ".#held0123456789abcdef"
    host.run(["mkdir", *(f"{POOL}/{name}" for name in (*names, held))])
    host.run(["ln", "-s", "/etc", f"{POOL}/.#link0123456789abcdef"])
    try:
        hold = ["sh", "-c", f"cd {POOL}/{held} && echo there && exec sleep 300"]
        with managed.background(hold) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "there\n"
            managed.ctl("clean")
            assert set(leftovers(managed)) == {*names[:3], held, ".#link0123456789abcdef"}
    finally:
        host.run(["sh", "-c", f"rm -rf {POOL}/.#* {POOL}/.hidden.*"])
