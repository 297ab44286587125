# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who makes machines and images known to machined, by systemd's own programs, and who hears of that."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.integration.driver import NAME, ROOT, Driver, unique_name
from tests.integration.pair import Side

pytestmark = pytest.mark.integration

MANAGER = f"{NAME} {ROOT} {NAME}.Manager"

# On the python3-systemd of the host, which is libsystemd's sd_login_monitor: a line for each event.
MONITOR = """
import json, select, signal
from systemd import login
signal.alarm(150)
monitor = login.Monitor("machine")
poll = select.poll()
poll.register(monitor, monitor.get_events())
print("ready", flush=True)
while True:
    poll.poll(monitor.get_timeout_ms())
    monitor.flush()
    print(json.dumps(login.machine_names()), flush=True)
"""

# What systemd-vmspawn says of itself; it is the machine's leader and stays until it is killed.
VMSPAWN = """
import json, signal, socket, sys
given = {
    "name": sys.argv[1], "id": "00112233445566778899aabbccddeeff", "service": "systemd-vmspawn",
    "class": "vm", "vSockCid": 4711, "rootDirectory": "/srv/disk", "sshAddress": "vsock/4711",
    "sshPrivateKeyPath": "/run/some-key", "allocateUnit": True,
}
link = socket.socket(socket.AF_UNIX)
link.connect("/run/systemd/machine/io.systemd.Machine")
call = {"method": "io.systemd.Machine.Register", "parameters": given}
link.sendall(json.dumps(call).encode() + b"\\0")
print(link.recv(65536).decode().rstrip("\\0"), flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def tools(managed: Driver) -> Side:
    """The host with machined and systemd's own programs first in its path."""
    return Side(managed.host, ours=True)


def test_login_monitor(tools: Side, machine: str) -> None:
    with tools.background(["/usr/bin/python3", "-c", MONITOR]) as monitor:
        assert monitor.stdout is not None
        assert monitor.stdout.readline() == "ready\n"
        tools.start(machine)
        while machine not in json.loads(monitor.stdout.readline()):
            pass
        tools.ctl("poweroff", machine)
        while machine in json.loads(monitor.stdout.readline()):
            pass


@pytest.mark.parametrize("keep_unit", [False, True], ids=["own unit", "keep unit"])
@pytest.mark.parametrize("register", ["yes", "no", "auto"])
def test_nspawn_registers(tools: Side, machine: str, register: str, *, keep_unit: bool) -> None:
    """All ways in which nspawn makes itself known, or does not."""
    if register == "auto" and not tools.modern:
        pytest.skip("this nspawn has no --register=auto")
    unit = f"by-hand-{machine}.service"
    service = f"systemd-run -q --collect --unit={unit} --slice=machine.slice -p Type=notify -p Delegate=yes"
    keep = "--keep-unit" if keep_unit else ""
    nspawn = f"systemd-nspawn -q -M {machine} -D /var/lib/machines/{machine} --register={register} {keep}"
    tools.sh(f"{service} -p KillMode=mixed {nspawn} --as-pid2 sleep infinity")
    known = register != "no"
    scope = unit if keep_unit else f"{machine}.scope"
    for stock in (True, False):
        assert (machine in tools.listed(stock=stock)) == known
    if known:
        leader = tools.leader(machine)
        scope = tools.fact(machine, "Unit")
        assert (scope == unit) == keep_unit
        assert tools.unit_property(scope, "ActiveState") == "active"
        assert tools.fact(machine, "Service") == "systemd-nspawn"
        # 262 has no link for a unit that the machine has only a part of.
        named = "-" if keep_unit and tools.modern else machine
        assert tools.sh(f"ps -o machine= -p {leader}").stdout.strip() == named
        assert scope in tools.sh(f"systemd-cgls -M {machine} --no-pager").stdout
    tools.sh(f"systemctl stop {unit}")
    # nspawn has taken its leave before it ended.
    assert machine not in tools.listed(stock=True)
    tools.until(f"[ $(systemctl is-active '{scope}') = inactive ]")


