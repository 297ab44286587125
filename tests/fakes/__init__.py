# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stand-ins for what surrounds the daemon: PID 1, guests, polkit, processes, the host's file system."""
