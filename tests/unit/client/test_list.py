# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import json
import socket

import pytest

from .conftest import Client
from .fakebus import DBUS_ERROR, MANAGER, OURS, Peer

LIST_ALL = "a(ssssssasbs)"
ROWS = [
    (
        "web",
        "container",
        "machined",
        "running",
        "debian",
        "13",
        ["10.0.0.5", "fe80::1"],
        True,
        "machine-web.service",
    ),
    (".host", "host", "", "running", "debian", "13", [], False, "-.slice"),
    ("db", "container", "", "stopped", "", "", [], True, "machine-db.service"),
    ("new", "container", "", "starting", "", "", [], False, "machine-new.service"),
    ("up", "container", "systemd-nspawn", "starting", "", "", [], False, "machine-up.service"),
    ("sick", "vm", "libvirt", "degraded", "", "", [], False, "x.scope"),
    ("broken", "container", "", "failed", "", "", [], False, "machine-broken.service"),
]
IMAGES = [
    ("web", "directory", False, 1795381959476502, 0, 2**64 - 1, "/org/freedesktop/machine1/image/web"),
    (".host", "directory", False, 0, 0, 2**64 - 1, "/org/freedesktop/machine1/image/_2ehost"),
    (
        "raw2",
        "raw",
        True,
        1795381959476502,
        1795381959476502,
        1234567,
        "/org/freedesktop/machine1/image/raw2",
    ),
]


def test_one_call_to_our_manager(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "ListAll", LIST_ALL, ROWS)
    result = client("list")
    assert result == (
        0,
        "MACHINE CLASS     SERVICE        OS     VERSION ADDRESSES\n"
        "sick    vm        libvirt        -      -       -\n"
        "up      container systemd-nspawn -      -       -\n"
        "web     container machined       debian 13      10.0.0.5…\n"
        "\n3 machines listed.\n",
        "",
    )
    assert manager.calls == [("ListAll", ({},))]


def test_all_shows_the_host(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "ListAll", LIST_ALL, ROWS)
    lines = client("--all", "--no-legend", "--max-addresses=all").out.splitlines()
    assert [line.split()[0] for line in lines] == [".host", "sick", "up", "web", "fe80::1"]


def test_no_addresses_no_column(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "ListAll", LIST_ALL, ROWS[:1])
    assert client("list", "--max-addresses=0").out.splitlines()[:2] == [
        "MACHINE CLASS     SERVICE  OS     VERSION",
        "web     container machined debian 13",
    ]


@pytest.mark.parametrize("option", ["--output=json", "--json", "-ojson-pretty"])
def test_json(manager: Peer, client: Client, option: str) -> None:
    manager.answer(OURS, "ListAll", LIST_ALL, ROWS[:1])
    result = client("list", option)
    assert json.loads(result.out) == [
        {
            "machine": "web",
            "class": "container",
            "service": "machined",
            "os": "debian",
            "version": "13",
            "addresses": "10.0.0.5\nfe80::1",
        }
    ]
    assert result.out.count("\n") == (10 if "pretty" in option else 1)


def test_nothing_runs(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "ListAll", LIST_ALL, [])
    assert client("list").out == "No machines.\n"
    assert client("list", "-o", "json").out == "[]\n"
    assert client("list", "--no-legend").out == ""


def test_with_systemds_manager(manager: Peer, client: Client) -> None:
    machines = [(name, "container", "", "/m") for name in ("b", "a", ".host")]
    manager.answer(MANAGER, "ListMachines", "a(ssso)", machines)
    manager.on(MANAGER, "GetMachineOSRelease", lambda name: ("a{ss}", ({"ID": name, "VERSION_ID": "1"},)))
    address = (int(socket.AF_INET), b"\x0a\0\0\1")
    link_local = (int(socket.AF_INET6), b"\xfe\x80" + bytes(13) + b"\x01")
    manager.answer(MANAGER, "GetMachineAddresses", "a(iay)", [address, link_local, (2, b"bad")])
    lines = client("list", "--no-legend").out.splitlines()
    assert lines == ["a container - a 1 10.0.0.1…", "b container - b 1 10.0.0.1…"]
    # Nobody is asked about a machine that is not shown.
    assert (".host",) not in [arguments for _, arguments in manager.calls]


def test_many_machines_do_not_flood_the_bus(manager: Peer, client: Client) -> None:
    manager.answer(
        MANAGER, "ListMachines", "a(ssso)", [(f"m{n:03}", "container", "", "/m") for n in range(200)]
    )
    manager.fail(MANAGER, "GetMachineOSRelease", "System.Error.ENXIO", "gone")
    manager.fail(MANAGER, "GetMachineAddresses", "System.Error.ENXIO", "gone")
    result = client("list")
    assert (result.status, result.err) == (0, "")
    assert "m199    container -       -  -       -" in result.out
    assert "200 machines listed." in result.out


def test_a_bus_policy_without_our_interface_is_no_obstacle(
    manager: Peer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dbus-daemon's own refusal, as a user who is not root gets it with systemd's manager and policy."""
    monkeypatch.setattr("machinectl.errors.DRIVER", manager.unique_name)
    manager.fail(OURS, "ListAll", DBUS_ERROR + "AccessDenied", "Rejected send message")
    manager.answer(MANAGER, "ListMachines", "a(ssso)", [])
    assert client("list") == (0, "No machines.\n", "")


def test_an_error_of_our_manager_is_no_reason_to_ask_otherwise(manager: Peer, client: Client) -> None:
    manager.fail(OURS, "ListAll", DBUS_ERROR + "NoMemory", "Out of memory")
    assert client("list") == (1, "", "Could not get machines: Out of memory\n")


def test_wrong_answers_are_refused(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "ListAll", "a(ss)", [("x", "y")])
    result = client("list")
    assert result.status == 1
    assert "Unexpected answer 'a(ss)' to org.machined1.Manager.ListAll()" in result.err


def test_guests_cannot_drive_the_terminal(manager: Peer, client: Client) -> None:
    evil = ("m", "container", "s", "running", "\x1b[31mevil", "1\x07", ["10.0.0.1\x1b"], False, "u")
    manager.answer(OURS, "ListAll", LIST_ALL, [evil])
    assert client("list", "--no-legend").out == "m container s [31mevil 1 10.0.0.1\n"


def test_images(manager: Peer, client: Client) -> None:
    manager.answer(MANAGER, "ListImages", "a(ssbttto)", IMAGES)
    assert client("list-images").out == (
        "NAME TYPE      RO  USAGE CREATED                     MODIFIED\n"
        "raw2 raw       yes  1.1M Sun 2026-11-22 21:12:39 UTC Sun 2026-11-22 21:12:39 UTC\n"
        "web  directory no        Sun 2026-11-22 21:12:39 UTC -\n"
        "\n2 images listed.\n"
    )
    records = json.loads(client("list-images", "-a", "-o", "json").out)
    assert [record["name"] for record in records] == [".host", "raw2", "web"]
    assert records[2] == {
        "name": "web",
        "type": "directory",
        "ro": False,
        "usage": None,
        "created": 1795381959476502,
        "modified": 0,
    }
