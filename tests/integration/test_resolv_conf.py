# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who machines ask for names: what /etc/resolv.conf is in them, by their network and their settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.configured import COMMAND, POOL, Configured
from tests.integration.driver import Driver

pytestmark = pytest.mark.integration

HOSTS = "nameserver 192.0.2.53\nsearch t.example\n"
TREES = "nameserver 203.0.113.53\n"
STUB = "nameserver 127.0.0.53"
RESOLVED = "systemd-resolved.service"


@pytest.fixture(scope="module")
def host_asks(managed: Driver) -> Iterator[None]:
    """The host has a file of its own, and no stub to be asked."""
    host = managed.host
    host.run(["systemctl", "stop", RESOLVED])
    host.run(["mv", "/etc/resolv.conf", "/etc/resolv.before"])
    host.path("/etc/resolv.conf").write_text(HOSTS, encoding="ascii")
    yield
    host.run(["mv", "/etc/resolv.before", "/etc/resolv.conf"])
    host.run(["systemctl", "start", RESOLVED])


@pytest.mark.usefixtures("host_asks")
@pytest.mark.parametrize(
    ("private", "mode", "tree", "seen"),
    [
        ("yes", "auto", TREES, TREES),
        ("yes", "auto", None, None),
        ("no", "auto", None, HOSTS),
        ("yes", "off", TREES, TREES),
        ("yes", "copy-host", None, HOSTS),
        ("yes", "replace-host", TREES, HOSTS),
        ("yes", "bind-host", TREES, HOSTS),
        ("yes", "replace-stub", TREES, STUB),
        ("yes", "delete", TREES, None),
    ],
)
@pytest.mark.either("trixie")
def test_who_is_asked_for_names(
    box: Configured, private: str, mode: str, tree: str | None, seen: str | None
) -> None:
    """S36, S77: what becomes of a tree's file; `seen`: how it begins, None where it is not there.

    With a network of its own a machine keeps what its tree says; in the host's it has the host's.
    """
    host, path = box.managed.host, f"{POOL}/{box.name}/etc/resolv.conf"
    host.run(["mv", path, f"{path}.before"])
    try:
        if tree is not None:
            host.path(path).write_text(tree, encoding="ascii")
        command = COMMAND.replace("Private=yes", f"Private={private}")
        box.start(f"{command}[Exec]\nResolvConf={mode}\n")
        text = box.inside("sh", "-c", "cat /etc/resolv.conf || echo none")
        if seen is None:
            assert text == "none"
        else:
            kept = [line for line in text.splitlines() if line and line[0] != "#"]
            assert kept[: len(seen.splitlines())] == seen.splitlines()
        mounted = "/etc/resolv.conf" in box.inside("cat", "/proc/mounts")
        assert mounted == (mode == "bind-host")
    finally:
        box.stop()
        host.run(["rm", "-f", path])
        host.run(["mv", f"{path}.before", path])
