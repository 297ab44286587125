# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images: what is found, what is told about each, and what can be done to them."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from tests.differential.calls_bus import HOSTILE, IMAGES
from tests.differential.wire import INTERACTIVE
from tests.differential.world import (
    IMAGE,
    MANAGER,
    PROPERTIES,
    ROOT,
    SUPER,
    TRUSTED,
    World,
    add,
    asking,
    case,
)

# What inside.setup puts into the directories of images; "plain" is running.
FOUND: Final = (
    "d-dir",
    ".d-hidden",
    "d-raw",
    "d-ro",
    "d-link",
    "d-vendor",
    "d-local",
    "d blank",
    "d-empty",
    "d-file",
    "plain",
    ".host",
    "d-broken",
)
DETAILS: Final = ("GetImageHostname", "GetImageMachineID", "GetImageMachineInfo", "GetImageOSRelease")
ON_IMAGE: Final = ("GetHostname", "GetMachineID", "GetMachineInfo", "GetOSRelease")


def image_path(name: str) -> str:
    """The object path of an image (sd_bus_path_encode(3))."""
    label = "".join(
        char if char.isalnum() and char.isascii() and (index or not char.isdigit()) else f"_{ord(char):02x}"
        for index, char in enumerate(name)
    )
    return f"{IMAGES}/{label or '_'}"


def _reading() -> None:
    for name in dict.fromkeys((*FOUND, "nosuch", *HOSTILE.values())):
        label = name[:70]
        add(f"image/GetImage/{label!r}", asking(World.manager, "GetImage", "s", name), (SUPER,))
        if name in FOUND or name == "nosuch":
            path = image_path(name)
            add(
                f"image/properties/{label}",
                asking(World.call, path, PROPERTIES, "GetAll", "s", IMAGE),
                (SUPER,),
            )
            for method in DETAILS:
                add(f"image/{method}/{label}", asking(World.manager, method, "s", name))
            for method in ON_IMAGE:
                add(
                    f"image/object {method}/{label}",
                    asking(World.call, path, IMAGE, method),
                    (SUPER,),
                )
        else:
            for method in ("GetImageOSRelease", "RemoveImage"):
                add(f"image/{method}/{label!r}", asking(World.manager, method, "s", name), (SUPER,))
    for name in (
        "Name",
        "Path",
        "Type",
        "ReadOnly",
        "CreationTimestamp",
        "ModificationTimestamp",
        "Usage",
        "Limit",
        "UsageExclusive",
        "LimitExclusive",
    ):
        path = image_path("d-dir")
        add(
            f"image/get/{name}",
            asking(World.call, path, PROPERTIES, "Get", "ss", IMAGE, name),
            (SUPER,),
        )


_reading()


def _look(w: World, *names: str) -> None:
    answer = w.bus.call(ROOT, MANAGER, "ListImages")
    rows = answer["reply"][1][0] if "reply" in answer else []
    w.note({"images": sorted(row[:6] for row in rows if row[0] in names)})
    w.program(
        "sh",
        "-c",
        "cd /var/lib/machines && ls -1A | grep -v '^.spare' | sort; ls -1A /run/systemd/nspawn/locks",
    )


