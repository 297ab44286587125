# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pool moved into a file and back, killed at every step: one of both sides is whole each time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, subprocess, sys
from machined.linux import btrfs, inventory, loopfile, mounts, overmount, treeusers, trees

place = overmount.Place.of(sys.argv[1] + "/machines")
SIZE = 256 << 20
STEPS = [(os, "mkdir"), (os, "rename"), (os, "rmdir"), (os, "unlink"), (os, "fsync"), (os, "ftruncate"),
         (mounts, "unmount"), (trees, "run"), (trees, "remove"), (trees, "rename"), (btrfs, "create")]


def fill():
    os.makedirs(place.directory + "/image/etc")
    os.chmod(place.directory, 0o710)
    with open(place.directory + "/image/etc/file", "w") as file:
        file.write("text")
    os.link(place.directory + "/image/etc/file", place.directory + "/image/hard")
    os.setxattr(place.directory + "/image/hard", "user.note", b"x")
    os.symlink("image", place.directory + "/link")
    os.mkfifo(place.directory + "/image/pipe")
    os.chown(place.directory + "/image/etc", 1000, 1001)
    os.makedirs(place.directory + "/.hidden/usr")
    os.makedirs(place.directory + "/many.v/many_1/etc")
    os.makedirs(place.directory + "/fixed/etc")
    subprocess.run(["chattr", "+i", place.directory + "/fixed"], check=True)
    with open(place.directory + "/disk.raw", "wb") as file:
        file.truncate(64 << 20)
        file.write(b"begin")
    os.link(place.directory + "/disk.raw", place.directory + "/same.raw")


def clear():
    for mount in reversed(mounts.below(sys.argv[1])):
        mounts.unmount(mount.target)
    if os.path.isdir(place.directory + "/fixed"):
        subprocess.run(["chattr", "-i", place.directory + "/fixed"], check=True)
    subprocess.run(["rm", "-rf", *(e.path for e in os.scandir(sys.argv[1]))], check=True)


def content():
    top = os.stat(place.directory)
    inside = [(entry.path, entry.like) for entry in inventory.entries(place.directory)]
    return [(top.st_mode, top.st_uid, top.st_gid), *inside]


def is_read_only(path):
    times = os.stat(path)
    try:
        os.mkdir(path + "/new")
    except OSError:
        return True
    os.rmdir(path + "/new")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return False


def killed_at(step, work):
    # False when it was done before that step.
    child = os.fork()
    if not child:
        left = [step]
        for module, name in STEPS:
            def counted(*words, _real=getattr(module, name), **more):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return _real(*words, **more)
            setattr(module, name, counted)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def check(expected):
    # What is there is one of both, whole, with nothing else.
    assert content() == expected, "not as it was"
    left = sorted(os.listdir(sys.argv[1]))
    found = loopfile.find(place.directory)
    if found is None:
        assert left == ["machines"] and not place.is_mounted, left
    else:
        assert left == ["machines", "machines.raw"] and found.path == place.file, (left, found)
        assert btrfs.is_subvolume(place.directory + "/image")
        os.makedirs(sys.argv[1] + "/look")
        subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[1] + "/look"], check=True)
        assert os.listdir(sys.argv[1] + "/look/machines") == []
        mounts.unmount(sys.argv[1] + "/look")
        os.rmdir(sys.argv[1] + "/look")
    assert is_read_only(place.directory + "/fixed")
    assert not is_read_only(place.directory + "/image")
    return found is not None


def every_step(removing, power, first, stride):
    step, sides = first, set()
    while True:
        fill()
        expected = content()
        if removing:
            overmount.make(place, SIZE)
        work = (lambda: overmount.remove(place)) if removing else (lambda: overmount.make(place, SIZE))
        killed = killed_at(step, work)
        if power:
            for mount in reversed(mounts.below(sys.argv[1])):
                mounts.unmount(mount.target)
            if os.path.exists(place.file):
                loopfile.mount(place.file, place.directory)
        # Who takes it back may be killed as well.
        killed_at(step % 7, lambda: overmount.recover(place))
        overmount.recover(place)
        sides.add(check(expected))
        clear()
        if not killed:
            break
        step += stride
    print(step, sorted(sides))


