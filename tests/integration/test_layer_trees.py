# SPDX-License-Identifier: LGPL-2.1-or-later
"""What layers may lie over, and what looks like a layered image and is none."""

from __future__ import annotations

import json

import pytest

from tests.integration.driver import Driver, unique_name
from tests.integration.test_layered import POOL, kind, refused

pytestmark = [pytest.mark.integration, pytest.mark.either("trixie")]


def test_an_image_that_is_a_link(managed: Driver, machine: str) -> None:
    """Before systemd 258 its path is that of the link."""
    elsewhere, name = f"{POOL}/.elsewhere", unique_name()
    tree, link = f"{elsewhere}/{machine}", f"{POOL}/{machine}"
    managed.host.run(["sh", "-ec", f"mkdir {elsewhere}; mv {link} {tree}; ln -s {tree} {link}"])
    try:
        managed.ctl("start", machine, "--as", f"{name}-e")
        managed.wait(f"{name}-e", "running")
        assert f"{name}-e" in refused(managed, "start", machine)
        managed.ctl("poweroff", f"{name}-e")
        managed.ctl("clone", "--layer", machine, name)
        assert kind(managed, name) == ("mstack", False)
        assert kind(managed, machine) == ("directory", True)
        assert "layers over it" in refused(managed, "remove", machine)
        assert "layers over" in refused(managed, "start", machine)
        managed.start(name)
        managed.guest(name, "touch", "/root/x")
        managed.ctl("poweroff", name)
        managed.ctl("remove", name)
        assert kind(managed, machine) == ("directory", False)
    finally:
        managed.clear(name)
        managed.ctl("remove", name, check=False)
        managed.host.run(["sh", "-ec", f"rm {link}; mv {tree} {link}; rm -r {elsewhere}"])


def test_a_tree_that_is_shifted_on_the_disk(managed: Driver, fresh_machine: str) -> None:
    """As systemd-nspawn leaves it where it cannot map, or is told to."""
    tree, name = f"{POOL}/{fresh_machine}", unique_name()
    shift = "--private-users=536870912:65536", "--private-users-ownership=chown"
    managed.host.run(["systemd-nspawn", "--quiet", f"--directory={tree}", *shift, "true"])
    assert managed.host.run(["stat", "-c", "%u", tree]).stdout.strip() == "536870912"
    managed.ctl("clone", "--layer", fresh_machine, name)
    try:
        settings = managed.host.path(f"/etc/systemd/nspawn/{name}.nspawn")
        settings.parent.mkdir(exist_ok=True)
        for users in ("pick", "no"):
            settings.write_text(f"[Exec]\nPrivateUsers={users}\n", encoding="ascii")
            managed.start(name)
            owners = managed.guest(name, "stat", "-c", "%u", "/", "/usr/bin/stat", "/root").stdout
            assert owners.split() == ["0", "0", "0"]
            managed.guest(name, "sh", "-ec", "touch /root/x /usr/x; chown daemon /usr/x; rm /usr/x")
            managed.ctl("poweroff", name)
        written = managed.host.run(["stat", "-c", "%u", f"{POOL}/{name}.mstack/rw/data/root/x"]).stdout
        assert written.strip() == "536870912", "as what is below it"
        settings.unlink()
        managed.ctl("start", name, "--as", f"{name}-e")
        managed.wait(f"{name}-e", "running")
        managed.ctl("poweroff", f"{name}-e")
        managed.ctl("flatten", name)
        managed.start(name)
        assert managed.guest(name, "stat", "-c", "%u", "/root/x").stdout.strip() == "0"
    finally:
        managed.clear(f"{name}-e")
        managed.clear(name)
        managed.ctl("remove", name, check=False)


@pytest.mark.parametrize("what", ["layer", "data"])
def test_an_archive_of_somebody(managed: Driver, machine: str, what: str) -> None:
    """What is unpacked under the name of a layered image is none: it is given nothing of the host."""
    name = unique_name()
    stack = f"{POOL}/{name}.mstack"
    evil = {
        "layer": f"mkdir -p {stack}/rw/data {stack}/rw/work; ln -s /srv/secret {stack}/layer@1",
        "data": f"mkdir -p {stack}/rw/work; ln -s /srv/secret {stack}/rw/data",
    }
    managed.host.run(
        ["sh", "-ec", f"mkdir -p /srv/secret/etc; {evil[what]}; ln -s ../{machine} {stack}/layer@0"]
    )
    shown = name if managed.modern else f"{name}.mstack"
    try:
        assert json.loads(managed.call("GetImageLayers", "s", shown).stdout)["data"] == [[]]
        managed.call("SetFirstBoot", "sa{sv}", name, "1", "hostname", "s", "evil", check=False)
        if not managed.modern:
            assert "does not exist" in refused(managed, "start", name)
        assert "layers" not in managed.ctl("remove", shown).stderr
        assert managed.host.run(["find", "/srv/secret"]).stdout.split() == ["/srv/secret", "/srv/secret/etc"]
    finally:
        managed.host.run(["rm", "-rf", "/srv/secret", stack])
