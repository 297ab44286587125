# SPDX-License-Identifier: LGPL-2.1-or-later
"""What org.machined1 does to images: options checked, polkit asked, the model called."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from dbus_fast import Variant

from machined.bus.call import Call
from machined.bus.create_verbs import FIRST_BOOT, authorize_create, first_boot_of, with_password
from machined.bus.operations import ACTION
from machined.bus.verbs import options
from machined.bus.vtable import Row, method
from machined.model import shifting
from machined.model.cloning import CloneMode
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, invalid, no_such_image
from machined.model.images import Image
from machined.model.names import check_machine_name, check_new_name, is_image_name

_LIST: Final = "'machinectl list-images' shows what there is."


def _find(core: Core, name: str) -> Image:
    if not is_image_name(name):
        raise invalid(f"'{_shown(name)}' is no name of an image: it may be no path and not begin with '.#'.")
    image = core.images.find(name)
    if image is None:
        raise MachineError(no_such_image(name).problem, f"No image '{name}' known. {_LIST}")
    return image


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:80])


def _check_new(core: Core, new_name: str) -> None:
    if not is_image_name(new_name):
        raise invalid(
            f"No image can be called '{_shown(new_name)}': a name is no path, has no control characters, "
            f"and does not begin with '.#'."
        )
    check_new_name(new_name)
    if (found := core.images.find(new_name)) is not None:
        raise MachineError(
            Problem.FILE_EXISTS,
            f"There is an image '{new_name}' already ({found.path}). Choose another name, or remove that "
            f"one by 'machinectl remove {new_name}'.",
        )


async def _authorize(call: Call, core: Core, image: Image, verb: str, **more: str) -> Image:
    """Polkit; then the image of this name, which may be another one by now."""
    await call.authorize(f"{ACTION}manage-images", {"image": image.name, "verb": verb, **more})
    return _find(core, image.name)


_REASONS: Final = {
    errno.EROFS: "it belongs to the host's system, or its file system is read-only.",
    errno.ENOSPC: "its file system is full. 'machinectl clean' removes what is hidden, 'df' shows the rest.",
    errno.EDQUOT: "its quota is used up. 'machinectl set-limit' changes that.",
    errno.EOPNOTSUPP: "that cannot be done to an image of its type.",
}


@contextmanager
def _explained(core: Core, image: Image, what: str) -> Iterator[None]:
    """Errors of a block as sentences about an image."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        reason = _REASONS.get(number, f"{error.strerror}.")
        if number == errno.EBUSY:
            users = core.roots.users_of(image.path)
            machine = core.registry.get(image.name)
            running = ", ".join(dict.fromkeys([*([machine.name] if machine else []), *users]))
            if running:
                reason = f"it is in use. Power off what runs on it: {running}."
            elif "layers over it" in (error.strerror or ""):
                reason = (
                    f"{(error.strerror or '').partition(': ')[2]}. Remove them first, or make them plain "
                    f"trees by 'machinectl flatten'."
                )
            else:
                reason = "it is in use by another program, which has locked it."
        problem = Problem.IMAGE_BUSY if number == errno.EBUSY else Problem.FAILED
        if number == errno.EEXIST:
            problem, reason = Problem.FILE_EXISTS, "there is something of that name already."
        raise MachineError(problem, f"Image '{image.name}' cannot be {what}: {reason}") from error


async def clone(call: Call, core: Core, name: str, new_name: str, given: Mapping[str, Variant]) -> str:
    values = options(given, {**FIRST_BOOT, "mode": "s", "read-only": "b", "same-identity": "b"})
    mode = values.get("mode", CloneMode.AUTO.value)
    if mode not in set(CloneMode):
        raise invalid(f"Unknown mode '{_shown(mode)}', expected one of {', '.join(CloneMode)}.")
    image = _find(core, name)
    _check_new(core, new_name)
    settings, password = first_boot_of(call, values)
    if settings or password:
        check_machine_name(new_name)
    image = await _authorize(call, core, image, "clone", new_name=new_name)
    if settings or password:
        await authorize_create(call, new_name, "set-first-boot")
        settings = await with_password(core, settings, password)
        image = _find(core, image.name)
    call.only_waits = True  # nobody wants what a caller who has left was cloning
    with _explained(core, image, f"cloned as '{new_name}'"):
        how = await core.cloning.clone(
            image,
            new_name,
            CloneMode(mode),
            read_only=values.get("read-only", False),
            fresh=not values.get("same-identity", False),
            told=settings,
        )
    return how.value


async def flatten(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> None:
    options(given, {})
    image = await _authorize(call, core, _find(core, name), "flatten")
    with _explained(core, image, "made a plain tree"):
        await core.cloning.flatten(image)


async def chown(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> tuple[int, int]:
    shift = options(given, {"shift": "u"}).get("shift", 0)
    image = await _authorize(call, core, _find(core, name), "chown")
    with _explained(core, image, "given to other users"):
        return await shifting.chown(core.image_ops, core.roots, core.states, image, shift)


async def remove(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> list[str]:
    values = options(given, {"purge": "b"})
    image = await _authorize(call, core, _find(core, name), "remove")
    with _explained(core, image, "removed"):
        return await core.image_ops.remove(image, keep_settings=not values.get("purge", False))


async def rename(call: Call, core: Core, name: str, new_name: str, given: Mapping[str, Variant]) -> None:
    options(given, {})
    image = _find(core, name)
    _check_new(core, new_name)
    image = await _authorize(call, core, image, "rename", new_name=new_name)
    with _explained(core, image, f"renamed to '{new_name}'"):
        await core.image_ops.rename(image, new_name)


def layers(call: Call, core: Core, name: str) -> list[str]:
    stack = _find(core, name).stack
    return list(stack.layers) if stack is not None else []


ROWS: Final[tuple[Row, ...]] = (
    method(
        "CloneImage",
        "s name, s new_name, a{sv} options",
        "s cost",
        clone,
        doc=(
            "A clone that gets an identity of its own at its first boot. Options: `mode` s (auto; copy; "
            "layer: an overlay over the original, which is read-only from then on), `read-only` b, "
            "`same-identity` b, and those of SetFirstBoot: it is set up before it is there. Returns what it "
            "was: snapshot, reflink, layer or copy."
        ),
    ),
    method(
        "RenameImage",
        "s name, s new_name, a{sv} options",
        "",
        rename,
        doc="As machine1's, with errors for people. No options.",
    ),
    method(
        "RemoveImage",
        "s name, a{sv} options",
        "as kept",
        remove,
        doc=(
            "Remove an image, but not the settings that an administrator wrote for it, which are returned. "
            "Option: `purge` b, to remove those as well, as machine1's RemoveImage does."
        ),
    ),
    method(
        "FlattenImage",
        "s name, a{sv} options",
        "",
        flatten,
        doc="Make a plain tree of a layered image, under its name. No options.",
    ),
    method(
        "GetImageLayers",
        "s name",
        "as trees",
        layers,
        doc="The trees that an image is a layer over, the topmost first; none for any other image.",
    ),
    method(
        "ChownImage",
        "s name, a{sv} options",
        "t changed, t left",
        chown,
        doc=(
            "Give all files of a tree from the range of users that its root directory belongs to to another "
            "one: what a chown of systemd-nspawn did is undone. Option: `shift` u, the first user of that "
            "range (0). Returns how many files were changed, and how many belonged to users of neither "
            "range and were left."
        ),
    ),
)
