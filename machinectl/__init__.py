# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line client: verbs, options and output of systemd's own, on a blocking D-Bus library.

Why jeepney (0.9): a command line tool is judged by its cold start. From the start of a process to the
answer of one call, 2 cores, Python 3.11: bare interpreter 12-16 ms, with jeepney 30-45 ms, sdbus 85-100
ms, dbus-fast 115-150 ms (it needs asyncio, that alone is 60 ms). jeepney is pure Python, blocking, passes
file descriptors, has no dependencies and is one small wheel. Best of 40 runs of `list` with three
machines: 25 ms installed on Python 3.13 (`python3 -c pass`: 10.5 ms; systemd's own client asking the same
daemon: 41 ms), 30 ms on 3.11 (11.3 ms). By -X importtime the imports are 20 ms of it, of which
jeepney.low_level, typing, socket, enum and re take 13; leaving by `cli.entry` instead of sys.exit saves 8.

What a verb does not need is imported when it does (json, the terminal code, the pager), and some things
never: dataclasses (imports inspect, 15 ms), argparse (10 ms), subprocess (10 ms), logging, pathlib.
tests/unit/client/test_startup.py keeps it so.

Nothing of the daemon is imported: the two may come from different releases and meet on the bus only.
"""

from __future__ import annotations

VERSION = "0.1.0"
