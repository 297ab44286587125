# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machined.linux import mounts
from machined.linux.locks import FileLock
from machined.linux.mounts import Mount
from machined.model import leftovers
from machined.model.images import Images
from tests.fakes.sandbox import Sandbox
from tests.fakes.world import World, turns

UNIT = "machine-web.service"


def mounted(path: Path) -> Mount:
    return Mount(1, 0, "/", os.fspath(path), frozenset(), "tmpfs", "tmpfs")


@pytest.fixture
def unmounted(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The mounts of a killed 257; returns what has been unmounted since, lazily."""
    left = [sandbox.runtime / "unix-export/web", sandbox.runtime / "unix-export/web/sub"]
    left[1].mkdir(parents=True)
    taken: list[str] = []

    def unmount(path: str, lazy: bool = False) -> None:
        assert lazy
        taken.append(path)
        Path(path, "sub").rmdir() if Path(path, "sub").exists() else None

    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == left[0])
    monkeypatch.setattr(mounts, "unmount", unmount)
    monkeypatch.setattr(
        mounts,
        "below",
        lambda prefix: [mounted(path) for path in left if f"{path}/".startswith(f"{prefix}/")],
    )
    return taken


def test_nothing(sandbox: Sandbox) -> None:
    assert leftovers.stale_mounts("web") == []
    assert leftovers.remove("web", None) == []


def test_mounts_go_deepest_first(sandbox: Sandbox, unmounted: list[str]) -> None:
    (sandbox.runtime / "propagate/web").mkdir(parents=True)
    base = sandbox.runtime / "unix-export"
    expected = [os.fspath(base / "web/sub"), os.fspath(base / "web")]
    assert leftovers.stale_mounts("web") == expected
    removed = leftovers.remove("web", None)
    assert unmounted == expected
    assert removed == [*expected, os.fspath(base / "web"), os.fspath(sandbox.runtime / "propagate/web")]
    assert not (base / "web").exists()
    assert base.exists()


def test_the_place_of_later_versions(sandbox: Sandbox) -> None:
    (sandbox.runtime / "web/unix-export").mkdir(parents=True)
    assert leftovers.remove("web", None) == [os.fspath(sandbox.runtime / "web/unix-export")]


def test_other_machines_stay(sandbox: Sandbox, unmounted: list[str]) -> None:
    (sandbox.runtime / "unix-export/web2").mkdir()
    leftovers.remove("web", None)
    assert (sandbox.runtime / "unix-export/web2").exists()


def test_what_is_not_empty_stays(sandbox: Sandbox) -> None:
    (sandbox.runtime / "propagate/web/x").mkdir(parents=True)
    assert leftovers.remove("web", None) == []
    assert (sandbox.runtime / "propagate/web/x").exists()


def test_locks_that_nobody_holds(sandbox: Sandbox) -> None:
    sandbox.image("web")
    image = Images((sandbox.pool,)).find("web")
    assert image is not None
    beside, by_inode = image.lock_paths()
    assert beside == sandbox.pool / ".#web.lck"
    for path in (beside, by_inode):
        path.touch()
    with FileLock.acquire(os.fspath(by_inode)):
        assert leftovers.remove("web", image) == [os.fspath(beside)]
        assert by_inode.exists()
    by_inode.touch()
    assert leftovers.remove("web", image) == [os.fspath(by_inode)]


async def test_gone_with_the_unit(host: World, unmounted: list[str]) -> None:
    host.systemd.emit(UNIT, ActiveState="active")
    assert not unmounted
    host.systemd.remove(UNIT)
    await turns()
    assert unmounted


async def test_a_start_removes_them_first(host: World, unmounted: list[str]) -> None:
    host.sandbox.image("web")
    host.boots()
    boot = host.systemd.hooks["start_transient"]
    seen: list[int] = []

    async def start(*args: object) -> None:
        seen.append(len(unmounted))
        outcome = boot(*args)
        assert outcome is not None
        await outcome

    host.systemd.hooks["start_transient"] = start
    await (await host.core.lifecycle.start("web")).over.wait()
    assert seen == [2]
