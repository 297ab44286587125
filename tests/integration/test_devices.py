# SPDX-License-Identifier: LGPL-2.1-or-later
"""Devices and presets, seen from inside: rows S91-S101 of the features."""

from __future__ import annotations

import json
from collections.abc import Iterator
from subprocess import DEVNULL, PIPE

import pytest

from tests.integration.configured import COMMAND, POOL, Configured

pytestmark = pytest.mark.integration

NODES = "/dev/machined"
# userfaultfd(2)'s: the kernel has it, and no unit of systemd's template may open it.
NUMBER = ("10", "257")
PRIVATE = COMMAND.replace("PrivateUsers=no\n", "PrivateUsers=pick\n")
OPEN = "if : <{0}; then echo opened; fi"


@pytest.fixture
def card(box: Configured) -> Iterator[str]:
    """A directory of devices as of a graphics card, of the host's group 'video'."""
    script = (
        "mkdir -p /dev/dri/by-path && mknod -m 0660 /dev/dri/card0 c {0} {1} && "
        "chgrp video /dev/dri/card0 && "
        "ln -s ../card0 /dev/dri/by-path/one"
    )
    box.managed.host.run(["sh", "-c", script.format(*NUMBER)])
    yield "/dev/dri/card0"
    box.managed.host.run(["rm", "-r", "/dev/dri"])


def opened(box: Configured, path: str) -> str:
    return box.inside("sh", "-c", OPEN.format(path), check=False)


def nodes(box: Configured) -> list[str]:
    return box.managed.host.run(["sh", "-c", f"ls -A {NODES} 2>/dev/null || :"]).stdout.split()


def test_a_device_is_the_machines_own(box: Configured, card: str) -> None:
    """S97, S99: a node that is only bound is nobody's, and PID 1 does not let it be opened."""
    box.start(f"{PRIVATE}[Files]\nBind={card}\n")
    assert box.inside("stat", "--format=%U:%a", card) == "nobody:660"
    assert not opened(box, card).startswith("0")
    box.stop()
    box.start(f"{PRIVATE}[Machine]\nDevice=/dev/dri\n")
    assert box.inside("stat", "--format=%u:%G:%a", card) == "0:video:660"
    assert box.inside("sh", "-c", OPEN.format(card)) == "opened"
    assert nodes(box) == [box.name]
    allowed = box.managed.unit_property(f"machine-{box.name}.service", "DeviceAllow")
    assert f"{card} rw" in allowed
    box.managed.host.run(["systemctl", "restart", "systemd-machined"])
    assert nodes(box) == [box.name]
    box.stop()
    assert nodes(box) == []


def test_without_users_of_its_own(box: Configured, card: str) -> None:
    box.start(f"{COMMAND}[Machine]\nDevice={card}:/dev/my-card:r\n")
    assert box.inside("stat", "--format=%u:%G:%a", "/dev/my-card") == "0:video:660"
    assert box.inside("sh", "-c", OPEN.format("/dev/my-card")) == "opened"
    # For writing it was not asked.
    assert "Operation not permitted" in box.inside("sh", "-c", ": >/dev/my-card", check=False)
    done = box.managed.ctl("set-property", box.name, "DeviceAllow=/dev/kmsg r")
    assert done.returncode == 0
    assert box.inside("sh", "-c", OPEN.format("/dev/my-card")) == "opened"


@pytest.mark.either("trixie")
@pytest.mark.parametrize("daemon", ["there", "away"])
def test_nothing_is_left_after_a_crash(box: Configured, card: str, daemon: str) -> None:
    host = box.managed.host
    box.start(f"{PRIVATE}[Machine]\nDevice={card}\n")
    unit = f"machine-{box.name}.service"
    if daemon == "away":
        host.run(["systemctl", "stop", "systemd-machined"])
    host.run(["systemctl", "kill", "--signal=KILL", unit])
    host.run(["timeout", "60", "sh", "-c", f"while [ -e {NODES}/{box.name} ]; do sleep 0.1; done"])
    host.run(["systemctl", "start", "systemd-machined"])


