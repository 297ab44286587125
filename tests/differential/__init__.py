# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stock daemon and ours, asked the same on the same host, answer by answer.

`host` boots a host of a suite with machined installed and runs the script of calls twice, with each of the
two daemons in charge; `compare` says where the answers differ. `accepted` lists the differences that are
meant, each with its reason. The script itself is the modules
`calls_*`: a new case is a line (or a small function) there. They run inside the host, by `inside`, in the
installed client's environment for jeepney: `world` is what a case has to work with, `wire` sends messages
whatever they are, and `normal` takes out of the answers what changes from one run to the next.

    python3 -m tests.differential trixie            # both daemons, prints the counts and what differs
    python3 -m tests.differential sid --only 'varlink/*' --accepted
"""
