# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines are configured with: one table of settings, from files to systemd-nspawn's command line."""