@pytest.mark.either("trixie")
def test_what_the_host_lacks(box: Configured) -> None:
    """Said before anything starts, with where it was asked for."""
    managed = box.managed
    box.file.parent.mkdir(parents=True, exist_ok=True)
    box.file.write_text("[Machine]\nDevice=/dev/nothing\n", encoding="utf-8")
    done = managed.ctl("start", box.name, check=False)
    assert done.returncode == 1
    assert f"{box.name}.conf:2" in done.stderr
    assert "the host has no '/dev/nothing'" in done.stderr
    box.file.write_text("[Machine]\nProfile=gpu\n", encoding="utf-8")
    done = managed.ctl("start", box.name, check=False)
    assert done.returncode == 1
    assert "this host has no /dev/dri" in done.stderr
    assert managed.ctl("check", box.name, check=False).returncode == 1


@pytest.mark.either("trixie")
def test_presets_are_plain_settings(box: Configured, card: str) -> None:
    managed = box.managed
    box.file.parent.mkdir(parents=True, exist_ok=True)
    box.file.write_text("[Machine]\nProfile=gpu hardened\n", encoding="utf-8")
    text = managed.ctl("explain", box.name).stdout
    assert "preset gpu:3" in text
    assert "NoNewPrivileges" in text
    assert f"--bind={NODES}/{box.name}/0:/dev/dri" in text
    listed = json.loads(managed.ctl("profiles", "-o", "json").stdout)
    names = {row["name"]: row["file"] for row in listed}
    assert names["nesting"] is None or names["nesting"] == ""
    assert {"gpu", "nvidia", "x11", "wayland", "fuse", "tun", "kvm", "nesting", "hardened"} <= set(names)


