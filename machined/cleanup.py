# SPDX-License-Identifier: LGPL-2.1-or-later
"""ExecStopPost= of a machine's unit where nspawn has no --cleanup: removes what a killed nspawn leaves.

Runs at every stop, so it imports no more than it must; it works without the daemon.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from machined.model import leftovers, rootrecord
from machined.model.images import Images
from machined.model.names import is_machine_name

# As machined.model.network.store has it.
NETWORKS = Path("/run/machined/network")
# As machined.model.devices has them.
DEVICES = (Path("/dev/machined"), Path("/run/machined/xauthority"), Path("/run/machined/devices"))


def _runs_again(name: str) -> bool:
    """Whether the unit is only restarted: by a guest that reboots (systemd.exec(5)), or by hand."""
    from machined.model.state import unit_of_machine  # here, since few machines come this far
    from machined.model.unit import REBOOT_STATUS

    if os.environ.get("EXIT_STATUS") == str(REBOOT_STATUS):
        return True
    jobs = subprocess.run(
        ["systemctl", "list-jobs", "--no-legend", "--plain", unit_of_machine(name)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return any("restart" in line.split()[2:3] for line in jobs.stdout.splitlines())


def _take_network_away(name: str) -> None:
    from machined.model.network import host

    units = host.take_away(name)
    if units:
        subprocess.run(["systemctl", "stop", *units], check=False, capture_output=True)


def main() -> int:
    """cleanup NAME. Exit status 0, 1 when something could not be removed, 2 for a bad call."""
    if len(sys.argv) != 2 or not is_machine_name(sys.argv[1]):
        print(f"Usage: {sys.argv[0]} MACHINE", file=sys.stderr)
        return 2
    name = sys.argv[1]
    try:
        leftovers.remove(name, Images().find(name))
        has_network = (NETWORKS / f"{name}.machine").exists()
        nodes = [place / name for place in DEVICES if (place / name).exists()]
        has_root = rootrecord.read(name) is not None
        if (has_root or has_network or nodes) and not _runs_again(name):
            for path in rootrecord.take_away(name):
                subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=False)
            if has_network:
                _take_network_away(name)
            if nodes:
                subprocess.run(["rm", "-rf", "--", *nodes], check=False)
    except OSError as error:
        print(f"Cannot clean up after machine '{name}': {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
