# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layered images: clones that cost nothing on a plain file system, and the way back to plain trees."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.integration.driver import OURS, UNIT, Driver, unique_name

pytestmark = pytest.mark.integration

POOL = "/var/lib/machines"


@pytest.fixture
def layers(managed: Driver, machine: str) -> Iterator[list[str]]:
    """Three images over `machine`, removed afterwards."""
    names = [unique_name() for _ in range(3)]
    for name in names:
        assert f"is a layer over '{POOL}/{machine}'" in managed.ctl("clone", machine, name).stderr
    yield names
    for name in names:
        managed.clear(name)
        managed.ctl("remove", "--purge", name, check=False)


def kind(managed: Driver, name: str) -> tuple[str, bool]:
    """Type of an image, and whether it is read-only."""
    rows = json.loads(managed.ctl("list-images", "--output=json").stdout)
    return next((row["type"], row["ro"]) for row in rows if row["name"] == name)


def facts(managed: Driver, path: str) -> str:
    """Everything in a tree but when it was looked at."""
    script = (
        f"cd {path} && {{ find . -printf '%p %y %U %G %m %l %s\\n' | grep -v ' d ' | sort; "
        f"find . -type f -print0 | sort -z | xargs -0 sha256sum; getcap -r . 2>/dev/null | sort; }}"
    )
    return managed.host.run(["sh", "-c", script]).stdout


def refused(managed: Driver, *words: str) -> str:
    done = managed.ctl(*words, check=False)
    assert done.returncode == 1, done
    return done.stderr


def test_machines_of_one_base(managed: Driver, machine: str, layers: list[str]) -> None:
    before = facts(managed, f"{POOL}/{machine}")
    assert kind(managed, machine) == ("directory", True)
    assert {kind(managed, name) for name in layers} == {("mstack", False)}
    managed.ctl("start", *layers)
    for name in layers:
        managed.wait(name, "running")
    assert len({managed.guest(name, "cat", "/etc/machine-id").stdout for name in layers}) == len(layers)
    for name in layers:
        managed.guest(
            name, "sh", "-ec", f"echo {name} >/root/mine; chown 7:8 /root/mine; rm /etc/debian_version;"
            " mv /etc/dpkg /etc/moved; chmod 4711 /usr/bin/stat"
        )  # fmt: skip
    managed.ctl("poweroff", *layers)
    assert facts(managed, f"{POOL}/{machine}") == before
    # What is written has the owners that it has inside, so it can be had at any range.
    for name in layers:
        owner = managed.host.run(["stat", "-c", "%u:%g", f"{POOL}/{name}.mstack/rw/data/root/mine"]).stdout
        assert owner.strip() == "7:8"
    name = layers[0]
    managed.start(name)
    shown = managed.guest(name, "sh", "-c", "cat /root/mine; stat -c %u:%g /root/mine; ls -d /etc/moved")
    assert shown.stdout.split() == [name, "7:8", "/etc/moved"]
    managed.ctl("reboot", name)
    managed.wait(name, "running")
    assert managed.guest(name, "cat", "/root/mine").stdout.strip() == name


def test_the_base_is_guarded(managed: Driver, machine: str, layers: list[str]) -> None:
    assert "are layers over it" in refused(managed, "remove", machine)
    assert "are layers over it" in refused(managed, "rename", machine, "other")
    assert "are layers over it" in refused(managed, "read-only", machine, "no")
    assert "machinectl flatten" in refused(managed, "start", machine)
    done = managed.host.run(["touch", f"{POOL}/{machine}/new"], check=False)
    assert done.returncode != 0, "it is immutable for everybody"
    cleaned = managed.ctl("clean").stdout
    assert machine not in cleaned
    managed.ctl("remove", *layers[:2])
    assert kind(managed, machine) == ("directory", True)
    managed.ctl("flatten", layers[2])
    assert kind(managed, machine) == ("directory", False), "free again without the last layer"
    assert kind(managed, layers[2]) == ("directory", False)
    managed.start(machine)


@pytest.mark.either("sid")
def test_the_base_is_free_again(managed: Driver, machine: str, layers: list[str]) -> None:
    """Also by the hands of those who know nothing of layers; what is copied from it was never bound."""
    copy = unique_name()
    managed.ctl("clone", "--copy", machine, copy)
    try:
        assert kind(managed, copy) == ("directory", False)
        look = f"import os; print(os.listxattr('{POOL}/{copy}'))"
        assert "machined.base" not in managed.host.run(["python3", "-c", look]).stdout
        for name in layers:
            assert kind(managed, machine) == ("directory", True)
            managed.stock("remove", name)
        assert kind(managed, machine) == ("directory", False)
        managed.host.run(["touch", f"{POOL}/{machine}/new"])
    finally:
        managed.ctl("remove", copy)


