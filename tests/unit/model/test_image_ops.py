# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from machined.linux import worker
from machined.linux.locks import FileLock
from machined.linux.worker import Workers
from machined.model import credentials, image_locks, image_metadata, pool
from machined.model.core import SHORT_WORKERS
from machined.model.errors import MachineError, Problem
from machined.model.images import UNKNOWN, Image, Images
from machined.model.names import HOST
from machined.model.pool import CleanMode
from tests.fakes.world import World

both = pytest.mark.parametrize("version", [257, 262], indirect=True)


def found(host: World, name: str) -> Image:
    image = host.core.images.find(name)
    assert image is not None
    return image


def names(host: World) -> list[str]:
    return sorted(image.name for image in host.core.images.list() if not image.is_host)


async def fails(operation: Awaitable[object], number: int) -> None:
    with pytest.raises(OSError) as caught:
        await operation
    assert caught.value.errno == number, os.strerror(caught.value.errno or 0)


def vendor(tmp_path: Path) -> Image:
    image = Images((Path("/usr"),)).find("share")
    assert image is not None
    return image


@both
async def test_a_clone_is_whole_and_brings_its_settings(host: World) -> None:
    host.sandbox.image("web")
    for place in (host.sandbox.settings, host.sandbox.pool):
        (place / "web.nspawn").write_text("[Exec]", encoding="ascii")
    operations = host.core.image_ops
    await operations.clone(found(host, "web"), "two", False)
    assert names(host) == ["two", "web"]
    assert (host.sandbox.pool / "two/etc/os-release").is_file()
    for place in (host.sandbox.settings, host.sandbox.pool):
        assert (place / "two.nspawn").read_text(encoding="ascii") == "[Exec]"
    await fails(operations.clone(found(host, "web"), "two", False), errno.EEXIST)
    await fails(operations.clone(found(host, "web"), HOST, False), errno.EBUSY)
    await fails(operations.clone(found(host, "web"), "a/b", False), errno.EINVAL)
    assert list(host.sandbox.locks.iterdir()) == []


@both
async def test_renaming(host: World) -> None:
    host.sandbox.image("web")
    (host.sandbox.settings / "web.nspawn").touch()
    (host.sandbox.pool / "disk.raw").touch()
    operations = host.core.image_ops
    renamed = await operations.rename(found(host, "web"), "site")
    assert (renamed.name, renamed.path) == ("site", str(host.sandbox.pool / "site"))
    assert (host.sandbox.settings / "site.nspawn").exists()
    await operations.rename(found(host, "disk"), "disc")
    assert (host.sandbox.pool / "disc.raw").exists()
    await fails(operations.rename(found(host, "site"), "disc"), errno.EEXIST)
    await fails(operations.rename(found(host, HOST), "x"), errno.EROFS)
    assert names(host) == ["disc", "site"]


@both
async def test_removing(host: World, tmp_path: Path) -> None:
    host.sandbox.image("web")
    (host.sandbox.pool / "disk.raw").touch()
    for name in ("web.nspawn", "disk.nspawn"):
        (host.sandbox.settings / name).touch()
    operations = host.core.image_ops
    await operations.remove(found(host, "web"))
    await operations.remove(found(host, "disk"))
    assert names(host) == []
    assert list(host.sandbox.settings.iterdir()) == []
    await fails(operations.remove(found(host, HOST)), errno.EROFS)
    await fails(operations.remove(vendor(tmp_path)), errno.EROFS)


async def test_an_image_in_use_is_left_alone(host: World) -> None:
    host.sandbox.image("web")
    image = found(host, "web")
    operations = host.core.image_ops
    with FileLock.acquire(os.fspath(image.lock_paths()[0])):
        await fails(operations.remove(image), errno.EBUSY)
        await fails(operations.rename(image, "x"), errno.EBUSY)
        await fails(operations.mark_read_only(image, True), errno.EBUSY)
        await fails(image_metadata.read(image, host.core.read_workers, 257), errno.EBUSY)
        await operations.clone(image, "copy", False)  # its source need not be held
    with image_locks.name("taken"):
        await fails(operations.clone(image, "taken", False), errno.EBUSY)
        await fails(operations.rename(image, "taken"), errno.EBUSY)
    assert names(host) == ["copy", "web"]


