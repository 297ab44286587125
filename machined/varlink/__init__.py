# SPDX-License-Identifier: LGPL-2.1-or-later
"""The varlink wire: the server, its tables, and the handlers over the model."""
