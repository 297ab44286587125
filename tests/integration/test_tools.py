# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd's other tools against machined: what they are asked is asked of a machine that we have started.

Each of them once with a machine that has users of its own and once with one that has the host's.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterator

import pytest

from machinectl.ssh import EXPORTS
from tests.integration.driver import OURS, STOCK, Driver, unique_name
from tests.integration.pair import Side
from tests.integration.terminals import Terminal
from tests.integration.test_ways_in import ESCAPE

pytestmark = pytest.mark.integration

KINDS = {"private": "", "plain": "[Exec]\nPrivateUsers=no\n"}
PROBE = "probe.service"
SAID = "the probe has said this"


@pytest.fixture(scope="module")
def tools(managed: Driver) -> Side:
    """The host with machined and systemd's own programs first in its path."""
    return Side(managed.host, ours=True)


@pytest.fixture(scope="module")
def guests(tools: Side) -> Iterator[dict[str, str]]:
    """A machine of each kind, started by us, of the whole module; a service in it has said something."""
    before = tools.host.snapshot()
    names = {kind: unique_name() for kind in KINDS}
    for kind, name in names.items():
        tools.host.add_guest(name)
        if KINDS[kind]:
            file = tools.host.path(f"/etc/systemd/nspawn/{name}.nspawn")
            file.parent.mkdir(exist_ok=True)
            file.write_text(KINDS[kind], encoding="utf-8")
    tools.ctl("start", *names.values())
    for name in names.values():
        assert tools.wait(name, "running") == "running"
        probe = f"echo {SAID}; exec sleep infinity"
        tools.host.run(["systemd-run", "-q", "-M", name, f"--unit={PROBE}", "sh", "-c", probe])
    yield names
    for name in names.values():
        tools.remove(name)
    assert tools.host.left_behind(before) == []


@pytest.fixture(params=KINDS)
def guest(guests: dict[str, str], request: pytest.FixtureRequest) -> str:
    """The name of each of the two."""
    return guests[str(request.param)]


