# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bind mounts and copies on the bus: the order of the checks, what polkit is asked, and the limit."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import pytest

from machined.bus.connection import RemoteError
from machined.linux import helper, process
from machined.linux.fds import FdSet
from machined.model.inflight import MAX_OPERATIONS
from machined.model.machine import MachineClass
from tests.fakes.polkit import NO
from tests.fakes.service import MACHINE, Client, Served

USER = 1000
DBUS = "org.freedesktop.DBus.Error."
WEB = "/org/freedesktop/machine1/machine/web"
UNNAMED = "Failed to extract file name of '{}' path: Invalid argument"
NORMALIZED = "path must be absolute and normalized."

COPIES = [("CopyFromMachine", "CopyFrom"), ("CopyToMachine", "CopyTo")]


class Helper:
    """In place of the process that works in the guest. `answer` is what it says, `go` when."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, dict[str, Any]]] = []
        self.answer: dict[str, Any] | OSError = {}
        self.go = asyncio.Event()
        self.go.set()

    async def run(self, op: str, target: object, args: dict[str, Any], *_: Any, **__: Any) -> helper.Reply:
        if op == "observe":  # the daemon's own interest in the guest, which is none of these tests'
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        self.jobs.append((op, dict(args)))
        await self.go.wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return helper.Reply(self.answer, FdSet())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Helper:
    made = Helper()
    monkeypatch.setattr(helper, "run", made.run)
    return made


@pytest.fixture(autouse=True)
async def web(service: Served, fake: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.machine("web")
    maps(monkeypatch, 0)


def maps(monkeypatch: pytest.MonkeyPatch, shift: int, count: int = 65536) -> None:
    """How the users of all machines are mapped from now on."""
    monkeypatch.setattr(process, "id_map", lambda pid, kind: [(0, shift, count)])


async def refused(client: Client, *call: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(RemoteError) as caught:
        await client.call(*call, **more)
    return caught.value.name, caught.value.text


def system(number: int, text: str = "") -> tuple[str, str]:
    return f"System.Error.{errno.errorcode[number]}", text or os.strerror(number)


class TestCopy:
    @pytest.mark.parametrize(("to_guest", "names"), list(enumerate(COPIES)))
    async def test_what_is_copied(
        self, client: Client, fake: Helper, to_guest: int, names: tuple[str, str]
    ) -> None:
        await client.call(names[0], "sss", "web", "/from/here", "/to/there")
        await client.call(names[0] + "WithFlags", "ssst", "web", "/from/here", "/to/there", 1)
        on_object: dict[str, Any] = {"path": WEB, "interface": MACHINE}
        await client.call(names[1], "ss", "/from/here", "", **on_object)
        await client.call(names[1] + "WithFlags", "sst", "/from/here", "/to/there", 0, **on_object)
        here, there = ("/from", "here"), ("/to", "there")
        host, guest = (here, there) if to_guest else (there, here)
        common = {"to_guest": bool(to_guest), "owner": None}
        whole = {"host": host, "guest": guest, **common}
        same = {"host": here, "guest": here, **common}
        assert fake.jobs == [
            ("copy", {**whole, "replace": False}),
            ("copy", {**whole, "replace": True}),
            ("copy", {**same, "replace": False}),
            ("copy", {**whole, "replace": False}),
        ]

    async def test_owners(self, client: Client, fake: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
        """All becomes the root user's of the side it goes to."""
        maps(monkeypatch, 100_000)
        for member, _ in COPIES:
            await client.call(member, "sss", "web", "/a", "/b")
        assert [job["owner"] for _, job in fake.jobs] == [0, 100_000]

    @pytest.mark.parametrize("version", [257, 262], indirect=True)
    @pytest.mark.parametrize(
        ("source", "destination", "old", "new"),
        [
            ("a", "b", "Source path must be absolute.", f"Source {NORMALIZED}"),
            ("", "", "Source path must be absolute.", f"Source {NORMALIZED}"),
            ("/a", "b", "Destination path must be absolute.", f"Destination {NORMALIZED}"),
            ("/a/..", "/b", UNNAMED.format("/a/.."), f"Source {NORMALIZED}"),
            ("/a", "/b/../", UNNAMED.format("/b/../"), f"Destination {NORMALIZED}"),
        ],
    )  # fmt: skip
    async def test_bad_paths(
        self, service: Served, client: Client, source: str, destination: str, old: str, new: str
    ) -> None:
        text = new if service.core.version == 262 else old
        answer = await refused(client, "CopyToMachine", "sss", "web", source, destination)
        assert answer == (DBUS + "InvalidArgs", text)

    @pytest.mark.parametrize("version", [257, 262], indirect=True)
    async def test_the_root_directory_has_no_name(self, service: Served, client: Client) -> None:
        old = "Failed to extract file name of '/' path"
        what = "Failed to copy from/to machine 'web'" if service.core.version == 262 else old
        assert await refused(client, "CopyToMachine", "sss", "web", "/", "/b") == (
            DBUS + "BadAddress",
            f"{what}: Cannot assign requested address",
        )

    @pytest.mark.parametrize("version", [257, 262], indirect=True)
    async def test_failures(self, service: Served, client: Client, fake: Helper) -> None:
        fake.answer = {"failed": "host", "errno": errno.ENOTDIR}
        modern = service.core.version == 262
        what = "Failed to copy from/to machine 'web'" if modern else "Failed to open host directory /a/x"
        assert await refused(client, "CopyToMachine", "sss", "web", "/a/x", "/b") == system(
            errno.ENOTDIR, f"{what}: Not a directory"
        )
        fake.answer = {"failed": "copy", "errno": errno.EEXIST}
        expected = (DBUS + "FileExists", "File exists")
        assert await refused(client, "CopyToMachine", "sss", "web", "/a", "/b") == expected
        fake.answer = {"failed": ["nonsense"]}
        assert (await refused(client, "CopyToMachine", "sss", "web", "/a", "/b"))[0] == DBUS + "IOError"

    @pytest.mark.parametrize("flags", [2, 3, 1 << 63, (1 << 64) - 1])
    async def test_unknown_flags(self, client: Client, flags: int) -> None:
        """Before anything else about the arguments."""
        answer = await refused(client, "CopyToMachineWithFlags", "ssst", "web", "a", "b", flags)
        assert answer == (DBUS + "InvalidArgs", "Invalid argument")

    async def test_only_containers(self, service: Served, client: Client) -> None:
        await service.machine("vm", cls=MachineClass.VM)
        text = "Copying files is only supported on container machines."
        for name in ("vm", ".host"):
            answer = await refused(client, "CopyToMachineWithFlags", "ssst", name, "a", "b", 7)
            assert answer == (DBUS + "NotSupported", text)

    async def test_so_many_at_once(self, client: Client, fake: Helper) -> None:
        fake.go.clear()
        calls = [
            asyncio.ensure_future(client.call("CopyToMachine", "sss", "web", "/a", f"/{number}"))
            for number in range(MAX_OPERATIONS)
        ]
        while len(fake.jobs) < MAX_OPERATIONS:
            await client.call("GetMachine", "s", "web")
        # Even of what is no machine for it.
        answer = await refused(client, "CopyToMachine", "sss", ".host", "a", "b")
        assert answer == (DBUS + "LimitsExceeded", "Too many ongoing copies.")
        fake.go.set()
        await asyncio.gather(*calls)
        await client.call("CopyToMachine", "sss", "web", "/a", "/b")

    async def test_it_ends_with_the_machine(self, service: Served, client: Client, fake: Helper) -> None:
        fake.go.clear()
        call = asyncio.ensure_future(refused(client, "CopyToMachine", "sss", "web", "/a", "/b"))
        while not fake.jobs:
            await client.call("GetMachine", "s", "web")
        await client.call("UnregisterMachine", "s", "web")
        assert await call == ("org.freedesktop.machine1.NoSuchMachine", "No machine 'web' known")
        assert not len(service.core.files.operations)

    async def test_it_ends_with_the_daemon(self, service: Served, client: Client, fake: Helper) -> None:
        fake.go.clear()
        call = asyncio.ensure_future(refused(client, "CopyToMachine", "sss", "web", "/a", "/b"))
        while not fake.jobs:
            await client.call("GetMachine", "s", "web")
        await service.service.dispatcher.close()
        assert (await call)[0] == DBUS + "NoReply"
        assert not len(service.core.files.operations)

    async def test_a_complex_mapping(
        self, client: Client, fake: Helper, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        maps(monkeypatch, 100_000, 10)
        assert await refused(client, "CopyToMachine", "sss", "web", "/a", "/b") == system(errno.ENXIO)
        assert await refused(client, "BindMountMachine", "sssbb", "web", "/a", "/b", False, False) == system(
            errno.ENXIO
        )
        assert not fake.jobs


class TestBind:
    async def test_what_is_mounted(self, client: Client, fake: Helper) -> None:
        await client.call("BindMountMachine", "sssbb", "web", "/a", "/b", True, False)
        await client.call("BindMount", "ssbb", "/a", "", False, True, path=WEB, interface=MACHINE)
        assert fake.jobs == [
            ("bind", {"source": "/a", "destination": "/b", "read_only": True, "mkdir": False}),
            ("bind", {"source": "/a", "destination": "/a", "read_only": False, "mkdir": True}),
        ]

    async def test_failures(self, client: Client, fake: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
        call = ("BindMountMachine", "sssbb", "web", "/a", "/b", True, False)
        fake.answer = FileNotFoundError(errno.ENOENT, "somewhere inside")
        text = "Failed to mount /a on /b in machine's namespace: No such file or directory"
        assert await refused(client, *call) == (DBUS + "FileNotFound", text)
        maps(monkeypatch, 100_000)
        text = "Can't bind mount on container with user namespacing applied."
        assert await refused(client, *call) == (DBUS + "NotSupported", text)

    async def test_bad_arguments(self, client: Client) -> None:
        for source, destination, what in (("a", "b", "Source"), ("/a", "b", "Destination")):
            call = ("BindMountMachine", "sssbb", "web", source, destination, False, False)
            assert await refused(client, *call) == (DBUS + "InvalidArgs", f"{what} {NORMALIZED}")
        text = "Bind mounting is only supported on container machines."
        call = ("BindMountMachine", "sssbb", ".host", "a", "b", False, False)
        assert await refused(client, *call) == (DBUS + "NotSupported", text)


@pytest.mark.parametrize("version", [257, 258], indirect=True)
class TestPolkit:
    @pytest.mark.parametrize(
        ("member", "signature", "rest", "verb"),
        [
            ("BindMountMachine", "sssbb", [False, True], "bind"),
            ("CopyFromMachine", "sss", [], "copy"),
            ("CopyToMachine", "sss", [], "copy"),
            ("CopyFromMachineWithFlags", "ssst", [1], "copy"),
            ("CopyToMachineWithFlags", "ssst", [1], "copy"),
        ],
    )
    @pytest.mark.parametrize(("given", "told"), [("/b", "/b"), ("", "/a")])
    async def test_details(
        self,
        service: Served,
        fake: Helper,
        member: str,
        signature: str,
        rest: list[Any],
        verb: str,
        given: str,
        told: str,
    ) -> None:
        """Also who has registered the machine is asked."""
        await service.machine("mine", uid=USER)
        service.pretend(USER)
        service.polkit.answer = NO
        name, _ = await refused(service.client, member, signature, "mine", "/a", given, *rest)
        assert name == DBUS + "AccessDenied"
        question = service.polkit.questions.get_nowait()
        assert question.action == "org.freedesktop.machine1.manage-machines"
        assert question.details == {"machine": "mine", "verb": verb, "src": "/a", "dest": told}
        assert not fake.jobs

    async def test_a_machine_that_goes_meanwhile(self, service: Served, fake: Helper) -> None:
        service.pretend(USER)
        service.polkit.go_on.clear()
        call = asyncio.ensure_future(refused(service.client, "CopyToMachine", "sss", "web", "/a", "/b"))
        await service.polkit.questions.get()
        service.core.registrar.unregister(service.core.registry.find("web"))
        service.polkit.go_on.set()
        assert (await call)[0] == "org.freedesktop.machine1.NoSuchMachine"
        assert not fake.jobs
