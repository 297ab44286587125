# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast machined is beside the systemd-machined of the same booted host: `python3 -m tests.bench`.

`__main__` boots the host and prints the table, `cases` and `image_cases` say what is measured and
what the goals are, `rows` what a line of the table is, `side`
exchanges the daemons, `inside` is the program in the host that makes machines and holds the stopwatch.
"""
