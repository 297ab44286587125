# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names and paths on the bus."""

from __future__ import annotations

import functools
from typing import Final

from machined.linux.escape import bus_label_escape

SERVICE: Final = "org.freedesktop.machine1"
ROOT: Final = "/org/freedesktop/machine1"
MACHINES: Final = ROOT + "/machine"
IMAGES: Final = ROOT + "/image"
JOBS: Final = "/org/machined1/job"
LOG_CONTROL: Final = "/org/freedesktop/LogControl1"


@functools.lru_cache(maxsize=4096)
def machine_path(name: str) -> str:
    return f"{MACHINES}/{bus_label_escape(name)}"


@functools.lru_cache(maxsize=4096)
def image_path(name: str) -> str:
    return f"{IMAGES}/{bus_label_escape(name)}"


def job_path(job_id: int) -> str:
    return f"{JOBS}/{job_id}"
