# SPDX-License-Identifier: LGPL-2.1-or-later
"""What killed processes have left among the images is taken away: when the daemon starts, and by `clean`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from machined.linux.worker import Workers
from machined.model.images import SEARCH_PATH

log = logging.getLogger(__name__)

_STRAYS: Final = "machined.linux.strays"


class Sweeping:
    """Takes away hidden leftovers that nobody works on; images have nothing to fear from it."""

    def __init__(self, workers: Workers, search_path: tuple[Path, ...] = SEARCH_PATH) -> None:
        self._workers = workers
        # (What is below /usr belongs to packages, which leave nothing of the kind.)
        self._places = [os.fspath(place) for place in search_path if not place.is_relative_to("/usr")]

    async def sweep(self) -> None:
        """Do so now. What cannot be taken away stays, and the log says why."""
        try:
            removed, failures = await self._workers.run(f"{_STRAYS}:sweep", self._places)
        except OSError as error:
            log.warning("Cannot look for what killed processes have left among the images: %s", error)
            return
        for path in removed:
            log.info("Removed '%s', which a killed process had left", path)
        for path, why in failures:
            log.warning("Cannot remove '%s', which a killed process has left, ignoring: %s", path, why)
