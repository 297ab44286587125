# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is kept of containers, with real processes in namespaces of their own for containers."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from machined.linux import helper, inotify, syscalls
from machined.model import guests as guests_module
from machined.model import metadata
from machined.model.guests import Guests
from machined.model.machine import Machine, MachineClass
from machined.model.registry import Registry
from tests.settled import descriptors
from tests.unit.linux.conftest import Guest, guest_with
from tests.until import until


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with guest_with("user", "mnt", "pid", "net") as made:
        (made.tree / "usr/lib").mkdir(parents=True)
        for directory in (made.tree / "usr", made.tree / "usr/lib"):
            directory.chmod(0o777)
        yield made


@pytest.fixture
def etc(guest: Guest) -> Iterator[Path]:
    """The guest's /etc, with an os-release in it."""
    (guest.tree / "etc/os-release").write_text("ID=one\n")
    yield guest.tree / "etc"
    for file in [*guest.tree.glob("etc/*"), *guest.tree.glob("usr/lib/*")]:
        file.unlink()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def guests(registry: Registry) -> AsyncIterator[Guests]:
    made = Guests(registry)
    yield made
    await made.close()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that helpers have done."""
    found: list[str] = []
    real: Callable[..., Awaitable[helper.Reply]] = helper.run

    async def run(op: str, *args: Any, **more: Any) -> helper.Reply:
        found.append(op)
        return await real(op, *args, **more)

    monkeypatch.setattr(helper, "run", run)
    return found


def register(registry: Registry, guest: Guest, name: str = "web") -> Machine:
    machine = Machine(name, MachineClass.CONTAINER)
    machine.set_leader(guest.ref)
    registry.add(machine)
    return machine


def watches_on(guests: Guests) -> int:
    """As the kernel counts them."""
    instance = guests._metadata._inotify
    assert instance is not None
    return Path(f"/proc/self/fdinfo/{instance.fileno()}").read_text().count("inotify wd")


def remove(registry: Registry, machine: Machine) -> None:
    registry.remove(machine)
    registry.announce_removed(machine)


async def shows(guests: Guests, machine: Machine, expected: str) -> None:
    """Wait for the event that makes it known."""

    async def does() -> bool:
        return (await guests.os_release(machine)).get("ID") == expected

    await until(does)


async def test_asked_once(
    etc: Path, guest: Guest, registry: Registry, guests: Guests, jobs: list[str]
) -> None:
    machine = register(registry, guest)
    for _ in range(3):
        assert await guests.os_release(machine) == {"ID": "one"}
        assert [a.address[3] for a in await guests.addresses(machine)] == [7]
        assert await guests.for_listing([machine]) == [({"ID": "one"}, ["192.0.2.7"])]
    assert jobs == ["observe"]


async def test_asked_by_many_at_once(
    etc: Path, guest: Guest, registry: Registry, guests: Guests, jobs: list[str]
) -> None:
    machine = register(registry, guest)
    await asyncio.gather(*(guests.os_release(machine) for _ in range(20)))
    assert jobs == ["observe"]


async def test_addresses_alone_need_no_file(
    guest: Guest, registry: Registry, guests: Guests, jobs: list[str]
) -> None:
    machine = register(registry, guest)
    for _ in range(2):
        assert [a.address[3] for a in await guests.addresses(machine)] == [7]
    assert jobs == ["netlink"]


@pytest.mark.parametrize("how", ["in place", "renamed", "removed", "link", "behind the link"])
async def test_changes_show_up(
    etc: Path, guest: Guest, registry: Registry, guests: Guests, how: str
) -> None:
    machine, file, vendor = register(registry, guest), etc / "os-release", guest.tree / "usr/lib/os-release"
    vendor.write_text("ID=vendor\n")
    if how == "behind the link":
        file.unlink()
        file.symlink_to("../usr/lib/os-release")
        await shows(guests, machine, "vendor")
    else:
        await shows(guests, machine, "one")
    match how:
        case "in place":
            file.write_text("ID=two\n")
        case "renamed":
            (etc / "new").write_text("ID=two\n")
            (etc / "new").rename(file)
        case "removed":
            vendor.write_text("ID=two\n")
            file.unlink()
        case "link":
            (etc / "elsewhere").write_text("ID=two\n")
            (etc / "link").symlink_to("elsewhere")
            (etc / "link").rename(file)
        case "behind the link":
            (guest.tree / "usr/lib/new").write_text("ID=two\n")
            (guest.tree / "usr/lib/new").rename(vendor)
    await shows(guests, machine, "two")
    vendor.write_text("ID=three\n")
    if how in {"removed", "behind the link"}:
        await shows(guests, machine, "three")


async def test_that_there_is_none_is_kept_too(
    etc: Path, guest: Guest, registry: Registry, guests: Guests, jobs: list[str]
) -> None:
    (etc / "os-release").unlink()
    machine = register(registry, guest)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="Failed to get OS release"):
            await guests.os_release(machine)
    assert jobs == ["observe"]
    (etc / "os-release").write_text("ID=new\n")

    async def does() -> bool:
        return (await guests.for_listing([machine]))[0][0] == {"ID": "new"}

    await until(does)


async def test_a_busy_directory_wakes_nobody(
    etc: Path, guest: Guest, registry: Registry, guests: Guests, jobs: list[str]
) -> None:
    """The first change ends the watch, and only the next question puts it up again."""
    machine = register(registry, guest)
    await guests.os_release(machine)
    told: list[object] = []
    guests._metadata._inotify._changed = told.append  # type: ignore[union-attr]
    for number in range(500):
        (etc / f"file{number}").write_text("")
    await until(lambda: bool(told))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(told) == 1
    assert jobs == ["observe"]


async def test_lost_events(
    etc: Path, guest: Guest, registry: Registry, guests: Guests, jobs: list[str]
) -> None:
    machine = register(registry, guest)
    await guests.os_release(machine)
    guests._metadata._changed(None)
    await guests.os_release(machine)
    assert jobs == ["observe", "observe"]


async def test_a_change_while_it_is_read(
    etc: Path, guest: Guest, registry: Registry, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event may be read before the answer that names the watch."""
    machine = register(registry, guest)
    real: Callable[..., Awaitable[helper.Reply]] = helper.run

    async def run(*args: Any, **more: Any) -> helper.Reply:
        monkeypatch.setattr(helper, "run", real)
        reply = await real(*args, **more)
        (etc / "os-release").write_text("ID=two\n")
        await until(lambda: bool(guests._metadata._fired))
        return reply

    monkeypatch.setattr(helper, "run", run)
    assert await guests.os_release(machine) == {"ID": "one"}
    assert await guests.os_release(machine) == {"ID": "two"}
    assert not guests._metadata._fired