def _refused() -> None:
    rows: dict[str, tuple[Any, ...]] = {
        "remove nobody": ("RemoveImage", "s", "nosuch"),
        "remove the host": ("RemoveImage", "s", ".host"),
        "remove running": ("RemoveImage", "s", "plain"),
        "remove vendor's": ("RemoveImage", "s", "d-vendor"),
        "rename nobody": ("RenameImage", "ss", "nosuch", "d-new"),
        "rename to a bad name": ("RenameImage", "ss", "d-dir", "a/b"),
        "rename to nothing": ("RenameImage", "ss", "d-dir", ""),
        "rename to dots": ("RenameImage", "ss", "d-dir", ".."),
        "rename to itself": ("RenameImage", "ss", "d-dir", "d-dir"),
        "rename to another": ("RenameImage", "ss", "d-dir", "d-empty"),
        "rename the host": ("RenameImage", "ss", ".host", "d-new"),
        "rename to the host": ("RenameImage", "ss", "d-dir", ".host"),
        "rename running": ("RenameImage", "ss", "plain", "d-new"),
        "rename vendor's": ("RenameImage", "ss", "d-vendor", "d-new"),
        "clone nobody": ("CloneImage", "ssb", "nosuch", "d-new", False),
        "clone to a bad name": ("CloneImage", "ssb", "d-dir", "a/b", False),
        "clone to another": ("CloneImage", "ssb", "d-dir", "d-empty", False),
        "mark nobody": ("MarkImageReadOnly", "sb", "nosuch", True),
        "mark the host": ("MarkImageReadOnly", "sb", ".host", True),
        "mark running": ("MarkImageReadOnly", "sb", "plain", True),
        "limit of nobody": ("SetImageLimit", "st", "nosuch", 1),
        "limit": ("SetImageLimit", "st", "d-dir", 1 << 30),
        "limit of a file": ("SetImageLimit", "st", "d-raw", 1 << 30),
        "limit of the host": ("SetImageLimit", "st", ".host", 1 << 30),
        "pool limit": ("SetPoolLimit", "t", 1 << 40),
        "no pool limit": ("SetPoolLimit", "t", 2**64 - 1),
        "pool limit 0": ("SetPoolLimit", "t", 0),
        "clean nothing": ("CleanPool", "s", ""),
        "clean unknown": ("CleanPool", "s", "nosuch"),
    }
    for label, (method, signature, *body) in rows.items():
        add(f"image/refused/{label}", asking(World.manager, method, signature, *tuple(body)))
    objects: dict[str, tuple[Any, ...]] = {
        "remove": ("Remove", ""),
        "rename": ("Rename", "s", "a/b"),
        "clone": ("Clone", "sb", "a/b", False),
        "mark": ("MarkReadOnly", "b", True),
        "limit": ("SetLimit", "t", 5),
    }
    for name in (".host", "nosuch", "d-vendor"):
        for label, (method, signature, *body) in objects.items():
            path = image_path(name)
            add(
                f"image/object refused/{label} {name}",
                asking(World.call, path, IMAGE, method, signature, *tuple(body)),
                (SUPER,),
            )
    add(
        "image/refused/interactive",
        asking(World.manager, "RemoveImage", "s", "d-dir", flags=INTERACTIVE),
        ("tester",),
    )
    add("image/refused/remove", asking(World.manager, "RemoveImage", "s", "d-dir"), ("tester",))
    add("image/refused/clean", asking(World.manager, "CleanPool", "s", "hidden"), ("tester",))


_refused()


def _clone_host(w: World) -> None:
    """Stock of 262 leaves a copy behind, which nothing after it is to find."""
    w.call(ROOT, MANAGER, "CloneImage", "ssb", ".host", "d-new", False, seconds=90)
    w.bus.call(ROOT, MANAGER, "RemoveImage", "s", ("d-new",), seconds=90)


add("image/clone the host", _clone_host, (SUPER, "tester"))


def _life(w: World, source: str) -> None:
    w.manager("CloneImage", "ssb", source, "d-clone", False)
    _look(w, "d-clone")
    w.manager("CloneImage", "ssb", source, "d-clone", False)
    w.manager("RenameImage", "ss", "d-clone", "d-other")
    _look(w, "d-clone", "d-other")
    w.manager("MarkImageReadOnly", "sb", "d-other", True)
    _look(w, "d-other")
    w.manager("RenameImage", "ss", "d-other", "d-third")
    w.manager("MarkImageReadOnly", "sb", "d-other", False)
    w.manager("RemoveImage", "s", "d-other")
    w.manager("RemoveImage", "s", "d-third")
    _look(w, "d-other", "d-third")


for _source in ("d-dir", "d-raw", "d-ro", "d-link", "d blank", "d-vendor"):
    add(f"image/life/{_source}", partial(_life, source=_source), (SUPER, TRUSTED))


@case("image/clone read-only", (SUPER,))
def _clone_read_only(w: World) -> None:
    for source in ("d-dir", "d-raw"):
        w.manager("CloneImage", "ssb", source, "d-clone", True)
        _look(w, "d-clone")
        w.call(image_path("d-clone"), IMAGE, "MarkReadOnly", "b", False)
        w.call(image_path("d-clone"), IMAGE, "Rename", "s", "d-other")
        w.call(image_path("d-other"), IMAGE, "Clone", "sb", "d-clone", False)
        _look(w, "d-clone", "d-other")
        w.call(image_path("d-clone"), IMAGE, "Remove")
        w.call(image_path("d-other"), IMAGE, "Remove")
        _look(w, "d-clone", "d-other")


@case("image/clean the pool", (SUPER,))
def _clean(w: World) -> None:
    w.program(
        "sh", "-c", "cd /var/lib/machines && mv .d-hidden d-kept && mkdir .d-one .d-two && touch .d-one/x"
    )
    answer = w.bus.call(ROOT, MANAGER, "CleanPool", "s", ("hidden",))
    w.note(sorted(answer["reply"][1][0]) if "reply" in answer else answer)
    _look(w, ".d-one", ".d-two")
    w.program("sh", "-c", "cd /var/lib/machines && rm -rf .d-one .d-two; mv d-kept .d-hidden")
