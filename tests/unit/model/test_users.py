# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose users machines have: picked once, written down, held while they run, and never two machines'."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from machined.linux.inifile import parse
from machined.linux.locks import FileLock, holder_conflict
from machined.model import privateusers, rangebook, shifting, userranges
from machined.model.errors import MachineError, Problem
from machined.model.images import Image, ImageType
from machined.model.jobs import Result
from machined.model.privateusers import Range
from machined.model.settings.layers import Source, read
from machined.model.settings.merge import Effective, merge
from machined.model.users import Choice, Users
from tests.fakes.roots import Operations, found
from tests.fakes.sandbox import Sandbox
from tests.fakes.world import World, turns

DEFAULTS = merge([])
RUNS: dict[str, Range] = {}
"""What the kernel says of machines that others have started."""


@pytest.fixture
def users(sandbox: Sandbox) -> Iterator[Users]:
    RUNS.clear()
    made = anew(sandbox)
    yield made
    made.close()


def anew(sandbox: Sandbox) -> Users:
    return Users(RUNS.items, lambda name: (sandbox.pool / name).exists())


def said(text: str) -> Effective:
    return merge([read(parse(text.encode(), "web.nspawn"), Source.NSPAWN, 262)])


def named(value: str) -> Effective:
    return said(f"[Exec]\nPrivateUsers={value}\n")


def is_held(base: int) -> bool:
    return holder_conflict(os.fspath(userranges.LOCKS / str(base)))


def image(sandbox: Sandbox, name: str) -> Image:
    return Image(name, os.fspath(sandbox.image(name)), ImageType.DIRECTORY, read_only=False)


def shifted(monkeypatch: pytest.MonkeyPatch, shift: int | None) -> None:
    """All trees are."""
    monkeypatch.setattr(privateusers, "shift_of", lambda tree: shift)


# -- the book ----------------------------------------------------------------------------------------------


def test_what_is_written_down(sandbox: Sandbox) -> None:
    assert rangebook.get("web") is None
    assert list(rangebook.kept()) == []
    rangebook.keep("web", 0x80000)
    rangebook.keep("web", 0x90000)
    rangebook.keep("db", 0xA0000)
    assert rangebook.get("web") == 0x90000
    assert sorted(rangebook.kept()) == [("db", 0xA0000), ("web", 0x90000)]
    rangebook.rename("web", "site")
    rangebook.rename("none", "site")
    assert sorted(rangebook.kept()) == [("db", 0xA0000), ("site", 0x90000)]
    rangebook.forget("site")
    rangebook.forget("site")
    rangebook.rename("db", "a_b")
    assert list(rangebook.kept()) == [("db", 0xA0000)], "what is called a_b is no machine"


@pytest.mark.parametrize(
    "text", ["x", "1", "65536", "-1:65536", "65536:0", "4294901760:65536", "65536:65536:x", "99999999999:1"]
)
def test_what_is_no_range(sandbox: Sandbox, text: str) -> None:
    rangebook.KEPT.mkdir(parents=True)
    (rangebook.KEPT / "web").symlink_to(text)
    (rangebook.KEPT / "db").touch()
    (rangebook.KEPT / ".#db").symlink_to("524288:65536")
    assert rangebook.get("web") is rangebook.get("db") is None
    assert list(rangebook.kept()) == []


# -- picking -----------------------------------------------------------------------------------------------


async def test_the_same_ever_after(users: Users) -> None:
    first = await users.pick("web", keep=True)
    assert rangebook.get("web") is None, "nothing is changed by a question"
    assert await users.take("web", keep=True) == first
    assert is_held(first)
    assert await users.pick("web", keep=True) == first
    users.release("web")
    assert not is_held(first)
    assert os.listdir(userranges.LOCKS) == os.listdir(rangebook.RUNTIME) == []
    rangebook.keep("web", first + 65536)
    assert await users.take("web", keep=True) == first + 65536


async def test_what_is_kept_for_one_is_no_others(users: Users) -> None:
    first = await users.pick("web", keep=True)
    rangebook.keep("db", first)
    for keep in (True, False):
        assert await users.pick("web", keep=keep) != first
    assert await users.pick("db", keep=True) == first
    assert rangebook.get("web") is None


