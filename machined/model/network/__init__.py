# SPDX-License-Identifier: LGPL-2.1-or-later
"""The network that works by itself: machines on a bridge of ours, with addresses, names, a way out and
ports."""
