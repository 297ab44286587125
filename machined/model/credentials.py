# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine gets to know at its start, by systemd's credentials (systemd.system-credentials(7)).

Each is a file of root alone: never in an argument of a program, in a message of the bus, or in the journal.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from machined.linux import wholefile
from machined.model.names import is_machine_name

DIRECTORY: Final = Path("/etc/machined/credentials")
TIMEZONE: Final = "firstboot.timezone"
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def options(name: str) -> list[str]:
    """The options of systemd-nspawn that pass on what is stored for a machine; none as a rule."""
    if not is_machine_name(name):
        return []
    try:
        found = sorted(os.listdir(DIRECTORY / name))
    except OSError:
        return []
    given = [f"--load-credential={file}:{DIRECTORY / name / file}" for file in found if _ID.fullmatch(file)]
    if TIMEZONE in found:
        given.append("--timezone=off")  # or systemd-nspawn would set the host's at each start
    return given


def store(name: str, credentials: Mapping[str, str], *, keep: bool = False) -> None:
    """Store what a machine gets, in the place of what there was; with `keep` other files stay. OSError."""
    assert is_machine_name(name)
    if not keep:
        remove(name)
    if not credentials:
        return
    DIRECTORY.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    for directory in (DIRECTORY, DIRECTORY / name):
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
    for key, value in credentials.items():
        assert _ID.fullmatch(key)
        wholefile.write(DIRECTORY / name / key, value.encode(), 0o600)


def remove(name: str) -> None:
    """Forget all that is stored for a machine, if anything is. OSError."""
    assert is_machine_name(name)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(DIRECTORY / name)


def rename(name: str, new_name: str) -> None:
    """What was stored for one machine is another's from now on. OSError."""
    assert is_machine_name(name)
    if not is_machine_name(new_name):
        return  # what is called so cannot be started
    remove(new_name)
    with contextlib.suppress(FileNotFoundError):
        os.rename(DIRECTORY / name, DIRECTORY / new_name)
