# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is there in a host at one moment, of the things a guest may leave behind."""

import dataclasses
from typing import Self

# Every line is "KIND VALUE". machine.slice itself stays once it was used, and may; sessions of the host's
# own users come and go (/run/user).
SCRIPT = r"""
awk '$5 !~ "^/run/user/" {print "mount", $5}' /proc/1/mountinfo
ip -o link | awk -F': ' '{sub(/@.*/, "", $2); print "link", $2}'
find /sys/fs/cgroup/machine.slice -mindepth 1 -maxdepth 1 -type d 2>/dev/null | sed 's/^/cgroup /'
systemctl show --property=Id,Slice,ActiveState '*.service' '*.scope' | awk -F= '
    function report() { if (unit["Slice"] ~ /^machine/) print "unit", unit["Id"], unit["ActiveState"] }
    $1 == "" { report(); delete unit; next }
    { unit[$1] = $2 }
    END { report() }'
for directory in machines nspawn; do
    find /run/systemd/$directory -mindepth 1 \( ! -type d -o -path '*/propagate/*' \) 2>/dev/null
done | sed 's/^/file /'
find /run/machined -mindepth 2 2>/dev/null | sed 's/^/file /'
find /var/lib/machines -mindepth 1 -maxdepth 1 -name '.#*' 2>/dev/null | sed 's/^/hidden /'
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """Mount points, network links, cgroups and units of machines, runtime files, as "kind value" lines."""

    lines: frozenset[str]

    @classmethod
    def parse(cls, output: str) -> Self:
        """From the output of SCRIPT."""
        return cls(frozenset(output.splitlines()))

    def diff(self, other: Self) -> list[str]:
        """What `other`, taken later, has more and less; empty when nothing was left behind."""
        more = [f"left behind: {line}" for line in sorted(other.lines - self.lines)]
        return more + [f"gone: {line}" for line in sorted(self.lines - other.lines)]