async def test_machines_may_share_a_directory(
    etc: Path, guest: Guest, registry: Registry, guests: Guests
) -> None:
    first, second = register(registry, guest), register(registry, guest, "db")
    for machine in (first, second):
        await shows(guests, machine, "one")
    remove(registry, first)
    (etc / "os-release").write_text("ID=two\n")
    await shows(guests, second, "two")
    remove(registry, second)
    assert guests._metadata._of_watch == {}


async def test_the_end_of_a_machine_closes_everything(
    etc: Path, guest: Guest, registry: Registry, guests: Guests
) -> None:
    before = len(descriptors())
    machine = register(registry, guest)
    await guests.for_listing([machine])
    assert len(descriptors()) == before + 3  # the route socket, the mounts, and inotify
    assert watches_on(guests) == 2
    remove(registry, machine)
    assert len(descriptors()) == before + 1
    assert guests._metadata._entries == {}
    assert watches_on(guests) == 0


async def test_it_ends_while_it_is_asked(
    etc: Path, guest: Guest, registry: Registry, guests: Guests
) -> None:
    machine = register(registry, guest)
    task = asyncio.ensure_future(guests.for_listing([machine]))
    await asyncio.sleep(0)
    remove(registry, machine)
    assert len(await task) == 1
    assert guests._metadata._of_watch == {}


async def test_it_ends_while_its_system_is_asked_for(
    etc: Path, guest: Guest, registry: Registry, guests: Guests
) -> None:
    """Who asked is not cancelled with the look."""
    machine = register(registry, guest)
    task = asyncio.ensure_future(guests.os_release(machine))
    await asyncio.sleep(0)
    remove(registry, machine)
    with pytest.raises(ProcessLookupError):
        await task