exec(sys.argv[2])
"""


@pytest.fixture
def run(tmp_path: Path, in_mount_namespace: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Runs code after the program above, in a mount namespace of its own."""
    if shutil.which("mkfs.btrfs") is None or shutil.which("chattr") is None:
        pytest.skip("needs mkfs.btrfs and chattr")
    if "btrfs" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip("no btrfs in this kernel")

    def run(code: str) -> list[str]:
        base = tmp_path / "lib"
        base.mkdir()
        return in_mount_namespace(f"import sys\nsys.argv = ['', {str(base)!r}, {code!r}]\n{PROGRAM}")

    return run


def test_there_and_back(run: Callable[[str], list[str]]) -> None:
    lines = run(
        """
fill()
expected = content()
overmount.make(place, SIZE)
assert check(expected)
subvolumes = ["image", ".hidden", "fixed", "many.v/many_1"]
print(all(btrfs.is_subvolume(f"{place.directory}/{name}") for name in subvolumes))
print(btrfs.is_subvolume(place.directory + "/many.v"))
print(os.stat(place.file).st_blocks * 512 < SIZE // 4, os.stat(place.directory + "/disk.raw").st_blocks <= 8)
with btrfs.open_directory(place.directory) as top:
    print(btrfs.subtree_quota(top.fileno()).referenced > 0)
overmount.remove(place)
assert not check(expected)
clear()
"""
    )
    assert lines == ["True", "False", "True True", "True"]


@pytest.mark.slow
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power-loss"])
@pytest.mark.parametrize("removing", [False, True], ids=["make", "remove"])
def test_every_step_may_be_the_last(run: Callable[[str], list[str]], removing: bool, power: bool) -> None:
    # Each step in one of both ways, unless $MACHINED_BOTH wants more.
    which = "0, 1" if os.environ.get("MACHINED_BOTH") else f"{int(power)}, 2"
    steps, sides = run(f"every_step({removing}, {power}, {which})")[0].split(maxsplit=1)
    assert int(steps) > 20
    assert sides == "[False, True]"  # each way of recovering was needed


def test_what_changes_meanwhile_is_not_lost(run: Callable[[str], list[str]]) -> None:
    lines = run(
        """
fill()
real = overmount.poolcopy.copy
def copy(source, target):
    real(source, target)
    if source == place.directory:
        with open(place.directory + "/image/etc/file", "a") as file:
            file.write("more")
overmount.poolcopy.copy = copy
try:
    overmount.make(place, SIZE)
except OSError as error:
    print(error.errno, error.strerror)
overmount.recover(place)
print(open(place.directory + "/image/etc/file").read(), sorted(os.listdir(sys.argv[1])))
clear()
"""
    )
    assert lines[0].startswith("16 'image/etc/file' was changed")
    assert lines[1] == "textmore ['machines']"


WRITE_WHEN = """
def late(module, name, when, what):
    # Somebody writes just before a step, as often as it is taken.
    real = getattr(module, name)
    def step(*words, **more):
        if when(*words):
            what()
        return real(*words, **more)
    setattr(module, name, step)
    return lambda: setattr(module, name, real)

def write():
    with open(place.directory + "/image/etc/file", "a") as file:
        file.write("more")
    os.makedirs(place.directory + "/imported/etc")

def told(work):
    try:
        work()
    except OSError as error:
        return f"{error.errno} {error.strerror}"
    return "done"
"""


def test_what_changes_after_the_last_look_is_not_lost(run: Callable[[str], list[str]]) -> None:
    """Until the file is mounted over the directory; and until it is mounted there no more."""
    lines = run(
        WRITE_WHEN
        + """
fill()
back = late(loopfile, "mount", lambda file, directory: directory == place.directory, write)
print(told(lambda: overmount.make(place, SIZE)))
back()
overmount.recover(place)
print(place.is_mounted, sorted(os.listdir(sys.argv[1])), os.path.isdir(place.directory + "/imported"))
print(open(place.directory + "/image/etc/file").read())
os.rmdir(place.directory + "/imported/etc")
os.rmdir(place.directory + "/imported")
expected = content()
overmount.make(place, SIZE)
wrote = []
back = late(mounts, "unmount", lambda path: path == place.directory, lambda: wrote.append(told(write)))
overmount.remove(place)
back()
print(wrote, check(expected))
clear()
"""
    )
    assert lines == [
        "16 something in it was changed while it was copied",
        "False ['machines'] True",
        "textmore",
        "['30 Read-only file system'] False",
    ]


