# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts as most are, with a pool that is a plain directory; what is in it, and programs that wait."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.host.boot import Host
from tests.integration.driver import Driver

POOL: Final = "/var/lib/machines"
FILE: Final = "/var/lib/machines.raw"
STAGING: Final = "/var/lib/.machines.moving"
UNIT: Final = "machined-pool.service"
MEBIBYTE: Final = 1024 * 1024

# What a pool is made of, by other means than those that copy it: names, kinds, owners, times, links, data.
LISTING: Final = r"""
cd /var/lib/machines
common='%P %M %U %G %T@'
find . -mindepth 1 ! -name '.#*' \( -type d -printf "$common\n" -o -printf "$common %s %n %l\n" \) | sort
find . -type f ! -name '.#*' -exec sha256sum {} + | sort -k 2
python3 - <<'END'
import os
for top, directories, files in sorted(os.walk(".")):
    for name in sorted(directories + files):
        path = os.path.join(top, name)
        for key in sorted(os.listxattr(path, follow_symlinks=False)):
            print(path, key, os.getxattr(path, key, follow_symlinks=False))
END
"""

# Images of all kinds, with what is easily lost on the way.
FILL: Final = """
cd /var/lib/machines
mkdir -p .hidden/etc many.v/many_1/etc odd/etc fixed/etc
echo text >odd/etc/file
ln odd/etc/file odd/hard
ln -s etc/file odd/link
mkfifo odd/pipe
chown -h 1234:4321 odd/etc/file odd/link
chmod 4751 odd/etc/file
truncate -s 80M disk.raw
printf begin | dd of=disk.raw conv=notrunc status=none
ln disk.raw same.raw
python3 -c '
import os
os.setxattr("odd/etc/file", "user.note", b"kept")
os.setxattr("odd/etc/file", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
acl = "01000600ffffffff02000400d204000004000400ffffffff10000600ffffffff20000400ffffffff"
acl = bytes.fromhex("02000000" + acl)
os.setxattr("odd/etc", "system.posix_acl_access", acl)
'
chattr +i fixed
"""

# Takes the place of a program: says when it is reached, and goes on when it is told to.
HELD: Final = """#!/bin/sh
case "$*" in {pattern}) echo reached >/run/reached; read -r _ </run/go ;; esac
exec {real} "$@"
"""


@contextmanager
def booted(driver: Driver) -> Iterator[Driver]:
    """Boot a host whose pool is a plain directory, with a guest and more in it."""
    if "\tbtrfs" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip("no btrfs in this kernel")
    driver.host.plain_pool()
    driver.host.add_guest("g1")
    driver.host.boot()
    driver.host.run(["sh", "-ec", FILL])
    yield driver
    # Nobody could remove it.
    driver.host.run(["chattr", "-f", "-i", f"{POOL}/fixed"], check=False)


def listing(driver: Driver) -> list[str]:
    return driver.host.run(["sh", "-ec", LISTING]).stdout.splitlines()


def told(driver: Driver) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(driver.ctl("pool", "-o", "json").stdout)
    return found


def refused(driver: Driver, *words: str, user: str | None = None) -> str:
    done = driver.ctl(*words, check=False, user=user)
    assert done.returncode == 1, (words, done.stdout, done.stderr)
    return done.stderr


def images(driver: Driver) -> dict[str, str]:
    rows = driver.stock("list-images", "--no-legend", "--all").stdout.splitlines()
    return {words[0]: words[1] for words in map(str.split, rows) if words}


def is_plain(driver: Driver) -> bool:
    """No mount, no file, nothing half done."""
    script = f"! mountpoint -q {POOL} && ! [ -e {FILE} ] && ! [ -e {STAGING} ]"
    return driver.host.run(["sh", "-c", script], check=False).returncode == 0


def is_filed(driver: Driver) -> bool:
    script = f"mountpoint -q {POOL} && [ -f {FILE} ] && ! [ -e {STAGING} ]"
    return driver.host.run(["sh", "-c", script], check=False).returncode == 0


def until(driver: Driver, condition: str) -> None:
    """Wait for what no event tells."""
    driver.host.until(condition)


@contextmanager
def held(host: Host, program: str, pattern: str) -> Iterator[None]:
    """Let a program wait when it is called with such arguments: `reached` waits for that, `go` ends it."""
    real = f"{program}.real"
    host.run(["sh", "-ec", f"mkfifo /run/reached /run/go; mv {program} {real}"])
    script = host.path(program)
    script.write_text(HELD.format(pattern=pattern, real=real), encoding="ascii")
    script.chmod(0o755)
    try:
        yield
    finally:
        host.run(["sh", "-ec", f"mv {real} {program}; rm -f /run/reached /run/go"])


def reached(host: Host) -> None:
    assert host.run(["cat", "/run/reached"], timeout=60).stdout == "reached\n"


def go(host: Host, program: str) -> None:
    """Let it go on, and not wait again."""
    free = f"printf '#!/bin/sh\\nexec {program}.real \"$@\"\\n' >{program}.new; chmod 755 {program}.new"
    host.run(["sh", "-ec", f"{free}; mv {program}.new {program}; echo go >/run/go"])
