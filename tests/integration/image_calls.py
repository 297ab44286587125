# SPDX-License-Identifier: LGPL-2.1-or-later
"""A script of calls about images, run on a host with the stock daemon and on one with machined.

Every step is a line of shell; what it prints and its exit status are the answer. What differs
(times, numbers of inodes and loop device numbers) is replaced by words.
"""

from __future__ import annotations

import re
from typing import Final

from tests.host.boot import Host

_HELPERS: Final = r"""
P=/var/lib/machines
M="org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager"
V=/run/systemd/machine/io.systemd.Machine
I=io.systemd.MachineImage
call() { busctl --timeout=60 --json=short call $M "$@" 2>&1; }
image() { n=$1; shift; busctl --timeout=60 --json=short call org.freedesktop.machine1 \
    /org/freedesktop/machine1/image/$n org.freedesktop.machine1.Image "$@" 2>&1; }
vl() { varlinkctl call --json=short $V $I.$1 "$2" 2>&1; }
vm() { varlinkctl call --more --json=short $V $I.$1 "$2" 2>&1; }
show() { busctl --timeout=60 --json=short call org.freedesktop.machine1 /org/freedesktop/machine1/image/$1 \
    org.freedesktop.DBus.Properties GetAll s org.freedesktop.machine1.Image 2>&1; }
make() {
    mkdir -p "$1/etc" "$1/usr/lib"
    printf 'ID=test\nNAME="Test OS"\nVERSION_ID=1\n' >"$1/usr/lib/os-release"
    ln -sf ../usr/lib/os-release "$1/etc/os-release"
    echo img-host >"$1/etc/hostname"
    printf 'PRETTY_HOSTNAME="A B"\nICON_NAME=x\n' >"$1/etc/machine-info"
    echo 0123456789abcdef0123456789abcdef >"$1/etc/machine-id"
}
names() {
    call ListImages | tr '[' '\n' |
        sed -n 's/^"\([^"]*\)","\([a-z]*\)",\([a-z]*\),.*/\1 \2 \3/p' | sort
}
rows() { tr '[' '\n' | sed -E 's/"(.*)",[0-9]+\].*/\1/; /type/d' | sort; }
# Hold a lock file as nspawn does, until release.
hold() {
    coproc python3 -c "import fcntl, struct, sys
file = open('$1', 'w')
fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack('hhqqi0q', fcntl.F_WRLCK, 0, 0, 0, 0))
print('locked', flush=True)
sys.stdin.read()"
    HELD=$1
    read -r word <&${COPROC[0]}
}
release() { exec {COPROC[1]}>&-; wait; rm -f $HELD; }
tree() { (cd $P && find . -mindepth 1 -maxdepth ${1:-1} ! -name '*.lck' -printf '%P %M %U %s %y\n' |
    sed -E 's/ [0-9]+ d$/ d/' | sort); }
"""


def run(host: Host, setup: str, script: str, timeout: float = 240) -> dict[str, str]:
    """The normalised answer to each step of a script by its label."""
    lines = ["set +e", _HELPERS, "{", setup, "} >/dev/null"]
    for step in script.split("## ")[1:]:
        label, _, command = step.partition("\n")
        lines += [f"echo '@@@ {label}'", f"(\n{command}\n) 2>&1", 'echo "status $?"']
    done = host.run(["bash", "-c", "\n".join(lines)], check=False, timeout=timeout)
    answers = {}
    for part in done.stdout.split("@@@ ")[1:]:
        label, _, answer = part.partition("\n")
        answers[label] = normal(answer)
    assert answers, done.stderr
    return answers


def normal(text: str) -> str:
    """What an answer says whatever the time, the disk and the numbers of devices and inodes."""
    text = re.sub(r"\b1[789]\d{14}\b", "TIME", text)
    text = re.sub(r"\w{3} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+(; [^\n]*ago)?", "DATE", text)
    text = re.sub(r"/dev/loop\d+", "/dev/loopN", text)
    text = re.sub(r"Since: .*", "Since: DATE", text)
    return text.rstrip()