def test_who_has_something_open_when_it_is_covered_goes_on(run: Callable[[str], list[str]]) -> None:
    lines = run(
        WRITE_WHEN
        + """
fill()
writer = []
def begin():
    command = ["sh", "-c", "exec 3>>etc/file; cd /; echo; read line; echo $line >&3"]
    writer.append(subprocess.Popen(command, cwd=place.directory + "/image", text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    writer[0].stdout.readline()
back = late(loopfile, "mount", lambda file, directory: directory == place.directory, begin)
print(told(lambda: overmount.make(place, SIZE)) == f"16 it is used by process 'sh' (PID {writer[0].pid})")
back()
overmount.recover(place)
writer[0].communicate("more")
print(open(place.directory + "/image/etc/file").read().strip(), sorted(os.listdir(sys.argv[1])))
clear()
"""
    )
    assert lines == ["True", "textmore ['machines']"]


def test_what_changed_before_a_kill_is_not_lost(run: Callable[[str], list[str]]) -> None:
    """Nobody had looked at the covered directory when it had to be decided which side counts."""
    lines = run(
        WRITE_WHEN
        + """
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
for changed in (True, False):
    fill()
    expected = content()
    if not os.fork():
        if changed:
            late(loopfile, "mount", lambda file, directory: directory == place.directory, write)
        late(os, "rename", lambda source, target: target == place.file, kill)
        late(overmount, "_changed_below", lambda *words: True, kill)
        overmount.make(place, SIZE)
    os.wait()
    print(place.is_mounted)
    overmount.recover(place)
    if changed:
        print(place.is_mounted, os.path.isdir(place.directory + "/imported"))
        print(sorted(os.listdir(sys.argv[1])))
    else:
        print(check(expected))
    clear()
"""
    )
    assert lines == ["True", "False True", "['machines']", "True", "True"]


@pytest.mark.parametrize("by_hand", [False, True], ids=["not-mounted", "mounted-later"])
@pytest.mark.parametrize("removing", [False, True], ids=["make", "remove"])
def test_what_was_put_where_the_pool_did_not_come_up(
    run: Callable[[str], list[str]], removing: bool, by_hand: bool
) -> None:
    """Killed, a boot without the mount, and images that are made in the plain directory."""
    lines = run(
        WRITE_WHEN
        + f"""
removing, by_hand = {removing}, {by_hand}
fill()
expected = content()
if removing:
    overmount.make(place, SIZE)
if not os.fork():
    def kill():
        os.kill(os.getpid(), signal.SIGKILL)
    if removing:
        late(overmount, "_sync_all", lambda path: path == place.parent, kill)
        overmount.remove(place)
    else:
        late(overmount, "_finish", lambda *words: True, kill)
        overmount.make(place, SIZE)
os.wait()
mounts.unmount(place.directory)
write()
if by_hand:
    loopfile.mount(place.file, place.directory)
for _ in range(2):
    print(told(lambda: overmount.recover(place)))
print(place.is_mounted, place.has_leftovers)
if by_hand:
    mounts.unmount(place.directory)
print(open(place.directory + "/image/etc/file").read(), os.listdir(place.directory + "/imported"))
# Moved away, as it was told.
subprocess.run(["rm", "-rf", place.directory + "/imported", place.directory + "/image"], check=True)
if by_hand:
    loopfile.mount(place.file, place.directory)
overmount.recover(place)
print(check(expected))
clear()
"""
    )
    assert lines[0] == lines[1]
    assert lines[0].startswith("17 'image' ")
    assert lines[0].endswith("is new, or was changed meanwhile: move it away")
    assert ("below what is mounted" in lines[0]) == by_hand
    assert lines[2:] == [f"{by_hand} True", "textmore ['etc']", "True"]


def test_a_disk_that_takes_not_all_of_it(run: Callable[[str], list[str]]) -> None:
    """It fills up while the btrfs in the file, which has room, writes back: who copies is told nothing."""
    lines = run(
        WRITE_WHEN
        + """
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96M", "tmpfs", sys.argv[1]], check=True)
fill()
with open(place.directory + "/image/big", "wb") as file:
    for _ in range(60):
        file.write(os.urandom(1 << 20))
expected = content()
print(told(lambda: overmount.make(place, SIZE)))
overmount.recover(place)
print(check(expected))
subprocess.run(["chattr", "-i", place.directory + "/fixed"], check=False)
mounts.unmount(sys.argv[1])
"""
    )
    assert lines[0].startswith("5 "), lines
    assert lines[1:] == ["False"]


