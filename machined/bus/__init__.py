# SPDX-License-Identifier: LGPL-2.1-or-later
"""The D-Bus wire: the connection, the vtables, and the handlers over the model."""
