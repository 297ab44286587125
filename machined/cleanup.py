# SPDX-License-Identifier: LGPL-2.1-or-later
"""ExecStopPost= of a machine's unit where nspawn has no --cleanup: removes what a killed nspawn leaves.

Runs at every stop, so it imports no more than it must; it works without the daemon.
"""

from __future__ import annotations

import sys

from machined.model import leftovers
from machined.model.images import Images
from machined.model.names import is_machine_name


def main() -> int:
    """cleanup NAME. Exit status 0, 1 when something could not be removed, 2 for a bad call."""
    if len(sys.argv) != 2 or not is_machine_name(sys.argv[1]):
        print(f"Usage: {sys.argv[0]} MACHINE", file=sys.stderr)
        return 2
    try:
        leftovers.remove(sys.argv[1], Images().find(sys.argv[1]))
    except OSError as error:
        print(f"Cannot clean up after machine '{sys.argv[1]}': {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
