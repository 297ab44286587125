# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be done to images and the pool, by Manager methods that name an image and by the image's object.

Each asks polkit and then looks again what image the name means now.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from machined.bus.call import Call
from machined.bus.operations import ACTION
from machined.bus.vtable import Emits, Interface, Property, Row, method, prop
from machined.model import image_metadata
from machined.model.core import Core
from machined.model.errors import invalid, no_such_image
from machined.model.image_metadata import Metadata
from machined.model.image_ops import too_many
from machined.model.images import POOL, Image
from machined.model.names import is_image_name
from machined.model.pool import CleanMode, is_size

Operation = Callable[..., Awaitable[Any]]


async def _authorize(
    call: Call, core: Core, image: Image, verb: str, subject: str = "image", **more: str
) -> Image:
    """Polkit; then the image of this name, which may be another one by now."""
    await call.authorize(ACTION + "manage-images", {subject: image.name, "verb": verb, **more})
    found = core.images.find(image.name)
    if found is None:
        raise no_such_image(image.name)
    return found


def _check_free(core: Core) -> None:
    if core.image_ops.full:
        raise too_many()


def _check_name(name: str) -> None:
    if not is_image_name(name):
        raise invalid(f"Image name '{name}' is invalid.")


def _check_size(limit: int) -> None:
    if not is_size(limit):
        raise invalid("New limit out of range")


def _failed(what: str, error: OSError) -> OSError:
    return OSError(error.errno or 0, f"{what}: {os.strerror(error.errno or 0)}")


async def _remove(call: Call, core: Core, image: Image) -> None:
    _check_free(core)
    await core.image_ops.remove(await _authorize(call, core, image, "remove"))


async def _rename(call: Call, core: Core, image: Image, new_name: str) -> None:
    _check_name(new_name)
    image = await _authorize(call, core, image, "rename", new_name=new_name)
    try:
        await core.image_ops.rename(image, new_name)
    except OSError as error:
        raise _failed("Failed to rename image", error) from error


async def _clone(call: Call, core: Core, image: Image, new_name: str, read_only: bool) -> None:
    _check_free(core)
    _check_name(new_name)
    image = await _authorize(call, core, image, "clone", new_name=new_name)
    await core.image_ops.clone(image, new_name, read_only)


async def _mark_read_only(call: Call, core: Core, image: Image, read_only: bool) -> None:
    image = await _authorize(call, core, image, "mark_read_only", read_only="1" if read_only else "0")
    await core.image_ops.mark_read_only(image, read_only)


async def _set_limit(call: Call, core: Core, image: Image, limit: int) -> None:
    _check_size(limit)
    image = await _authorize(call, core, image, "set_limit", subject="machine")
    await core.image_ops.set_limit(image, limit)


async def _metadata(core: Core, image: Image) -> Metadata:
    try:
        return await image_metadata.read(image, core.read_workers, core.version)
    except OSError as error:
        raise _failed("Failed to read image metadata", error) from error


async def _hostname(call: Call, core: Core, image: Image) -> str:
    return (await _metadata(core, image)).hostname


async def _machine_id(call: Call, core: Core, image: Image) -> bytes:
    return (await _metadata(core, image)).machine_id


async def _machine_info(call: Call, core: Core, image: Image) -> dict[str, str]:
    return dict((await _metadata(core, image)).machine_info)


async def _os_release(call: Call, core: Core, image: Image) -> dict[str, str]:
    return dict((await _metadata(core, image)).os_release)


# -- the pool ----------------------------------------------------------------------------------------------


async def _set_pool_limit(call: Call, core: Core, limit: int) -> None:
    _check_size(limit)
    await call.authorize(ACTION + "manage-machines", {"verb": "set_pool_limit"})
    try:
        await core.pool.set_limit(limit)
    except OSError as error:
        raise _failed("Failed to adjust quota limit", error) from error


