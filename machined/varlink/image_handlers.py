# SPDX-License-Identifier: LGPL-2.1-or-later
"""What io.systemd.MachineImage's methods do: the image looked up, polkit asked, the model called."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Final

from machined.model import image_metadata
from machined.model.core import Core
from machined.model.errors import MachineError, Problem
from machined.model.images import UNKNOWN, Image
from machined.model.names import is_image_name
from machined.model.pool import CleanMode, is_size
from machined.varlink.handlers import ACTION, Authorize
from machined.varlink.server import Call
from machined.varlink.table import VarlinkError, invalid_parameter

NAME: Final = "io.systemd.MachineImage"


def _no_such_image() -> VarlinkError:
    return VarlinkError(f"{NAME}.NoSuchImage")


async def _counted(operation: Awaitable[Any]) -> Any:
    """Names the errors that are this interface's own."""
    try:
        return await operation
    except MachineError as error:
        if error.problem is Problem.LIMITS_EXCEEDED:
            raise VarlinkError(f"{NAME}.TooManyOperations") from error
        if error.problem is Problem.NOT_SUPPORTED:
            raise VarlinkError(f"{NAME}.NotSupported") from error
        raise


class Handlers:
    """The methods, over a Core."""

    def __init__(self, core: Core, authorize: Authorize) -> None:
        self._core = core
        self._authorize = authorize

    def _find(self, name: str) -> Image:
        if not is_image_name(name):
            raise invalid_parameter("name")
        image = self._core.images.find(name)
        if image is None:
            raise _no_such_image()
        return image

    async def _ask(
        self, call: Call, given: Mapping[str, Any], details: Mapping[str, str], action: str = "manage-images"
    ) -> None:
        interactive = given.get("allowInteractiveAuthentication", False)
        await self._authorize(call, ACTION + action, details, interactive)

    async def _may(
        self, call: Call, given: Mapping[str, Any], image: Image, verb: str, **more: str
    ) -> Image:
        """Polkit; then the image of this name, which may be another one by now."""
        await self._ask(call, given, {"image": image.name, "verb": verb, **more})
        return self._find(image.name)

    def _check_free(self) -> None:
        if self._core.image_ops.full:
            raise VarlinkError(f"{NAME}.TooManyOperations")

    # -- changing ------------------------------------------------------------------------------------------

    async def update(self, call: Call, given: Mapping[str, Any]) -> None:
        """A new name first, and nothing else without it; then the rest, whatever becomes of each."""
        operations = self._core.image_ops
        new_name = given.get("newName")
        if not is_image_name(given["name"]):
            raise invalid_parameter("name")
        if new_name is not None and not is_image_name(new_name):
            raise invalid_parameter("newName")
        image = await self._may(call, given, self._find(given["name"]), "update")
        if new_name is not None:
            image = await operations.rename(image, new_name)
        failures: list[OSError] = []
        if "readOnly" in given:
            try:
                await operations.mark_read_only(image, given["readOnly"])
            except OSError as error:
                failures.append(error)
        limit = given.get("limit", UNKNOWN)
        if limit != UNKNOWN:
            try:
                await operations.set_limit(image, limit)
            except OSError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    async def clone(self, call: Call, given: Mapping[str, Any]) -> None:
        self._check_free()
        new_name = given["newName"]
        if not is_image_name(given["name"]):
            raise invalid_parameter("name")
        if not is_image_name(new_name):
            raise invalid_parameter("newName")
        image = await self._may(call, given, self._find(given["name"]), "clone", new_name=new_name)
        await _counted(self._core.image_ops.clone(image, new_name, given.get("readOnly", False)))

    async def remove(self, call: Call, given: Mapping[str, Any]) -> None:
        self._check_free()
        image = await self._may(call, given, self._find(given["name"]), "remove")
        await _counted(self._core.image_ops.remove(image))

    async def set_pool_limit(self, call: Call, given: Mapping[str, Any]) -> None:
        limit = given["limit"]
        if not is_size(limit):
            raise invalid_parameter("limit")
        await self._ask(call, given, {"verb": "set_pool_limit"})
        await _counted(self._core.pool.set_limit(limit))

    async def clean_pool(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        if not call.more:
            raise VarlinkError("org.varlink.service.ExpectedMore")
        self._check_free()
        details = {"verb": "clean_pool", "mode": given["mode"]}
        await self._ask(call, given, details)
        removed = await _counted(self._core.pool.clean(CleanMode(given["mode"])))
        if not removed:
            raise _no_such_image()
        rows = [_present({"name": i.name, "usageExclusive": _known(i.usage_exclusive)}) for i in removed]
        for row in rows[:-1]:
            await call.reply(row)
        return rows[-1]

    # -- listing -------------------------------------------------------------------------------------------

    async def list(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        metadata = given.get("acquireMetadata", "no")
        if metadata != "no" and self._core.version >= 262:
            await self._ask(call, given, {"verb": "list"}, "inspect-images")
        if "name" in given:
            return await self._describe(self._find(given["name"]), metadata)
        if not call.more:
            raise VarlinkError("org.varlink.service.ExpectedMore")
        images = self._core.images.list()
        for image in images[:-1]:
            await call.reply(await self._describe(image, metadata))
        return await self._describe(images[-1], metadata)

    async def _describe(self, image: Image, metadata: str) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": image.name,
            "path": image.path,
            "type": image.type.value,
            "class": "machine",
            "readOnly": image.read_only,
            "creationTimestamp": image.created or None,
            "modificationTimestamp": image.modified or None,
            "usage": _known(image.usage),
            "usageExclusive": _known(image.usage_exclusive),
            "limit": _known(image.limit),
            "limitExclusive": _known(image.limit_exclusive),
        }
        if metadata != "no":
            row |= await self._metadata(image, graceful=metadata == "graceful")
        return _present(row)

    async def _metadata(self, image: Image, *, graceful: bool) -> dict[str, Any]:
        core = self._core
        try:
            found = await image_metadata.read(image, core.read_workers, core.version)
        except OSError:
            if not graceful:
                raise
            return {}
        return {
            "hostname": found.hostname or None,
            "machineId": found.machine_id.hex() or None,
            "machineInfo": [f"{key}={value}" for key, value in found.machine_info.items()] or None,
            "OSRelease": [f"{key}={value}" for key, value in found.os_release.items()] or None,
        }


def _known(size: int) -> int | None:
    return None if size == UNKNOWN else size


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}