MOUNT_OVER_ETC = """
import ctypes, os, sys
from machined.linux import syscalls
libc = ctypes.CDLL(None)
namespace, root = (os.open(f"/proc/{sys.argv[1]}/{what}", os.O_RDONLY) for what in ("ns/mnt", "root"))
syscalls.setns(namespace, syscalls.CLONE_NEWNS)
os.fchdir(root)
os.chroot(".")
sys.exit(libc.mount(b"tmpfs", b"/etc", b"tmpfs", 0, None))
"""


def mount_over_etc(guest: Guest) -> None:
    """A file system with another os-release in it."""
    pid = str(guest.ref.pid)
    subprocess.run([sys.executable, "-c", MOUNT_OVER_ETC, pid], check=True, timeout=30)
    Path(f"/proc/{pid}/root/etc/os-release").write_text("ID=two\n")


async def test_what_is_mounted_over_it(
    etc: Path, registry: Registry, guests: Guests, jobs: list[str]
) -> None:
    with guest_with("user", "mnt", "pid", "net") as own:
        (own.tree / "etc/os-release").write_text("ID=one\n")
        machine = register(registry, own)
        await shows(guests, machine, "one")
        mount_over_etc(own)
        await shows(guests, machine, "two")
        jobs.clear()
        await shows(guests, machine, "two")
        assert jobs == []


async def test_what_is_kept_ends_with_the_leader(registry: Registry, guests: Guests) -> None:
    with guest_with("user", "mnt", "pid", "net") as own:
        (own.tree / "etc/os-release").write_text("ID=one\n")
        machine = register(registry, own)
        await shows(guests, machine, "one")
        own.ref.kill(9)
        await until(lambda: not own.ref.alive())
        for question in (guests.os_release, guests.addresses):
            with pytest.raises(ProcessLookupError):
                await question(machine)


@pytest.mark.parametrize("what", ["instances", "watches"])
async def test_without_inotify_an_answer_is_good_for_a_while(
    etc: Path,
    guest: Guest,
    registry: Registry,
    guests: Guests,
    jobs: list[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    def none_left() -> int:
        if what == "instances":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        # No watch can be put up on it.
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    class Quiet(inotify.Inotify):
        def __init__(self, changed: Callable[[set[int] | None], object]) -> None:
            self._fd = none_left()

        def close(self) -> None:
            os.close(self._fd)

    monkeypatch.setattr(metadata, "Inotify", Quiet)
    monkeypatch.setattr(metadata, "VALID", 0.2)
    machine = register(registry, guest)
    for _ in range(3):
        await guests.os_release(machine)
    assert jobs == ["observe"]
    (etc / "os-release").write_text("ID=two\n")
    await asyncio.sleep(0.25)
    assert await guests.os_release(machine) == {"ID": "two"}


async def test_one_that_hangs_is_not_asked_by_every_listing(
    guest: Guest, registry: Registry, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def hang(op: str, *args: Any, **more: Any) -> helper.Reply:
        asked.append(op)
        raise TimeoutError(errno.ETIMEDOUT, "it hangs")

    monkeypatch.setattr(helper, "run", hang)
    monkeypatch.setattr(guests_module, "LISTING_TIMEOUT", 0.2)
    machine = register(registry, guest)
    for _ in range(3):
        assert await guests.for_listing([machine]) == [({}, [])]
    assert asked == ["observe"]
    with pytest.raises(TimeoutError):
        await guests.os_release(machine)
    assert len(asked) == 2


async def test_a_new_machine_is_looked_at_by_itself(
    etc: Path,
    guest: Guest,
    registry: Registry,
    guests: Guests,
    jobs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata, "DELAY", 0.0)
    machine = register(registry, guest)
    registry.announce(machine)
    await until(lambda: guests._metadata.entry(machine).good)
    assert await guests.os_release(machine) == {"ID": "one"}
    assert jobs == ["observe"]


async def test_many_machines_in_one_listing(
    etc: Path, guest: Guest, registry: Registry, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than may wait for a helper."""
    monkeypatch.setattr(helper, "QUEUE", 16)
    async with helper.kept():
        machines = [register(registry, guest, f"m{number}") for number in range(40)]
        assert await guests.for_listing(machines) == [({"ID": "one"}, ["192.0.2.7"])] * 40


def test_the_numbers_of_inotify() -> None:
    """A watch that lives for one event."""
    assert syscalls.IN_ONESHOT == 1 << 31