def test_vmspawn_registers(tools: Side) -> None:
    """A virtual machine as systemd-vmspawn announces itself, and how ssh finds it."""
    before = tools.host.snapshot()
    name = unique_name()
    with tools.background(["python3", "-c", VMSPAWN, name]) as vmspawn:
        assert vmspawn.stdout is not None
        assert "error" not in json.loads(vmspawn.stdout.readline())
        assert tools.listed(stock=True)[name] == "vm"
        facts = {
            "Class": "vm",
            "Service": "systemd-vmspawn",
            "RootDirectory": "/srv/disk",
            "VSockCID": "4711",
            "SSHAddress": "vsock/4711",
            "SSHPrivateKeyPath": "/run/some-key",
        }
        assert {fact: tools.fact(name, fact) for fact in facts} == facts
        scope = tools.fact(name, "Unit")
        assert scope.endswith(".scope")
        leader = tools.leader(name)
        assert tools.sh(f"tr '\\0' ' ' </proc/{leader}/cmdline").stdout.endswith(f"{name} ")
        assert tools.sh(f"ps -o machine= -p {leader}").stdout.strip() == name
        assert f"Unit: {scope}" in tools.stock("status", name, "-n0").stdout
        # 262's asks the user's machined first, and gives up where none listens: ours is that one as well.
        proxy = "XDG_RUNTIME_DIR=/run /usr/lib/systemd/systemd-ssh-proxy machine"
        # Nobody is there to connect to; a kernel without vsock is noticed with the CID in hand as well.
        tried = tools.sh(f"{proxy}/{name} 22", check=False).stderr
        assert "vsock:4711:22" in tried or "Failed to allocate AF_VSOCK" in tried
        assert "vsock" not in tools.sh(f"{proxy}/nobody-knows 22", check=False).stderr.lower()
        tools.sh(f"busctl call {MANAGER} UnregisterMachine s {name}")
        assert name not in tools.listed(stock=True)
        assert tools.unit_property(scope, "ActiveState") == "active"
    tools.until(f"[ $(systemctl is-active '{scope}') = inactive ]")
    assert tools.host.left_behind(before) == []


def test_importctl(tools: Side) -> None:
    """An image that comes and goes by systemd-importd is one of ours at once."""
    name = unique_name()
    tools.sh("mkdir -p /tmp/tar/etc; echo ID=test >/tmp/tar/etc/os-release")
    tools.sh("tar -C /tmp/tar -cf /tmp/in.tar .")
    words = ["importctl", "--class=machine", "import-tar", "-", name]
    with tools.host.popen(words, stdin=subprocess.PIPE, stderr=subprocess.STDOUT) as importer:
        assert importer.stdout is not None
        while "Enqueued" not in (line := importer.stdout.readline()):
            assert line, "importctl has ended"
        # It goes on for as long as the tar does.
        assert name in tools.sh("importctl list-transfers --no-legend").stdout
        assert name in tools.sh("machinectl list-transfers --no-legend").stdout
        assert name not in tools.sh("machinectl list-images --no-legend").stdout
        tar = tools.host.path("/tmp/in.tar").read_text(encoding="ascii")
        said = importer.communicate(tar, timeout=60)[0]
        assert importer.returncode == 0, said
    images = json.loads(tools.sh(f"busctl -j call {MANAGER} ListImages").stdout)["data"][0]
    assert name in [image[0] for image in images]
    assert name in tools.sh("importctl -m list-images --no-legend").stdout
    assert name in tools.sh("machinectl list-images --no-legend").stdout
    tools.sh(f"importctl -q -m export-tar {name} /tmp/out.tar")
    assert "./etc/os-release" in tools.sh("tar -tf /tmp/out.tar").stdout.split()
    tools.sh(f"machinectl remove {name}")
    assert name not in tools.sh("importctl -m list-images --no-legend").stdout
    tools.sh("rm -r /tmp/tar /tmp/in.tar /tmp/out.tar")