def test_bases_of_layers_keep_their_protection(run: Callable[[str], list[str]]) -> None:
    """And lose it with the last layer, wherever the pool is then."""
    lines = run(
        """
from machined.linux import layering, mstack
fill()
base, fixed = place.directory + "/image", place.directory + "/fixed"
layering.protect(base, True)
def states():
    print([is_read_only(base), mstack.is_base(base), is_read_only(fixed), mstack.is_base(fixed)])
states()
for move in (lambda: overmount.make(place, SIZE), lambda: overmount.remove(place)):
    move()
    states()
    for path in (base, fixed):
        layering.protect(path, False)
    states()
    layering.protect(base, True)
layering.protect(base, False)
# What its owner has made read-only since stays so.
overmount.make(place, SIZE)
layering.protect(base, True)
trees.mark_read_only(base, "subvolume", True)
layering.protect(base, False)
states()
trees.mark_read_only(base, "subvolume", False)
print(is_read_only(base))
clear()
"""
    )
    protected, free = "[True, True, True, False]", "[False, False, True, False]"
    assert lines[:5] == [protected, protected, free, protected, free]
    assert lines[5:] == ["[True, False, True, False]", "False"]


def test_what_lies_below_a_pool_stays(run: Callable[[str], list[str]]) -> None:
    """An administrator's own files, hidden by the mount."""
    lines = run(
        """
fill()
overmount.make(place, SIZE)
mounts.unmount(place.directory)
os.mkdir(place.directory + "/precious")
loopfile.mount(place.file, place.directory)
try:
    overmount.remove(place)
except OSError as error:
    print(error.errno, error.strerror)
overmount.recover(place)
print(sorted(os.listdir(sys.argv[1])), loopfile.find(place.directory) is not None)
mounts.unmount(place.directory)
print(os.listdir(place.directory))
clear()
"""
    )
    assert lines == [
        "39 'precious' lies below what is mounted there",
        "['machines', 'machines.raw'] True",
        "['precious']",
    ]


def test_a_pool_in_use_stays_where_it_is(run: Callable[[str], list[str]]) -> None:
    lines = run(
        """
fill()
expected = content()
overmount.make(place, SIZE)
for mode in ("r", "r+"):  # either is seen at another step
    with open(place.directory + "/image/etc/file", mode) as held:
        try:
            overmount.remove(place)
        except OSError as error:
            print(error.errno)
        overmount.recover(place)
    assert content() == expected
print(check(expected))
with subprocess.Popen(["sleep", "infinity"], cwd=place.directory + "/image") as sleeper:
    print(treeusers.user_of(place.directory) == f"process 'sleep' (PID {sleeper.pid})")
    sleeper.kill()
print(repr(treeusers.user_of(place.directory)))
clear()
"""
    )
    assert lines == ["16", "16", "True", "True", "''"]


def test_it_grows_in_use_and_not_without_room(run: Callable[[str], list[str]]) -> None:
    lines = run(
        """
fill()
overmount.make(place, SIZE)
loopfile.grow(place.directory, 2 * SIZE)
status = os.statvfs(place.directory)
print(status.f_blocks * status.f_frsize == 2 * SIZE == os.stat(place.file).st_size)
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3 * SIZE, 3 * SIZE))
try:
    loopfile.grow(place.directory, 4 * SIZE)
except OSError as error:
    print(error.strerror)
status = os.statvfs(place.directory)
print(status.f_blocks * status.f_frsize == 2 * SIZE == os.stat(place.file).st_size)
mounts.unmount(place.directory)
try:
    loopfile.grow(place.directory, 4 * SIZE)
except OSError as error:
    print(error.strerror)
clear()
"""
    )
    assert lines == ["True", "File too large", "True", "Operation not supported"]


def test_what_somebody_else_mounted_meanwhile_hides_the_images_and_no_more(
    run: Callable[[str], list[str]],
) -> None:
    """An attempt that was killed, and then an administrator who made a pool by hand."""
    lines = run(
        """
fill()
expected = content()
real = loopfile.mount
def mount(file, directory, **more):
    if directory == place.directory:
        raise InterruptedError
    real(file, directory, **more)
loopfile.mount = mount
try:
    overmount.make(place, SIZE)
except InterruptedError:
    loopfile.mount = real
loopfile.make(place.file, SIZE)
loopfile.mount(place.file, place.directory)
overmount.recover(place)
print(sorted(os.listdir(sys.argv[1])))
mounts.unmount(place.directory)
print(content() == expected)
clear()
"""
    )
    assert lines == ["['machines', 'machines.raw']", "True"]