async def test_what_leaves_nothing_behind_is_not_written_down(users: Users) -> None:
    base = await users.take("one", keep=False)
    assert is_held(base)
    assert list(rangebook.kept()) == []
    users.release("one")


async def test_a_range_that_others_have_for_once(users: Users) -> None:
    first = await users.take("web", keep=True)
    users.release("web")
    userranges.LOCKS.mkdir(exist_ok=True)
    with FileLock.acquire(os.fspath(userranges.LOCKS / str(first))):
        assert await users.take("web", keep=True) != first
        assert rangebook.get("web") == first
        users.release("web")
    RUNS["other"] = Range(first - 65536 * 3, 65536 * 4)
    second = await users.take("web", keep=True)
    assert second != first
    users.release("web")
    RUNS.clear()
    assert await users.take("web", keep=True) == first
    users.release("web")


async def test_a_range_that_is_not_to_be_had_any_more(users: Users) -> None:
    first = await users.take("web", keep=True)
    users.release("web")
    userranges.SUBUID.write_text(f"joe:{first + 7}:1\n", encoding="ascii")
    second = await users.take("web", keep=True)
    assert second != first
    assert rangebook.get("web") == second
    users.release("web")


async def test_users_of_the_host(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await users.pick("web", keep=True)
    known = {first}

    async def is_known(base: int) -> bool:
        return not known or base in known

    monkeypatch.setattr(userranges, "is_known", is_known)
    assert await users.pick("web", keep=True) not in {first, None}
    known.clear()
    with pytest.raises(MachineError, match="PrivateUsers=FIRST") as caught:
        await users.pick("web", keep=True)
    assert caught.value.problem is Problem.LIMITS_EXCEEDED


async def test_who_is_faster(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await users.pick("web", keep=True)
    monkeypatch.setattr(userranges, "is_locked", lambda base: False)  # when it was asked
    userranges.LOCKS.mkdir()
    with FileLock.acquire(os.fspath(userranges.LOCKS / str(first))):
        assert await users.take("web", keep=True) != first
    users.release("web")


# -- trees -------------------------------------------------------------------------------------------------


async def test_a_tree_that_can_be_mapped(users: Users, sandbox: Sandbox) -> None:
    web = image(sandbox, "web")
    choice = await users.plan_tree("web", web, DEFAULTS)
    assert choice is not None
    assert choice.ownership == "auto"
    assert users.get("web") is None
    assert await users.take_tree("web", web, DEFAULTS) == choice
    assert is_held(choice.base)
    told = said("[Files]\nPrivateUsersOwnership=chown\n")
    assert await users.plan_tree("web", web, told) == Choice(choice.base, "chown")


async def test_a_tree_that_is_shifted(
    users: Users, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to that range, unless that is somebody else's."""
    web = image(sandbox, "web")
    shifted(monkeypatch, 0x123_0000)
    assert await users.take_tree("web", web, DEFAULTS) == Choice(0x123_0000, "off")
    assert rangebook.get("web") == 0x123_0000
    copy = image(sandbox, "copy")
    users.release("web")
    choice = await users.plan_tree("copy", copy, DEFAULTS)
    assert choice is not None
    assert choice.base != 0x123_0000, "the original could not have it then"
    assert choice.ownership == "chown"
    rangebook.rename("web", "gone")
    choice = await users.plan_tree("copy", copy, DEFAULTS)
    assert choice == Choice(0x123_0000, "off"), "it was renamed behind our back"
    RUNS["other"] = Range(0x123_0000)
    choice = await users.plan_tree("copy", copy, DEFAULTS)
    assert choice is not None
    assert (choice.base != 0x123_0000, choice.ownership) == (True, "chown")
    with pytest.raises(MachineError, match=r"web.nspawn:2.*machinectl chown copy") as caught:
        await users.plan_tree("copy", copy, said("[Files]\nPrivateUsersOwnership=map\n"))
    assert caught.value.problem is Problem.INVALID_SETTINGS


@pytest.mark.parametrize("shift", [None, 0x7FFE_0000])
async def test_trees_that_are_nspawns_to_judge(
    users: Users, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, shift: int | None
) -> None:
    shifted(monkeypatch, shift)
    assert await users.take_tree("web", image(sandbox, "web"), DEFAULTS) is None
    assert users.get("web") is None


async def test_what_is_not_ours_to_pick(
    users: Users, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = image(sandbox, "web")
    disk = Image("disk", "/nowhere", ImageType.RAW, read_only=False)
    assert await users.take_tree("disk", disk, DEFAULTS) is None
    for value in ("no", "identity", "managed", "yes", "0:65536"):
        assert await users.take_tree("web", web, named(value)) is None
        assert users.get("web") is None
    foreign = said("[Files]\nPrivateUsersOwnership=foreign\n")
    assert await users.take_tree("web", web, foreign) is None
    monkeypatch.setattr(userranges, "has_namespaces", lambda: False)
    assert await users.take_tree("web", web, DEFAULTS) is None
    shifted(monkeypatch, 0x123_0000)
    assert await users.take_tree("web", web, named("yes")) is None
    held = users.get("web")
    assert held is not None
    assert held.users == Range(0x123_0000, named=True), "it is known all the same"


# -- ranges that settings name -----------------------------------------------------------------------------


async def test_ranges_that_overlap(users: Users) -> None:
    base = await users.take("db", keep=True)
    for first, count in ((base, 65536), (base - 1, 2), (base + 65535, 1), (0, 2**31), (base + 5, 7)):
        (finding,) = users.conflicts("web", named(f"{first}:{count}"))
        assert str(finding.place) == "web.nspawn:2"
        assert f"PrivateUsers={first}:{count}: machine 'db'" in finding.text
        assert f"{base} to {base + 65535}" in finding.text
        assert users.conflicts("db", named(f"{first}:{count}")) == []
    for value in (f"{base - 65536}:65536", f"{base + 65536}", "pick", "no", "yes", "identity", ""):
        assert users.conflicts("web", named(value)) == []


async def test_ranges_that_are_shared(users: Users, sandbox: Sandbox) -> None:
    """By those whose settings name them both."""
    web, db = image(sandbox, "web"), image(sandbox, "db")
    settings = named("1310720:65536")
    await users.take_tree("db", db, settings)
    assert users.conflicts("web", settings) == []
    await users.take_tree("web", web, settings)
    assert users.conflicts("x", named("1310720:65535")) != []
    users.release("db")
    assert users.get("web") is not None
    RUNS.update(vm=Range(2**20 * 3), picked=Range(2**20 * 5))
    assert users.conflicts("x", named(f"{2**20 * 3}:65536")) == []
    with FileLock.acquire(os.fspath(userranges.LOCKS / str(2**20 * 5))):
        assert users.conflicts("x", named(f"{2**20 * 5}:65536")) != [], "it was picked by systemd-nspawn"


async def test_picking_keeps_off_what_is_named(users: Users, sandbox: Sandbox) -> None:
    first = await users.pick("web", keep=True)
    await users.take_tree("db", image(sandbox, "db"), named(f"{first + 65535}:2"))
    assert await users.pick("web", keep=True) not in {first, first + 65536}


# -- the life of a machine ---------------------------------------------------------------------------------


def test_after_a_restart(users: Users, sandbox: Sandbox) -> None:
    users.hold("runs", Range(0x90_0000))
    users.hold("over", Range(0x91_0000))
    users.hold("named", Range(1310720, 3, named=True))
    users.close()
    assert not is_held(0x90_0000)
    later = anew(sandbox)
    later.adopt(lambda name: name != "over")
    assert is_held(0x90_0000)
    assert not is_held(0x91_0000)
    held = later.get("named")
    assert held is not None
    assert held.users == Range(1310720, 3, named=True)
    assert later.get("over") is None
    assert dict(rangebook.running()) == {"runs": Range(0x90_0000), "named": Range(1310720, 3, named=True)}
    later.close()


async def test_a_start_and_an_end(host: World) -> None:
    host.sandbox.image("web")
    host.boots()
    planned = await host.core.roots.users.plan_tree("web", found(host, "web"), DEFAULTS)
    job = await host.core.lifecycle.start("web")
    await job.over.wait()
    command = host.systemd.transient["machine-web.service"]["ExecStart"][0][1]
    base = rangebook.get("web")
    assert base is not None
    assert planned == Choice(base, "auto")
    assert {f"--private-users={base}:65536", "--private-users-ownership=auto"} < set(command)
    assert is_held(base)
    host.ends(host.core.registry.find("web"))
    await turns(100)
    assert not is_held(base)
    assert host.core.roots.users.get("web") is None
    await host.core.image_ops.rename(found(host, "web"), "site")
    assert dict(rangebook.kept()) == {"site": base}
    await host.core.image_ops.remove(found(host, "site"))
    assert dict(rangebook.kept()) == {}


@pytest.mark.parametrize("result", ["failed", "canceled"])
async def test_a_start_that_fails(host: World, result: str) -> None:
    host.sandbox.image("web")
    host.systemd.hooks["start_transient"] = lambda unit, *_: host.systemd.finish(
        host.systemd.last_job(), unit, result
    )
    job = await host.core.lifecycle.start("web")
    await job.over.wait()
    assert job.result is Result.FAILED
    assert os.listdir(userranges.LOCKS) == os.listdir(rangebook.RUNTIME) == []


async def test_a_start_that_is_refused(host: World) -> None:
    host.sandbox.image("web")
    host.core.roots.users.hold("db", Range(0x90_0000))
    (host.sandbox.settings / "web.nspawn").write_text("[Exec]\nPrivateUsers=9437185\n", encoding="ascii")
    with pytest.raises(MachineError, match=r"web.nspawn:2: .*PrivateUsers=9437185:65536: machine 'db'"):
        await host.core.lifecycle.start("web")
    assert host.systemd.transient == {}


async def test_layers_are_written_down_as_well(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    root = await host.core.roots.prepare("one", found(host, "web"), True, DEFAULTS)
    assert rangebook.get("one") is None
    planned = await host.core.roots.plan("web", found(host, "web"), False, DEFAULTS)
    kept = await host.core.roots.prepare("web", found(host, "web"), False, DEFAULTS)
    assert rangebook.get("web") == kept.base == planned.base != root.base


async def give(host: World, image: Image, base: int) -> tuple[int, int]:
    return await shifting.chown(host.core.image_ops, host.core.roots, host.core.states, image, base)


# -- chown -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"type": ImageType.MSTACK}, "machinectl flatten web"),
        ({"type": ImageType.RAW}, "a disk image"),
        ({"read_only": True}, "machinectl read-only web no"),
        ({"path": "/proc/self/root"}, "this host runs on"),
    ],
)
async def test_what_cannot_be_given_away(host: World, fields: dict[str, object], text: str) -> None:
    tree = host.sandbox.image("web")
    values = {"path": os.fspath(tree), "type": ImageType.DIRECTORY, "read_only": False, **fields}
    with pytest.raises(MachineError, match=text) as caught:
        await give(host, Image("web", **values), 0)  # type: ignore[arg-type]
    assert caught.value.problem is Problem.NOT_SUPPORTED


@pytest.mark.parametrize("base", [1, 65535, -65536, 0xFFFF_0000, 2**32])
async def test_what_begins_no_range(host: World, base: int) -> None:
    host.sandbox.image("web")
    with pytest.raises(MachineError, match="No range of users") as caught:
        await give(host, found(host, "web"), base)
    assert caught.value.problem is Problem.INVALID_ARGS


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_a_tree_is_given_away(host: World) -> None:
    tree: Path = host.sandbox.image("web")
    changed, left = await give(host, found(host, "web"), 0x90_0000)
    assert (changed > 5, left) == (True, 0)
    assert (tree / "etc").stat().st_uid == 0x90_0000
    with (
        FileLock.acquire(os.fspath(found(host, "web").lock_paths()[0])),
        pytest.raises(OSError, match="busy"),
    ):
        await give(host, found(host, "web"), 0)
    assert await give(host, found(host, "web"), 0) == (changed, 0)


async def test_a_tree_is_not_given_away_from_below_a_machine(
    host: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even right before systemd-nspawn locks it; right after an end that is waited for."""
    host.sandbox.image("web")
    host.boots()
    await (await host.core.lifecycle.start("web")).over.wait()
    with pytest.raises(MachineError, match="Power it off first") as caught:
        await give(host, found(host, "web"), 0)
    assert caught.value.problem is Problem.IMAGE_BUSY
    host.ends(host.core.registry.find("web"))
    assert host.core.roots.holds("web")
    assert await give(host, found(host, "web"), 0) == (0, 0)
