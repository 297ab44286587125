# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python -m machinectl`; the installed command is a launcher that calls the same function."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
