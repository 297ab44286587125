# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tools of the source tree; nothing of this is installed."""
