# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which images there are: at once, and as systemd-machined of the same host says, whatever has changed."""

from __future__ import annotations

import pytest

from tests.host.boot import Host
from tests.integration import image_calls
from tests.integration.discovery_steps import SETUP, STEPS
from tests.integration.driver import Driver

MANY = 500
# What makes the stock daemon fail or abort: a link that leads to itself, a file in the place of a
# directory of the search path, a directory without a name before its suffix.
STOCK_FAILS = r"""
## a link to itself
ln -s loop $P/loop; names; call GetImage s loop; rm $P/loop
## a file for a directory
echo >/etc/machines; names; call GetImage s a; rm /etc/machines
## no name but a suffix
mkdir $P/.v $P/.raw.v; names; call ListImages >/dev/null && call GetImage s a; rmdir $P/.v $P/.raw.v
"""


def test_every_change_is_seen_at_once(own_host: Host, own_managed: Driver) -> None:
    own_host.boot()
    expected = image_calls.run(own_host, SETUP, STEPS)
    own_host.stop()
    own_managed.host.boot()
    found = image_calls.run(own_managed.host, SETUP, STEPS)
    differences = {
        label: (answer, found.get(label)) for label, answer in expected.items() if found.get(label) != answer
    }
    assert differences == {}


def test_one_entry_spoils_no_listing(own_managed: Driver) -> None:
    own_managed.host.boot()
    for label, answer in image_calls.run(own_managed.host, SETUP, STOCK_FAILS).items():
        assert "\na directory false\n" in answer, label
        assert "\nraw raw false\n" in answer, label
        if label != "a link to itself":
            assert '"/org/freedesktop/machine1/image/a"' in answer, label


@pytest.mark.parametrize("kind", ["directory", "raw"])
def test_many_that_come_and_go_one_by_one(own_managed: Driver, kind: str) -> None:
    """Each listing follows its change at once, with the client that people use."""
    own_managed.host.boot()
    make, suffix = ("mkdir", "") if kind == "directory" else ("truncate -s 4096", ".raw")
    script = f"""
        cd /var/lib/machines
        count() {{ busctl --json=short call org.freedesktop.machine1 /org/freedesktop/machine1 \
            org.freedesktop.machine1.Manager ListImages | grep -o '"many-[0-9]*"' | wc -l; }}
        for n in $(seq {MANY}); do {make} many-$n{suffix}; done
        test $(count) = {MANY} || exit 1
        for n in $(seq 20); do rm -r many-$n{suffix}; test $(count) = $(({MANY} - n)) || exit 2; done
        for n in $(seq 20); do {make} many-$n{suffix}; test $(count) = $(({MANY} - 20 + n)) || exit 3; done
        mv many-1{suffix} /srv/; test $(count) = $(({MANY} - 1)) || exit 4
        mv /srv/many-1{suffix} .; test $(count) = {MANY} || exit 5
        machinectl list-images --no-legend | grep -c many- | grep -qx {MANY} || exit 6
    """
    done = own_managed.host.run(["bash", "-c", script], check=False)
    assert done.returncode == 0, done


def test_a_restart_keeps_no_watch(own_managed: Driver) -> None:
    """The directories are watched by one instance, and by that alone."""
    own_managed.host.boot()

    def watches() -> int:
        pid = own_managed.daemon_pid()
        show = f"cat /proc/{pid}/fdinfo/* 2>/dev/null | grep -c '^inotify wd'"
        return int(own_managed.host.run(["sh", "-c", show], check=False).stdout or 0)

    own_managed.ctl("list-images")
    assert watches() == 1, "of all directories of the search path there is this one"
    own_managed.host.run(["mkdir", "-p", "/run/machines/x"])
    own_managed.ctl("list-images")
    assert watches() == 2
    own_managed.host.run(["rm", "-r", "/run/machines"])
    own_managed.ctl("list-images")
    assert watches() == 1