@both
async def test_what_a_link_is(host: World, version: int, tmp_path: Path) -> None:
    """What 257 does with the link, 262 does with what it points to."""
    tree = host.sandbox.image("web").rename(tmp_path / "tree")
    (host.sandbox.pool / "link").symlink_to(tree)
    operations = host.core.image_ops
    image = found(host, "link")
    if version < 258:
        await fails(operations.clone(image, "copy", False), errno.ELOOP)
        await operations.remove(image)
        assert tree.exists()
    else:
        await operations.clone(image, "copy", False)
        assert image.path == str(tree)
        await operations.remove(image)
        assert not tree.exists()


@both
async def test_hidden_images(host: World, version: int) -> None:
    (host.sandbox.pool / ".old.raw").touch()
    image = found(host, ".old")
    assert image.read_only is (version >= 259)
    if version >= 258:
        await fails(host.core.image_ops.mark_read_only(image, True), errno.EROFS)
    else:
        await host.core.image_ops.mark_read_only(image, True)
        assert found(host, ".old").read_only


async def test_the_sweep_leaves_what_was_begun_since(host: World, caplog: pytest.LogCaptureFixture) -> None:
    """It removes what it was told of, whatever becomes of one of them."""
    if os.geteuid() != 0:
        pytest.skip("who can have no locks sweeps nothing")
    operations, where = host.core.image_ops, host.sandbox.pool
    for name in (".#machined-1", ".#machined-2"):
        (where / name).mkdir()
    (where / "disk.raw").touch()
    left = operations.unfinished()
    (where / ".#machined-new").mkdir()
    await operations.sweep([str(where / "disk.raw/.#machined-0"), *left])
    assert {path.name for path in where.iterdir()} == {".#machined-new", "disk.raw"}
    assert "disk.raw/.#machined-0', ignoring: Not a directory" in caplog.text
    operations.pool = where / "none"
    assert operations.unfinished() == []


async def test_only_subvolumes_have_limits(host: World) -> None:
    host.sandbox.image("web")
    await fails(host.core.image_ops.set_limit(found(host, "web"), 1_000_000), errno.EOPNOTSUPP)
    await fails(host.core.image_ops.set_limit(found(host, HOST), 1_000_000), errno.EROFS)


async def test_so_many_operations_and_no_more(host: World) -> None:
    host.sandbox.image("web")
    host.core.long_workers._limit = 0
    for operation in (
        host.core.image_ops.remove(found(host, "web")),
        host.core.image_ops.clone(found(host, "web"), "x", False),
        host.core.pool.clean(CleanMode.ALL),
    ):
        with pytest.raises(MachineError, match="Too many ongoing operations") as caught:
            await operation
        assert caught.value.problem is Problem.LIMITS_EXCEEDED
    assert names(host) == ["web"]


async def test_cleaning(host: World) -> None:
    for name in ("web", ".one", ".two"):
        host.sandbox.image(name)
    busy = found(host, ".two")
    with FileLock.acquire(os.fspath(busy.lock_paths()[0])):
        removed = await host.core.pool.clean(CleanMode.HIDDEN)
    assert [(image.name, image.usage_exclusive) for image in removed] == [(".one", UNKNOWN)]
    assert names(host) == [".two", "web"]
    removed = await host.core.pool.clean(CleanMode.ALL)
    assert sorted(image.name for image in removed) == [".two", "web"]


