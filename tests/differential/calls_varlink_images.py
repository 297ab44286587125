# SPDX-License-Identifier: LGPL-2.1-or-later
"""varlink: io.systemd.MachineImage."""

from __future__ import annotations

import json
from typing import Any

from tests.differential.calls_varlink import IMAGE_SOCKET, method
from tests.differential.wire import varlink
from tests.differential.world import EVERYBODY, SUPER, TRUSTED, World, add, asking


def _images() -> None:
    prefix = "io.systemd.MachineImage."
    names = (
        "d-dir",
        ".d-hidden",
        "d-raw",
        "d-ro",
        "d-link",
        "d-vendor",
        "plain",
        ".host",
        "nosuch",
        "a/b",
        "",
        "..",
    )
    for name in names:
        for metadata in ("no", "yes", "graceful"):
            add(
                f"varlink/images/List/{name}/{metadata}",
                asking(
                    World.varlink, IMAGE_SOCKET, method(f"{prefix}List", name=name, acquireMetadata=metadata)
                ),
                EVERYBODY if name == "d-dir" else (SUPER,),
            )
    add("varlink/images/List/all", _image_list)
    rows: dict[str, dict[str, Any]] = {
        "without more": method(f"{prefix}List"),
        "number": method(f"{prefix}List", name=1),
        "unknown": method(f"{prefix}List", nosuch=1),
        "metadata": method(f"{prefix}List", acquireMetadata="x"),
        "update nobody": method(f"{prefix}Update", name="nosuch", readOnly=True),
        "update nothing": method(f"{prefix}Update", name="d-dir"),
        "update no name": method(f"{prefix}Update"),
        "update bad name": method(f"{prefix}Update", name="d-dir", newName="a/b"),
        "update bad image": method(f"{prefix}Update", name="a/b"),
        "update exists": method(f"{prefix}Update", name="d-dir", newName="d-empty"),
        "update limit": method(f"{prefix}Update", name="d-dir", limit=5),
        "update host": method(f"{prefix}Update", name=".host", readOnly=True),
        "update unknown": method(f"{prefix}Update", name="d-dir", nosuch=1),
        "update limit string": method(f"{prefix}Update", name="d-dir", limit="5"),
        "clone nobody": method(f"{prefix}Clone", name="nosuch", newName="d-new"),
        "clone bad": method(f"{prefix}Clone", name="d-dir", newName="a/b"),
        "clone exists": method(f"{prefix}Clone", name="d-dir", newName="d-empty"),
        "clone nothing": method(f"{prefix}Clone", name="d-dir"),
        "remove nobody": method(f"{prefix}Remove", name="nosuch"),
        "remove bad": method(f"{prefix}Remove", name="a/b"),
        "remove host": method(f"{prefix}Remove", name=".host"),
        "remove vendor's": method(f"{prefix}Remove", name="d-vendor"),
        "remove nothing": method(f"{prefix}Remove"),
        "pool": method(f"{prefix}SetPoolLimit", limit=1 << 40),
        "pool nothing": method(f"{prefix}SetPoolLimit"),
        "pool string": method(f"{prefix}SetPoolLimit", limit="x"),
        "clean without more": method(f"{prefix}CleanPool", mode="hidden"),
        "clean unknown": method(f"{prefix}CleanPool", more=True, mode="nosuch"),
        "clean nothing": method(f"{prefix}CleanPool", more=True),
    }
    for label, row in rows.items():
        add(f"varlink/images/odd/{label}", asking(World.varlink, IMAGE_SOCKET, row))
    clone = method(f"{prefix}Clone", name=".host", newName="d-new")
    add("varlink/images/clone the host", asking(World.varlink, IMAGE_SOCKET, clone), ("tester",))
    add("varlink/images/life", _image_life, (SUPER, TRUSTED))


def _image_list(w: World) -> None:
    for metadata in ("no", "graceful"):
        call = method("io.systemd.MachineImage.List", more=True, acquireMetadata=metadata)
        answers = varlink(IMAGE_SOCKET, [json.dumps(call).encode() + b"\0"], [], fence=True, seconds=5)
        rows = sorted(json.dumps(a.get("parameters", a)) if isinstance(a, dict) else a for a in answers)
        w.note([json.loads(row) if row.startswith("{") else row for row in rows])


def _image_life(w: World) -> None:
    prefix = "io.systemd.MachineImage."
    for call in (
        method(f"{prefix}Clone", name="d-dir", newName="d-clone"),
        method(f"{prefix}List", name="d-clone"),
        method(f"{prefix}Update", name="d-clone", newName="d-other", readOnly=True),
        method(f"{prefix}List", name="d-other", acquireMetadata="yes"),
        method(f"{prefix}Update", name="d-other", readOnly=False, limit=5),
        method(f"{prefix}Update", name="d-other", readOnly=False),
        method(f"{prefix}Remove", name="d-other"),
        method(f"{prefix}List", name="d-other"),
        method(f"{prefix}Clone", name="d-raw", newName="d-clone", readOnly=True),
        method(f"{prefix}List", name="d-clone"),
        method(f"{prefix}Remove", name="d-clone"),
    ):
        w.varlink(IMAGE_SOCKET, call)
    w.program(
        "sh",
        "-c",
        "rm -rf /var/lib/machines/d-clone* /var/lib/machines/d-other*; ls -A /var/lib/machines | sort",
    )


_images()
