# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd's own programs print."""

from __future__ import annotations

from typing import Final

from tests.differential.calls_files import mounts
from tests.differential.calls_varlink import SOCKETS
from tests.differential.world import SUPER, TRUSTED, USER, World, add, asking

CTL: Final = "/usr/bin/machinectl"

_COMMANDS: Final = (
    "list",
    "list --no-legend",
    "list -o json",
    "list -o json-pretty",
    "list -o short",
    "list -o nosuch",
    "list --all",
    "list --max-addresses=0",
    "list --max-addresses=all",
    "list -j",
    "list -l",
    "",
    "show",
    "show plain",
    "show private",
    "show d-scope",
    "show d-vm",
    "show .host",
    "show nosuch",
    "show plain private",
    "show --all plain",
    "show -p Name plain",
    "show -p Name --value plain",
    "show -p Name -p Id -p Class plain",
    "show -p NoSuch plain",
    "show -p PoolPath",
    "show --value -p PoolLimit",
    "show -p NetworkInterfaces plain",
    "status plain -n0",
    "status private -n0",
    "status d-scope -n0",
    "status d-vm -n0",
    "status .host -n0",
    "status nosuch",
    "status",
    "status plain -n0 --full",
    "list-images",
    "list-images --all",
    "list-images -o json",
    "list-images --no-legend",
    "image-status",
    "image-status d-dir",
    "image-status d-raw",
    "image-status .host",
    "image-status nosuch",
    "image-status .d-hidden",
    "image-status d-vendor",
    "image-status plain",
    "show-image",
    "show-image d-dir",
    "show-image d-raw",
    "show-image -p Name --value d-dir",
    "show-image nosuch",
    "show-image --all d-ro",
    "terminate nosuch",
    "kill nosuch",
    "kill -s 0 plain",
    "kill -s nosuch plain",
    "kill --kill-whom=nosuch plain",
    "kill --kill-whom=leader -s WINCH plain",
    "poweroff nosuch",
    "reboot nosuch",
    "poweroff .host",
    "terminate .host",
    "login nosuch",
    "shell nosuch",
    "shell d-vm",
    "bind nosuch /x",
    "bind d-vm /srv/d /x",
    "bind plain relative",
    "copy-to nosuch /x",
    "copy-from nosuch /x",
    "copy-to d-vm /srv/d /x",
    "copy-to plain /srv/nosuch /root/x",
    "copy-from plain /nosuch /srv/x",
    "clone nosuch x",
    "clone d-dir d-empty",
    "rename nosuch x",
    "rename d-dir d-empty",
    "remove nosuch",
    "read-only nosuch",
    "set-limit nosuch 1G",
    "set-limit 1G",
    "set-limit d-dir 1G",
    "enable nosuch",
    "start nosuch",
    "stop nosuch",
    "shell root@plain /bin/echo hello",
    "shell plain /bin/sh -c 'exit 7'",
    "shell .host /bin/echo hello",
    "shell nosuch@plain /bin/true",
    "bind",
    "nosuch",
)


def _programs() -> None:
    for command in _COMMANDS:
        words = [
            "exit 7" if word == "EXIT" else word for word in command.replace("'exit 7'", "EXIT").split()
        ]
        users = (SUPER,) if command.startswith(("enable", "start", "set-limit")) else (SUPER, USER)
        add(f"program/machinectl/{command}", asking(World.program, CTL, "--no-pager", *words), users)
    for name, argv in {
        # Without what our own interface has: whatever stands between its heading and the next.
        "busctl introspect": [
            "sh",
            "-c",
            "busctl introspect org.freedesktop.machine1 /org/freedesktop/machine1/machine/d_2dvm | "
            "awk '/^[a-z]/ {ours = /^org.machined1/} !ours {$1 = $1; print}'",
        ],
        "log-level": ["systemctl", "service-log-level", "systemd-machined.service"],
        "log-target": ["systemctl", "service-log-target", "systemd-machined.service"],
        "log-level info": ["systemctl", "service-log-level", "systemd-machined.service", "info"],
        "getent hosts": ["getent", "hosts", "plain"],
        "getent ahosts": ["getent", "ahosts", "private"],
        "getent passwd": ["getent", "passwd", "vu-private-0", "vu-plain-0"],
        "getent group": ["getent", "group", "vg-private-0", "vg-plain-0"],
        "userdbctl": ["userdbctl", "user", "vu-private-5", "--output=json"],
        "cgls": ["systemd-cgls", "-M", "private", "/init.scope"],
        # How they are is not the daemon's affair.
        "systemctl list-machines": [
            "sh",
            "-c",
            "systemctl list-machines --plain --no-legend | awk '{print $1}'",
        ],
        "loginctl": ["loginctl", "-M", "plain", "--no-pager", "list-seats"],
        "run": ["systemd-run", "-M", "plain", "--pipe", "--wait", "--quiet", "/bin/echo", "hello"],
        "run private": ["systemd-run", "-M", "private", "--pipe", "--wait", "--quiet", "/bin/echo", "hello"],
        "run pty": ["systemd-run", "-M", "plain", "-t", "--wait", "--quiet", "/bin/echo", "hello"],
        "hostnamectl": ["hostnamectl", "-M", "plain", "hostname"],
    }.items():
        add(f"program/{name}", asking(World.program, *argv), (SUPER,))
    for label, path in SOCKETS.items():
        add(
            f"program/varlinkctl info/{label}",
            asking(World.program, "varlinkctl", "info", path),
            (SUPER,),
        )
        add(
            f"program/varlinkctl interfaces/{label}",
            asking(World.program, "varlinkctl", "list-interfaces", path),
            (SUPER,),
        )
        for interface in (
            "io.systemd.Machine",
            "io.systemd.MachineImage",
            "io.systemd.UserDatabase",
            "io.systemd.service",
            "io.systemd.Resolve.Hook",
            "io.systemd",
            "org.varlink.service",
        ):
            add(
                f"program/varlinkctl introspect/{label}/{interface}",
                asking(_introspect, path, interface),
                (SUPER,),
            )
    add(
        "program/varlinkctl call",
        asking(
            World.program,
            "varlinkctl",
            "call",
            SOCKETS["machine"],
            "io.systemd.Machine.List",
            '{"name":"plain"}',
        ),
    )
    for what in (
        "",
        "/run/systemd/machine",
        "/run/systemd/userdb",
        "/run/systemd/resolve.hook",
        "/run/varlink",
    ):
        add(
            f"program/sockets/{what}",
            asking(
                World.program,
                "sh",
                "-c",
                f"find {what or '/run/systemd/machines'} -path '*achine*' "
                "-printf '%p %y %m %U %G %l\\n' | sort",
            ),
            (SUPER,),
        )
    add("program/mounts at the end", mounts, (SUPER, TRUSTED))


def _introspect(w: World, path: str, interface: str) -> None:
    """Whether the description is understood; what is in it is another case."""
    out = w.program("varlinkctl", "introspect", path, interface, note=False)
    w.note(sorted(line for line in out.splitlines() if line and not line.strip().startswith("#")))


_programs()