def test_what_was_read_only_before_stays_so(managed: Driver, machine: str) -> None:
    managed.ctl("read-only", machine)
    name = unique_name()
    try:
        managed.ctl("clone", machine, name)
        managed.ctl("remove", name)
        assert kind(managed, machine) == ("directory", True)
    finally:
        managed.ctl("read-only", machine, "no")


@pytest.mark.either("sid")
def test_flat(managed: Driver, machine: str, layers: list[str]) -> None:
    name, copy = layers[0], layers[1]
    managed.start(name)
    managed.guest(
        name, "sh", "-ec",
        "echo x >/root/x; ln /root/x /root/y; mkfifo /root/p; truncate -s 10M /root/sparse;"
        " rm -r /usr/games; mv /etc/dpkg /etc/moved; rm -r /etc/moved; mkdir /etc/moved;"
        " touch /etc/moved/new",
    )  # fmt: skip
    away = "grep -Ev '^./(dev|proc|run|sys|tmp|var)'"
    inside = f"cd / && find . -xdev -printf '%p %y %U %G %m %l\\n' | {away} | sort"
    expected = managed.guest(name, "sh", "-c", inside).stdout
    assert "is in use" in refused(managed, "flatten", name)
    managed.ctl("poweroff", name)
    managed.ctl("remove", copy)
    managed.ctl("clone", "--copy", name, copy)
    managed.ctl("flatten", name)
    assert kind(managed, copy) == ("directory", False)
    assert facts(managed, f"{POOL}/{name}/root") == facts(managed, f"{POOL}/{copy}/root")
    for flat in (name, copy):
        managed.start(flat)
        assert managed.guest(flat, "sh", "-c", inside).stdout == expected
    numbers = {managed.guest(flat, "cat", "/etc/machine-id").stdout for flat in (name, copy)}
    assert len(numbers) == 2, "to flatten is no clone"
    assert not managed.host.path(f"{POOL}/{name}.mstack").exists()


@pytest.mark.either("sid")
def test_a_layer_over_a_layer(managed: Driver, machine: str, layers: list[str]) -> None:
    """A clone of a layered image has the same base, and what was written so far."""
    name, clone = layers[0], layers[1]
    managed.ctl("remove", clone)
    managed.start(name)
    managed.guest(name, "sh", "-c", "echo first >/root/x; rm /etc/debian_version")
    assert "is in use" in refused(managed, "clone", name, clone)
    managed.ctl("poweroff", name)
    managed.ctl("clone", name, clone)
    managed.start(clone)
    assert managed.guest(clone, "cat", "/root/x").stdout == "first\n"
    assert managed.guest(clone, "ls", "/etc/debian_version", check=False).returncode != 0
    managed.ctl("poweroff", clone)
    managed.ctl("start", name, "--as", layers[2] + "x")
    managed.wait(layers[2] + "x", "running")
    assert managed.guest(layers[2] + "x", "cat", "/root/x").stdout == "first\n"
    managed.clear(layers[2] + "x")


def test_renamed_and_marked(managed: Driver, machine: str, layers: list[str]) -> None:
    name = unique_name()
    managed.ctl("rename", layers[0], name)
    layers.append(name)
    managed.ctl("read-only", name)
    assert kind(managed, name) == ("mstack", True)
    managed.ctl("start", name)
    managed.wait(name, "running")
    done = managed.guest(name, "touch", "/usr/new", check=False)
    assert "Read-only file system" in done.stderr
    managed.ctl("poweroff", name)
    managed.ctl("read-only", name, "no")
    managed.start(name)
    managed.guest(name, "touch", "/usr/new")


def test_what_it_tells(managed: Driver, machine: str, layers: list[str]) -> None:
    name = layers[0]
    status = managed.ctl("image-status", name).stdout
    assert "Debian" in status
    assert f"Layer: {POOL}/{machine}" in status
    answer = managed.call("GetImageLayers", "s", name).stdout
    assert json.loads(answer)["data"] == [[f"{POOL}/{machine}"]]
    release = managed.stock("image-status", name).stdout
    assert "Debian" in release, "systemd's client is told as well"