async def test_a_failure_ends_a_cleaning(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host.sandbox.image(".one")

    async def refuse(image: Image) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(host.core.image_ops, "remove", refuse)
    with pytest.raises(pool.CleanError, match=r"Failed to remove image '.one': Operation not permitted"):
        await host.core.pool.clean(CleanMode.HIDDEN)


async def test_the_pool_without_btrfs(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host.core.image_ops.pool = Path("/dev/shm")
    assert host.core.pool.usage() == pool.Usage(UNKNOWN, UNKNOWN)
    with pytest.raises(MachineError, match="Quota is only supported on btrfs") as caught:
        await host.core.pool.set_limit(1_000_000)
    assert caught.value.problem is Problem.NOT_SUPPORTED


def test_sizes() -> None:
    assert [pool.is_size(size) for size in (0, 2**63 - 1, UNKNOWN, 2**63, -1)] == [True] * 3 + [False] * 2


# -- metadata ----------------------------------------------------------------------------------------------


async def test_what_an_image_tells(host: World) -> None:
    tree = host.sandbox.image("web")
    (tree / "etc/hostname").write_text("# a comment\n\n web-1.example \nother\n", encoding="ascii")
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n", encoding="ascii")
    (tree / "etc/machine-info").write_text('PRETTY_HOSTNAME="A B"\n', encoding="ascii")
    told = await image_metadata.read(found(host, "web"), host.core.read_workers, 257)
    assert told.hostname == "web-1.example"
    assert told.machine_id == bytes.fromhex("0123456789abcdef0123456789abcdef")
    assert told.machine_info == {"PRETTY_HOSTNAME": "A B"}
    assert told.os_release == {"ID": "test", "VERSION_ID": "1"}


@contextlib.asynccontextmanager
async def busy(workers: Workers) -> AsyncIterator[None]:
    """All turns are taken inside the block."""
    assert workers._turns is not None
    for _ in range(SHORT_WORKERS):
        await workers._turns.acquire()
    yield
    for _ in range(SHORT_WORKERS):
        workers._turns.release()


async def test_readers_who_wait_hold_up_nobody(host: World) -> None:
    """Neither by locks, nor by standing in the same queue; and one reading is enough for all of them."""
    host.sandbox.image("web")
    image = found(host, "web")
    workers = host.core.read_workers
    async with asyncio.timeout(30), busy(workers):
        asking = [asyncio.ensure_future(image_metadata.read(image, workers, 257)) for _ in range(1024)]
        await asyncio.sleep(0)
        with image_locks.image(image, exclusive=True):
            pass
        await host.core.image_ops.rename(image, "site")
        await host.core.image_ops.rename(found(host, "site"), "web")
    told = await asyncio.gather(*asking)
    assert {answer.os_release["ID"] for answer in told} == {"test"}


async def test_many_readings_of_one_image_are_one(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host.sandbox.image("web")
    image = found(host, "web")
    begun = []
    operate = worker._operate

    async def counted(*arguments: Any) -> Any:
        begun.append(arguments)
        with pytest.raises(OSError, match="busy"), image_locks.image(image, exclusive=True):
            pass
        return await operate(*arguments)

    monkeypatch.setattr(worker, "_operate", counted)
    asking = [image_metadata.read(image, host.core.read_workers, 257) for _ in range(100)]
    await asyncio.gather(*asking)
    assert len(begun) == 1
    with image_locks.image(image, exclusive=True):
        await fails(image_metadata.read(image, host.core.read_workers, 257), errno.EBUSY)


async def test_a_hostile_image_tells_nothing_of_the_host(host: World, tmp_path: Path) -> None:
    tree = host.sandbox.image("web", os_release=False)
    (tmp_path / "secret").write_text("KEY=1\n", encoding="ascii")
    (tree / "etc/hostname").symlink_to(tmp_path / "secret")
    (tree / "etc/machine-info").symlink_to("../../../../../../../../../../" + str(tmp_path / "secret"))
    await asyncio.to_thread(os.mkfifo, tree / "etc/os-release")
    (tree / "etc/machine-id").mkdir()
    told = await image_metadata.read(found(host, "web"), host.core.read_workers, 257)
    assert told == image_metadata.Metadata()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("web", "web"),
        ("a b!", "ab"),
        ("a..b.", "a.b"),
        ("-a-.-b-", "a--b"),
        ("under_score", "underscore"),
        ("x" * 80, "x" * 64),
        ("é", ""),
    ],
)
def test_a_hostname_is_cleaned_up(line: str, name: str) -> None:
    assert image_metadata._hostname(line.encode(), wildcards=False) == name


def test_wildcards_of_hostnames_came_later() -> None:
    assert image_metadata._hostname(b"a?b", wildcards=False) == "ab"
    assert image_metadata._hostname(b"a?b", wildcards=True) == "a?b"


@pytest.mark.parametrize(
    "text", [b"", b"uninitialized\n", b"0" * 32, b"01234567-89ab-cdef-0123-456789abcdef\n", b"0123\n"]
)
def test_what_is_no_machine_id(text: bytes) -> None:
    assert image_metadata._machine_id(text) == b""


async def test_secrets_go_with_their_image(host: World) -> None:
    host.sandbox.image("web")
    credentials.store("web", {"passwd.hashed-password.root": "x"})
    image = await host.core.image_ops.rename(found(host, "web"), "two")
    assert credentials.options("web") == []
    assert len(credentials.options("two")) == 1
    await host.core.image_ops.remove(image, keep_settings=True)
    assert credentials.options("two") == []
