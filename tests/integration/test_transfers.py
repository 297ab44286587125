# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bind mounts and copies: the same calls to the stock daemon and to ours, the same answers and results."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.host.boot import Host
from tests.integration import transfers
from tests.integration.driver import Driver, unique_name

pytestmark = pytest.mark.integration

KINDS: Final = {
    "plain": [],
    "shifted": ["--private-users=65536:65536", "--private-users-ownership=chown"],
    "mapped": ["--private-users=131072:65536", "--private-users-ownership=map"],
}
BUS: Final = "busctl --timeout=90"

# Differences we keep, by what the command contains: (only with, why).
KEPT: Final = (
    (
        "/srv/h/src' '/srv/evil'",
        257,
        "257 says it succeeded although a directory was left out, unless that was the last one; 262 says so",
    ),
)
# Holds a lease of a file, so that whoever opens it waits, until a line comes in (fcntl(2), F_SETLEASE).
HOLD: Final = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open("/run/lent", os.O_RDWR | os.O_CREAT, 0o644)
os.write(fd, b"lent")
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.readline()
"""


@contextmanager
def guest(host: Host, kind: str) -> Iterator[str]:
    """A registered container of one process, without a manager: its users are what matters."""
    name = unique_name()
    tree = host.add_guest(name)
    unit = f"nspawn-{name}.service"
    run = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", "--property=Type=notify"]
    nspawn = ["systemd-nspawn", "--quiet", f"--machine={name}", f"--directory=/var/lib/machines/{name}"]
    host.run([*run, *nspawn, *KINDS[kind], "--as-pid2", "sleep", "infinity"])
    try:
        yield name
    finally:
        host.run(["systemctl", "stop", unit], check=False)
        subprocess.run(["rm", "-rf", tree], check=True)


@contextmanager
def lent(host: Host) -> Iterator[subprocess.Popen[str]]:
    """/run/lent cannot be opened for reading inside the block until `communicate("\\n")`, or 45 seconds."""
    with host.popen(["python3", "-c", HOLD], stdin=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            if holder.stdout.readline() != "held\n":
                pytest.skip("this host's /run has no leases")
            yield holder
        finally:
            holder.kill()


def answers(host: Host, kind: str) -> dict[str, tuple[int, str]]:
    """What the script's steps say on a host."""
    found = {}
    with guest(host, kind) as name:
        for number, step in enumerate(transfers.script(name)):
            done = host.run(["timeout", "30", "bash", "-c", step.command], check=False)
            text = transfers.normalised(done.stdout + done.stderr, name)
            label = transfers.normalised(f"{number} {step.command}", name)
            found[label] = done.returncode, text
    return found


def explained(label: str, version: int) -> bool:
    return any(part in label and version == only for part, only, _ in KEPT)


# Each way of mapping users on one suite; what needs none on both.
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        pytest.param("shifted", marks=pytest.mark.either("trixie")),
        pytest.param("mapped", marks=pytest.mark.either("sid")),
    ],
)
def test_same_as_stock(host: Host, managed: Driver, kind: str) -> None:
    stock, ours = answers(host, kind), answers(managed.host, kind)
    version = 262 if managed.modern else 257
    assert list(stock) == list(ours)
    differing = [label for label in stock if stock[label] != ours[label] and not explained(label, version)]
    print(f"{len(stock)} cases, {len(differing)} differ")
    report = "\n".join(f"{label}\n  stock: {stock[label]}\n  ours:  {ours[label]}" for label in differing)
    assert not differing, report


def test_so_many_at_once(managed: Driver) -> None:
    """64 copies wait for a file; a 65th is refused, by name on both wires; then all of them arrive."""
    host = managed.host
    with guest(host, "plain") as name, lent(host) as holder:
        call = transfers.copy(name, "To", "/run/lent", "/srv/$i").replace("'", '"').replace("busctl", BUS, 1)
        with host.popen(["bash", "-c", f"for i in $(seq 66); do {call} & done; wait"]) as copies:
            assert copies.stderr is not None
            refused = [copies.stderr.readline() for _ in range(2)]
            assert refused == ["Call failed: Too many ongoing copies.\n"] * 2
            if managed.modern:
                say = transfers.varlink("CopyTo", name=name, source="/run/lent")
                done = host.run(["bash", "-c", say], check=False)
                assert "io.systemd.Machine.TooManyOperations" in done.stderr
            # Nobody else has to wait for them.
            host.run(["bash", "-c", transfers.bind(name, "/run", "/srv/bound", 1, 1)])
            holder.communicate("\n", timeout=30)
            assert copies.communicate(timeout=60)[1] == ""
        arrived = host.run(["ls", f"/var/lib/machines/{name}/srv"]).stdout.split()
        assert len(arrived) == 64 + len(["bound"])


def _jobs(managed: Driver) -> str:
    """A shell command that prints the helpers at work: children of the process that forks them."""
    pid = managed.unit_property("systemd-machined.service", "MainPID")
    return f"for i in $(cat /proc/{pid}/task/{pid}/children); do cat /proc/$i/task/$i/children; done"


def jobs(managed: Driver) -> list[str]:
    return managed.host.run(["sh", "-c", _jobs(managed)]).stdout.split()


def test_a_machine_that_goes_in_the_middle(managed: Driver) -> None:
    """The copy ends, and whoever waits for it is told (the stock daemon never answers)."""
    host = managed.host
    with lent(host), guest(host, "plain") as name:
        call = transfers.copy(name, "To", "/run/lent", "/srv/never").replace("busctl", BUS, 1)
        with host.popen(["bash", "-c", call]) as waiting:
            host.run(["timeout", "20", "sh", "-c", f"until {_busy(managed)}; do sleep 0.02; done"])
            managed.stock("terminate", name)
            assert waiting.communicate(timeout=20)[1] == f"Call failed: No machine '{name}' known\n"
        host.run(["timeout", "20", "sh", "-c", f"while {_busy(managed)}; do sleep 0.02; done"])


def test_a_daemon_that_goes_in_the_middle(managed: Driver) -> None:
    """No copy outlives it."""
    host = managed.host
    with lent(host), guest(host, "plain") as name:
        call = transfers.copy(name, "To", "/run/lent", "/srv/never").replace("busctl", BUS, 1)
        with host.popen(["bash", "-c", call]) as waiting:
            host.run(["timeout", "20", "sh", "-c", f"until {_busy(managed)}; do sleep 0.02; done"])
            copier = jobs(managed)
            host.run(["systemctl", "restart", "systemd-machined"])
            assert waiting.communicate(timeout=20)[1].startswith("Call failed: ")
        assert all(not host.path(f"/proc/{pid}").exists() for pid in copier)
        assert name in managed.listed()


def _busy(managed: Driver) -> str:
    """A shell condition: a helper is at work."""
    return f"({_jobs(managed)}) | grep -q ."
