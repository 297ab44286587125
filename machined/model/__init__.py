# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines, images, settings and jobs. Knows no wire: nothing here has seen a message."""