def test_the_base_is_gone(managed: Driver, machine: str, layers: list[str]) -> None:
    """By the hand of somebody who took the protection off."""
    tree = f"{POOL}/{machine}"
    managed.host.run(["sh", "-ec", f"chattr -i {tree}; mv {tree} {tree}.away"])
    try:
        assert f"'{tree}', which is gone" in refused(managed, "start", layers[0])
        assert kind(managed, layers[0]) == ("mstack", False)
    finally:
        managed.host.run(["sh", "-ec", f"mv {tree}.away {tree}; chattr +i {tree}"])
    managed.start(layers[0])


@pytest.mark.either("sid")
def test_killed_between_both(managed: Driver, machine: str, layers: list[str]) -> None:
    """A flat tree has taken its place and the stack is still there: the next daemon takes it away.

    Not so where there is no such tree, or one that somebody else has put there.
    """
    name, other, last = layers
    note = "0123456789abcdef"
    for made in (name, last):
        managed.host.run(["cp", "-a", f"{POOL}/{machine}", f"{POOL}/{made}"])
    os.setxattr(managed.host.path(f"{POOL}/{name}"), "trusted.machined.flat", note.encode())
    notes = [f"{POOL}/{stack}.mstack/.flattened" for stack in layers]
    for path in notes:
        managed.host.path(path).write_text(note, encoding="ascii")
    managed.host.run(["systemctl", "restart", UNIT])
    gone = " && ".join(f"[ ! -e {path} ]" for path in [f"{POOL}/{name}.mstack", *notes])
    managed.host.run(["sh", "-c", f"until {gone}; do sleep 0.1; done"])
    assert kind(managed, name) == ("directory", False)
    assert kind(managed, other) == ("mstack", False)
    managed.host.run(["rm", "-r", f"{POOL}/{last}"])
    assert kind(managed, last) == ("mstack", False), "all that is left of it"
    managed.ctl("remove", name)


@pytest.mark.either("sid")
def test_flat_and_read_only(managed: Driver, machine: str, layers: list[str]) -> None:
    name, other = layers[:2]
    for layer in (name, other):
        managed.ctl("read-only", layer)
    managed.ctl("flatten", name)
    assert kind(managed, name) == ("directory", True)
    managed.host.run(["ln", "-s", "nowhere", f"{POOL}/{other}"])
    assert "already" in refused(managed, "flatten", other)
    managed.host.run(["systemctl", "restart", UNIT])
    managed.host.run(["rm", f"{POOL}/{other}"])
    assert kind(managed, other) == ("mstack", True)


def test_refused(managed: Driver, machine: str, layers: list[str]) -> None:
    assert "already" in refused(managed, "clone", machine, layers[0])
    assert "No image" in refused(managed, "clone", "no-such", "other")
    assert "no path" in refused(managed, "clone", machine, "a/b")
    assert "has no layers" in refused(managed, "flatten", machine)
    done = managed.call("CloneImage", "ssa{sv}", machine, "x", "1", "mode", "s", "cheap", check=False)
    assert "expected one of auto, copy, layer" in done.stderr
    done = managed.host.run([OURS, "--no-ask-password", "clone", machine, "x"], check=False, user="tester")
    assert done.returncode == 1
    managed.start(layers[0])
    assert f"what runs on it: {layers[0]}." in refused(managed, "remove", layers[0])


def test_a_disk_image_gets_an_identity_of_its_own(managed: Driver) -> None:
    names = unique_name(), unique_name()
    disk = f"{POOL}/{names[0]}.raw"
    number = "0123456789abcdef" * 2
    script = (
        "mkdir -p /srv/os/etc /srv/os/usr/lib; echo ID=x >/srv/os/usr/lib/os-release;"
        f" echo {number} >/srv/os/etc/machine-id; mkfs.ext4 -q -d /srv/os {disk} 8M; rm -r /srv/os"
    )
    managed.host.run(["sh", "-ec", script])
    try:
        managed.ctl("clone", *names)
        shown = [managed.ctl("image-status", name).stdout for name in names]
        assert number in shown[0]
        assert "Machine ID" not in shown[1]
        managed.stock("clone", names[0], names[1] + "x")
        assert number in managed.ctl("image-status", names[1] + "x").stdout, (
            "machine1's clones are true copies"
        )
    finally:
        managed.ctl("remove", *names, names[1] + "x", check=False)
    assert managed.host.run(["losetup", "--list", "--noheadings"]).stdout.count(names[0]) == 0
