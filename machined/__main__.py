# SPDX-License-Identifier: LGPL-2.1-or-later
"""python -m machined: the daemon."""

import sys

# asyncio and hashlib do without OpenSSL, which takes five megabytes; we speak on UNIX sockets alone.
for name in ("ssl", "_hashlib"):
    sys.modules[name] = None  # type: ignore[assignment]  # as sys.modules says that there is none

from machined.daemon import main  # noqa: E402

sys.exit(main())