def lines(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """The words of an output's lines."""
    return [line.split() for line in done.stdout.splitlines() if line.strip()]


def test_they_are_of_two_kinds(tools: Side, guests: dict[str, str]) -> None:
    for kind, name in guests.items():
        leader = tools.leader(name)
        shift = int(tools.sh(f"cat /proc/{leader}/uid_map").stdout.split()[1])
        assert (shift == 0) == (kind == "plain")
        for database, label in (("passwd", f"vu-{name}-7"), ("group", f"vg-{name}-7")):
            entry = tools.sh(f"getent {database} {label}").stdout.split(":")
            assert entry[:3] == [label, "x", str(shift + 7)]
        # By the unit's link, for procps and everybody who asks sd_pid_get_machine_name().
        assert lines(tools.sh(f"ps -o pid=,machine= -p {leader}")) == [[str(leader), name]]


def test_systemctl(tools: Side, guest: str) -> None:
    of_guest = f"systemctl -M {guest}"
    assert tools.sh(f"{of_guest} is-active {PROBE}").stdout == "active\n"
    assert tools.sh(f"systemctl is-active {PROBE}", check=False).stdout == "inactive\n"
    assert guest in tools.sh(f"{of_guest} status -n0 --no-pager").stdout.splitlines()[0]
    tools.sh(f"{of_guest} start systemd-tmpfiles-clean.service")
    assert tools.sh(f"{of_guest} is-active no-such.service", check=False).returncode != 0
    assert tools.sh("systemctl -M nobody-knows is-system-running", check=False).returncode != 0


def test_systemctl_of_all_machines(tools: Side, guests: dict[str, str]) -> None:
    listed = lines(tools.sh("systemctl list-machines --plain --no-legend"))
    states = {words[0]: words[-3] for words in listed}
    for name in guests.values():
        assert states[name] in {"running", "degraded"}


def test_journalctl(tools: Side, guest: str) -> None:
    tools.guest(guest, "journalctl", "--sync")
    assert SAID in tools.sh(f"journalctl -M {guest} -u {PROBE} -o cat --no-pager").stdout.splitlines()
    assert tools.sh(f"journalctl -u {PROBE} -o cat -q --no-pager").stdout == ""
    (entry,) = tools.sh(f"journalctl -M {guest} -o json -n 1").stdout.splitlines()
    assert json.loads(entry)["_HOSTNAME"] == guest


def test_systemd_run_on_a_pipe(tools: Side, guest: str) -> None:
    run = ["systemd-run", "-M", guest, "--pipe", "--wait", "--quiet", "--collect"]
    assert tools.host.run([*run, "cat"], input="through\n").stdout == "through\n"
    failed = tools.host.run([*run, "sh", "-c", "hostname >&2; exit 7"], check=False)
    assert (failed.returncode, failed.stderr) == (7, f"{guest}\n")


def test_systemd_run_on_a_terminal(tools: Side, guest: str) -> None:
    script = 'tty; stty size; read word; echo "$word-$(hostname)"; exit 3'
    run = ["systemd-run", "-M", guest, "--pty", "--wait", "--quiet", "--collect", "sh", "-c", script]
    with Terminal(tools, run) as terminal:
        terminal.expect(r"/dev/pts/\d+\r")
        terminal.expect(r"\n\r?33 101\r")
        terminal.type("typed\r")
        terminal.expect(rf"\n\r?typed-{guest}\r")
        assert terminal.ended() == 3


def test_run0(tools: Side, guest: str) -> None:
    run = ["run0", f"--machine={guest}", "sh", "-c", "echo $(id -un)-$(hostname)"]
    with Terminal(tools, run) as terminal:
        terminal.expect(rf"root-{guest}\r")
        assert terminal.ended() == 0


def test_cgls(tools: Side, guest: str) -> None:
    shown = tools.sh(f"systemd-cgls -M {guest} --no-pager").stdout
    assert f"machine-{guest}.service" in shown.splitlines()[0]
    assert PROBE in shown
    assert "systemd-machined" not in shown


def test_busctl(tools: Side, guest: str) -> None:
    call = "org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.DBus.Peer GetMachineId"
    identity = tools.host.path(f"/var/lib/machines/{guest}/etc/machine-id").read_text(encoding="ascii")
    assert lines(tools.sh(f"busctl -M {guest} call {call}")) == [["s", f'"{identity.strip()}"']]
    assert tools.fact(guest, "Id") == identity.strip()
    assert "org.freedesktop.systemd1" in tools.sh(f"busctl -M {guest} list --no-pager").stdout


def test_hostnamectl(tools: Side, guest: str) -> None:
    assert tools.sh(f"hostnamectl -M {guest} hostname").stdout.strip() == guest
    assert "systemd-nspawn" in tools.sh(f"hostnamectl -M {guest}").stdout
    tools.sh(f"hostnamectl -M {guest} location 'a shelf'")
    assert tools.sh(f"hostnamectl -M {guest} location").stdout == "a shelf\n"
    assert "a shelf" not in tools.sh("hostnamectl").stdout


def test_systemd_analyze(tools: Side, guest: str) -> None:
    assert "Startup finished in" in tools.sh(f"systemd-analyze -M {guest} time").stdout
    assert f"Unit {PROBE}" in tools.sh(f"systemd-analyze -M {guest} dump {PROBE} --no-pager").stdout


def sessions(tools: Side, guest: str) -> list[list[str]]:
    """The sessions of a guest that are on a terminal."""
    listed = lines(tools.sh(f"loginctl -M {guest} list-sessions --no-legend"))
    return [words for words in listed if any(word.startswith("pts/") for word in words)]


def until_no_session(tools: Side, guest: str) -> None:
    tools.until(f"! loginctl -M {guest} list-sessions --no-legend | grep -q pts/")


def test_a_login_is_a_session(tools: Side, guest: str) -> None:
    """By PAM; it is seen from outside, and ended from there."""
    until_no_session(tools, guest)
    with Terminal(tools, [STOCK, "login", guest]) as terminal:
        terminal.expect("login: ")
        terminal.type("root\r")
        terminal.expect(r"[#$] ")
        (session,) = sessions(tools, guest)
        assert session[1:3] == ["0", "root"]
        shown = tools.sh(f"loginctl -M {guest} show-session {session[0]} -p Service -p Type -p Active")
        assert set(shown.stdout.split()) == {"Service=login", "Type=tty", "Active=yes"}
        assert lines(tools.sh(f"loginctl -M {guest} list-users --no-legend"))[0][:2] == ["0", "root"]
        tools.sh(f"loginctl -M {guest} terminate-session {session[0]}")
        terminal.type(ESCAPE * 3)
        assert terminal.ended() == 0
    until_no_session(tools, guest)


def test_a_shell_is_a_session(tools: Side, guest: str) -> None:
    """And for as long as it is there, others reach the manager of its user, as USER@NAME."""
    until_no_session(tools, guest)
    with Terminal(tools, [STOCK, "-q", "shell", guest]) as terminal:
        terminal.expect(r"[#$] ")
        (session,) = sessions(tools, guest)
        assert session[1:3] == ["0", "root"]
        run = f"systemd-run -M root@{guest} --user --pipe --wait --quiet --collect"
        assert "/user@0.service/" in tools.sh(f"{run} grep ^0: /proc/self/cgroup").stdout
        tools.until(f"systemctl --user -M root@{guest} is-system-running | grep -qx running")
        terminal.type("exit\r")
        assert terminal.ended() == 0
    until_no_session(tools, guest)


def test_network(tools: Side, guest: str) -> None:
    """networkd of the host serves the link of a machine of ours; its address is seen and resolved."""
    link = f"ve-{guest}"
    ((_, name, kind, *_),) = lines(tools.sh(f"networkctl list {link} --no-legend --no-pager"))
    assert (name, kind) == (link, "ether")
    tools.until(f"networkctl status {link} --no-pager | grep -q 'State: routable (configured)'", 60)
    assert "80-container-ve.network" in tools.sh(f"networkctl status {link} --no-pager").stdout
    (own,) = lines(tools.sh(f"ip -o -4 address show dev {link} scope global"))
    network = ipaddress.ip_interface(own[3])
    # The guest's networkd asks for a lease; until it has one, it has an address of the link's alone.
    tools.until(f"machinectl list --no-legend | grep '^{guest} .* {str(network).rpartition('.')[0]}'", 60)
    (row,) = (row for row in lines(tools.sh("machinectl list --no-legend -l")) if row[0] == guest)
    leased = row[-1].rstrip("…")
    assert ipaddress.ip_address(leased) in network.network
    found = lines(tools.sh(f"getent ahosts {guest}"))
    assert [leased, "STREAM"] in [words[:2] for words in found]
    assert {words[-1] for words in lines(tools.sh(f"getent hosts {guest}"))} == {guest}
    tools.sh(f"ping -c 1 -W 5 {leased}")


def test_ssh_by_the_client(tools: Side, guests: dict[str, str]) -> None:
    """S79: it becomes ssh, led to the guest's socket where there is one, else to its address."""
    fake, name = "/usr/local/bin/ssh", guests["private"]
    tools.sh(f'printf \'#!/bin/sh\\nprintf "%%s\\\\n" "$@"\\nexit 7\\n\' >{fake}; chmod 755 {fake}')
    exports = [path.format(name) for path in EXPORTS]
    listen = "systemd-socket-activate --listen=/run/host/unix-export/ssh cat"
    try:
        addresses = f"until machinectl status {name} | grep -q Address; do sleep 0.2; done"
        tools.host.run(["timeout", "60", "sh", "-c", addresses])
        done = tools.host.run([OURS, "ssh", f"me@{name}", "true"], check=False)
        assert done.returncode == 7
        assert any(line.startswith("HostName=") for line in done.stdout.splitlines())
        tools.host.run(["systemd-run", "-qM", name, "--unit=listens", "sh", "-c", listen])
        there = " -o ".join(f"-S {path}" for path in exports)
        tools.host.run(["timeout", "20", "sh", "-c", f"until [ {there} ]; do sleep 0.1; done"])
        done = tools.host.run([OURS, "ssh", name], check=False)
        ways = [f"ProxyCommand=/usr/lib/systemd/systemd-ssh-proxy 'unix{path}' %p" for path in exports]
        assert set(ways) & set(done.stdout.splitlines())
    finally:
        tools.host.run(["systemctl", "-M", name, "stop", "listens"], check=False)
        tools.sh(f"rm -f {fake}")