@pytest.mark.either("sid")
def test_nvidia_by_its_description(box: Configured, card: str) -> None:
    """S98: nodes, libraries and variables, as a CDI file has them."""
    host = box.managed.host
    spec = (
        "kind: nvidia.com/gpu\ncontainerEdits:\n  env: [NVIDIA_VISIBLE_DEVICES=void]\n  mounts:\n"
        "  - {hostPath: /srv/libcuda.so.1, containerPath: /usr/lib/libcuda.so.1, options: [ro, nosuid]}\n"
        "devices:\n- name: all\n  containerEdits:\n    deviceNodes:\n"
        f"    - {{path: /dev/nvidia0, hostPath: {card}}}\n"
    )
    path = host.path("/etc/cdi/nvidia.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(spec, encoding="utf-8")
    host.run(["sh", "-c", "echo library >/srv/libcuda.so.1"])
    try:
        box.start(f"{PRIVATE}[Machine]\nProfile=nvidia\n")
        assert box.inside("sh", "-c", OPEN.format("/dev/nvidia0")) == "opened"
        assert box.inside("cat", "/usr/lib/libcuda.so.1") == "library"
        assert "NVIDIA_VISIBLE_DEVICES=void" in box.proc("environ").split("\0")
        assert "/etc/cdi/nvidia.yaml" in box.managed.ctl("explain", box.name).stdout
    finally:
        box.stop()
        host.run(["rm", "-rf", "/etc/cdi", "/srv/libcuda.so.1", f"{POOL}/{box.name}/usr/lib/libcuda.so.1"])


def test_displays(box: Configured) -> None:
    """S93, S94: an X server and a Wayland compositor can be reached, with cookies that somebody names."""
    host = box.managed.host
    cookie = "\\001\\000\\000\\004host\\000\\0013\\000\\001n\\000\\002ab"
    script = (
        "import os, socket, sys\n"
        "kept = []\n"
        "for path, mode in (('/tmp/.X11-unix/X3', 0o777), ('/run/user/4711/wayland-0', 0o755)):\n"
        "    os.makedirs(os.path.dirname(path), exist_ok=True)\n"
        "    kept.append(socket.socket(socket.AF_UNIX))\n"
        "    kept[-1].bind(path)\n"
        "    kept[-1].listen()\n"
        "    os.chmod(path, mode)\n"
        "    os.chown(path, 4711, 4711)\n"
        "print('up', flush=True)\n"
        "sys.stdin.read()\n"
    )
    host.run(["sh", "-c", f"umask 077; printf '{cookie}' >/run/t-cookies"])
    server = host.popen(["python3", "-c", script], stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        box.start(f"{PRIVATE}[Machine]\nProfile=x11 wayland\nXAuthority=/run/t-cookies\n")
        environment = box.proc("environ").split("\0")
        assert {"DISPLAY=:3", "WAYLAND_DISPLAY=/run/host/wayland-0"} <= set(environment)
        assert "XAUTHORITY=/run/host/xauthority" in environment
        assert reached(box, "/tmp/.X11-unix/X3", 1) == "yes"
        assert [reached(box, "/run/host/wayland-0", user) for user in (4711, 1)] == ["yes", "no"]
        read = "runuser -u daemon -- od -An -tx1 /run/host/xauthority"
        assert box.inside("sh", "-c", read).split()[:4] == ["ff", "ff", "00", "04"]
        box.stop()
        assert host.run(["ls", "-A", "/run/machined/xauthority"]).stdout == ""
    finally:
        box.stop()
        server.communicate()
        host.run(["rm", "-rf", "/tmp/.X11-unix/X3", "/run/user/4711", "/run/t-cookies"])


def reached(box: Configured, path: str, user: int) -> str:
    """Whether a user of the machine can connect; by the host's Python, as there is none inside."""
    script = (
        "import ctypes, os, socket\n"
        "libc = ctypes.CDLL(None)\n"
        "target = os.open('/proc/{0}/ns/user', os.O_RDONLY), os.open('/proc/{0}/ns/mnt', os.O_RDONLY)\n"
        "connecting = socket.socket(socket.AF_UNIX)\n"
        "for fd in target:\n"
        "    assert libc.setns(fd, 0) == 0\n"
        "os.setgroups([])\n"
        # (By way of root: who is nobody keeps the capabilities that it has got there.)
        "for number in (0, {1}):\n"
        "    os.setgid(number)\n"
        "    os.setuid(number)\n"
        "try:\n"
        "    connecting.connect({2!r})\n"
        "except PermissionError:\n"
        "    print('no')\n"
        "else:\n"
        "    print('yes')\n"
    )
    return box.managed.host.run(["python3", "-c", script.format(box.leader, user, path)]).stdout.strip()


@pytest.mark.either("trixie")
@pytest.mark.parametrize("preset", ["fuse", "tun"])
def test_devices_of_the_kernel(box: Configured, preset: str) -> None:
    path = {"fuse": "/dev/fuse", "tun": "/dev/net/tun"}[preset]
    box.start(f"{PRIVATE}[Machine]\nProfile={preset}\n")
    assert box.inside("stat", "--format=%u", path) == "0"
    assert box.inside("sh", "-c", OPEN.format(path)) == "opened"


def test_containers_inside(box: Configured) -> None:
    """S101: a namespace of processes with a /proc of its own, made by a user of a machine."""
    flags = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    inner = ["unshare", *flags, "cat", "/proc/1/comm"]
    box.start(PRIVATE)
    assert not box.inside(*inner, check=False).startswith("0")
    box.stop()
    box.start(f"{PRIVATE}[Machine]\nProfile=nesting\n")
    assert box.inside(*inner) == "cat"


def test_hardened(box: Configured) -> None:
    """S91: a system comes up all the same, and its root cannot make writable what is read-only."""
    managed = box.managed
    managed.host.run(["mkdir", "-p", "/srv/t-hardened"])
    try:
        box.start("[Machine]\nProfile=hardened\n[Files]\nBindReadOnly=/srv/t-hardened:/mnt\n")
        managed.wait(box.name, "running")
        done = managed.guest(box.name, "mount", "-o", "remount,bind,rw", "/mnt", check=False)
        assert done.returncode != 0
        status = managed.host.run(["cat", f"/proc/{box.leader}/status"]).stdout
        assert "NoNewPrivs:\t1\n" in status
        bounding = int(status.partition("CapBnd:")[2].split()[0], 16)
        assert not bounding >> 27 & 1  # CAP_MKNOD
    finally:
        managed.ctl("poweroff", box.name)
        managed.wait(box.name, "stopped")
        managed.host.run(["rm", "-r", "/srv/t-hardened"])
