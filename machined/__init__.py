# SPDX-License-Identifier: LGPL-2.1-or-later
"""machined: the manager of the systemd-nspawn machines of a host (see ARCHITECTURE.md)."""

__version__ = "0.1.0"
