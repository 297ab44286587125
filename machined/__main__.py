# SPDX-License-Identifier: LGPL-2.1-or-later
"""python -m machined: the daemon."""

import sys

from machined.daemon import main

sys.exit(main())