async def _clean(call: Call, core: Core, mode: str) -> list[list[Any]]:
    _check_free(core)
    try:
        meant = CleanMode(mode)
    except ValueError:
        raise invalid(f"Unknown mode '{mode}'.") from None
    await call.authorize(ACTION + "manage-machines", {"verb": "clean_pool", "mode": mode})
    return [[image.name, image.usage_exclusive] for image in await core.pool.clean(meant)]


# -- rows --------------------------------------------------------------------------------------------------


def _named(operation: Operation) -> Operation:
    """A Manager method from what can be done to an image: the first argument names the image."""

    async def handler(call: Call, core: Core, name: str, *args: Any) -> Any:
        _check_name(name)
        image = core.images.find(name)
        if image is None:
            raise no_such_image(name)
        return await operation(call, core, image, *args)

    return handler


def pool_properties() -> tuple[Row, ...]:
    return (
        prop("PoolPath", "s", lambda call, core: str(POOL), Emits.FALSE),
        prop("PoolUsage", "t", lambda call, core: core.pool.usage().used, Emits.FALSE),
        prop("PoolLimit", "t", lambda call, core: core.pool.usage().limit, Emits.FALSE),
    )


def manager_methods() -> tuple[Row, ...]:
    """The rows of the Manager from RemoveImage to CleanPool."""
    return (
        method("RemoveImage", "s name", "", _named(_remove)),
        method("RenameImage", "s name, s new_name", "", _named(_rename)),
        method("CloneImage", "s name, s new_name, b read_only", "", _named(_clone)),
        method("MarkImageReadOnly", "s name, b read_only", "", _named(_mark_read_only)),
        method("GetImageHostname", "s name", "s hostname", _named(_hostname)),
        method("GetImageMachineID", "s name", "ay id", _named(_machine_id)),
        method("GetImageMachineInfo", "s name", "a{ss} machine_info", _named(_machine_info)),
        method("GetImageOSRelease", "s name", "a{ss} os_release", _named(_os_release)),
        method("SetPoolLimit", "t size", "", _set_pool_limit),
        method("SetImageLimit", "s name, t size", "", _named(_set_limit)),
        method("CleanPool", "s mode", "a(st) images", _clean),
    )


def _image(name: str, kind: str, value: Callable[[Image], Any]) -> Property:
    return prop(name, kind, lambda call, image: value(image), Emits.FALSE)


def image_table(core: Core) -> Interface:
    """org.freedesktop.machine1.Image."""

    def on(operation: Operation) -> Operation:
        async def handler(call: Call, image: Image, *args: Any) -> Any:
            return await operation(call, core, image, *args)

        return handler

    rows = (
        _image("Name", "s", lambda i: i.name),
        _image("Path", "s", lambda i: i.path),
        _image("Type", "s", lambda i: i.type.value),
        _image("ReadOnly", "b", lambda i: i.read_only),
        _image("CreationTimestamp", "t", lambda i: i.created),
        _image("ModificationTimestamp", "t", lambda i: i.modified),
        _image("Usage", "t", lambda i: i.usage),
        _image("Limit", "t", lambda i: i.limit),
        _image("UsageExclusive", "t", lambda i: i.usage_exclusive),
        _image("LimitExclusive", "t", lambda i: i.limit_exclusive),
        method("Remove", "", "", on(_remove)),
        method("Rename", "s new_name", "", on(_rename)),
        method("Clone", "s new_name, b read_only", "", on(_clone)),
        method("MarkReadOnly", "b read_only", "", on(_mark_read_only)),
        method("SetLimit", "t limit", "", on(_set_limit)),
        method("GetHostname", "", "s hostname", on(_hostname)),
        method("GetMachineID", "", "ay machine_id", on(_machine_id)),
        method("GetMachineInfo", "", "a{ss} machine_info", on(_machine_info)),
        method("GetOSRelease", "", "a{ss} os_release", on(_os_release)),
    )
    table = Interface("org.freedesktop.machine1.Image", rows, bare=True)
    return table.for_version(core.version)
