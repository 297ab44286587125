# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.MachineImage over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from machined.varlink import service as module
from machined.varlink.service import VarlinkService
from tests.fakes.sandbox import Sandbox
from tests.fakes.varlink import VarlinkClient
from tests.fakes.world import World, world

NAME = "io.systemd.MachineImage"
both = pytest.mark.parametrize("version", [257, 262], indirect=True)


class Nobody:
    """polkit is not asked: the peer is root."""

    async def ask_process(self, *_: Any) -> None:
        raise AssertionError("root is not asked")


@pytest.fixture(params=[262], ids=["262"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
async def host(sandbox: Sandbox, version: int) -> AsyncIterator[World]:
    async with world(sandbox, version) as made:
        sandbox.image("web")
        yield made


@pytest.fixture
async def client(
    host: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[VarlinkClient]:
    monkeypatch.setattr(module, "SOCKET", tmp_path / "sockets" / "machine")
    monkeypatch.setattr(module, "IMAGE_SOCKET", tmp_path / "sockets" / "image")
    service = VarlinkService(host.core, Nobody())
    await service.start({})
    made = await VarlinkClient.connect(tmp_path / "sockets" / "image")
    yield made
    made.close()
    await service.close()


async def ok(client: VarlinkClient, method: str, **parameters: Any) -> dict[str, Any]:
    reply = await client.call(f"{NAME}.{method}", parameters)
    assert "error" not in reply, reply
    return dict(reply.get("parameters", {}))


async def fails(client: VarlinkClient, method: str, **parameters: Any) -> tuple[str, dict[str, Any]]:
    reply = await client.call(f"{NAME}.{method}", parameters)
    return reply["error"].removeprefix(f"{NAME}."), reply.get("parameters", {})


@both
async def test_the_life_of_an_image(client: VarlinkClient, host: World) -> None:
    assert await ok(client, "Clone", name="web", newName="two") == {}
    row = await ok(client, "List", name="two")
    assert (row["name"], row["type"], row["class"], row["readOnly"]) == (
        "two",
        "directory",
        "machine",
        False,
    )
    assert not {"usage", "limit", "modificationTimestamp", "OSRelease"} & set(row)
    row = await ok(client, "List", name="two", acquireMetadata="yes")
    assert row["OSRelease"] == ["ID=test", "VERSION_ID=1"]
    assert not {"hostname", "machineId", "machineInfo"} & set(row)
    await ok(client, "Update", name="two", newName="three")
    assert await fails(client, "List", name="two") == ("NoSuchImage", {})
    await ok(client, "Remove", name="three")
    assert [entry.name for entry in host.sandbox.pool.iterdir()] == ["web"]


async def test_bad_parameters(client: VarlinkClient) -> None:
    invalid = "org.varlink.service.InvalidParameter"
    assert await fails(client, "List", name="a/b") == (invalid, {"parameter": "name"})
    assert await fails(client, "Clone", name="a/b", newName="") == (invalid, {"parameter": "name"})
    assert await fails(client, "Clone", name="web", newName="") == (invalid, {"parameter": "newName"})
    assert await fails(client, "Update", name="none", newName="") == (invalid, {"parameter": "newName"})
    assert await fails(client, "Update", name="web", limit=-1) == (invalid, {"parameter": "limit"})
    assert await fails(client, "Update", name="web", limit=1.5) == (invalid, {"parameter": "limit"})
    assert await fails(client, "Update", name="web", limit=True) == (invalid, {"parameter": "limit"})
    assert await fails(client, "SetPoolLimit", limit=2**63) == (invalid, {"parameter": "limit"})
    assert await fails(client, "CleanPool", mode="secure") == (invalid, {"parameter": "mode"})
    assert await fails(client, "Remove", name="none") == ("NoSuchImage", {})


@both
async def test_errors_of_the_system(client: VarlinkClient, version: int) -> None:
    name, parameters = await fails(client, "Clone", name="web", newName="web")
    assert (name, parameters["errno"]) == ("io.systemd.System", 17)
    name, parameters = await fails(client, "Update", name="web", limit="1000000")
    assert (name, parameters["errno"]) == ("io.systemd.System", 95)
    assert parameters.get("errnoName") == ("EOPNOTSUPP" if version >= 258 else None)


async def test_one_failure_of_an_update_does_not_stop_the_rest(client: VarlinkClient, host: World) -> None:
    disk = host.sandbox.pool / "disk.raw"
    disk.touch(mode=0o644)
    name, parameters = await fails(client, "Update", name="disk", readOnly=True, limit=5)
    assert (name, parameters["errno"]) == ("io.systemd.System", 95)
    assert (await ok(client, "List", name="disk"))["readOnly"] is True


async def test_listing_streams(client: VarlinkClient) -> None:
    assert (await fails(client, "List"))[0] == "org.varlink.service.ExpectedMore"
    await client.send(f"{NAME}.List", {"acquireMetadata": "graceful"}, more=True)
    found = []
    while True:
        reply = await client.reply()
        found.append(reply["parameters"]["name"])
        if not reply.get("continues"):
            break
    assert sorted(found) == [".host", "web"]


async def test_cleaning_streams(client: VarlinkClient, host: World) -> None:
    assert (await fails(client, "CleanPool", mode="hidden"))[0] == "org.varlink.service.ExpectedMore"
    for name in (".one", ".two"):
        host.sandbox.image(name)
    await client.send(f"{NAME}.CleanPool", {"mode": "hidden"}, more=True)
    replies = [await client.reply(), await client.reply()]
    assert sorted(reply["parameters"]["name"] for reply in replies) == [".one", ".two"]
    assert [reply.get("continues", False) for reply in replies] == [True, False]
    await client.send(f"{NAME}.CleanPool", {"mode": "hidden"}, more=True)
    assert (await client.reply())["error"] == f"{NAME}.NoSuchImage"


async def test_the_pool_has_no_limit_without_btrfs(client: VarlinkClient, host: World) -> None:
    host.core.image_ops.pool = Path("/dev/shm")
    assert await fails(client, "SetPoolLimit", limit=1_000_000) == ("NotSupported", {})


async def test_too_many(client: VarlinkClient, host: World) -> None:
    host.core.long_workers._limit = 0
    assert await fails(client, "Remove", name="web") == ("TooManyOperations", {})
    assert await fails(client, "Clone", name="web", newName="x") == ("TooManyOperations", {})


@pytest.mark.parametrize("version", [257], indirect=True)
async def test_257_has_no_pool(client: VarlinkClient) -> None:
    assert (await fails(client, "SetPoolLimit", limit=5))[0] == "org.varlink.service.MethodNotFound"
    reply = await client.call("org.varlink.service.GetInterfaceDescription", {"interface": NAME})
    assert "CleanPool" not in reply["parameters"]["description"]
