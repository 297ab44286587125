# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the host has what the settings of a machine name: bridges, interfaces, files, free ports.

Asked right before a start, and by those who want to know; what is missing then may be there the next time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from machined.linux import listening
from machined.model.settings import devices, managed
from machined.model.settings.layers import Finding, Severity
from machined.model.settings.links import NAME_MAX
from machined.model.settings.merge import Effective, Value
from machined.model.settings.words import split_colons


def missing(settings: Effective) -> list[Finding]:
    """What is not there, or taken, as errors; a port taken behind a .nspawn file is a warning, as it was."""
    checks = (_links, _files, _devices, _cookies, _ports)
    return [finding for check in checks for finding in check(settings)]


def _links(settings: Effective) -> Iterator[Finding]:
    for value in settings.all("Network", "Bridge"):
        if _exists(value.text) is False:
            how = (
                f"make it first, as by 'ip link add {value.text} type bridge' or a .netdev file of networkd"
            )
            yield _error(value, f"[Network] Bridge={value.text}: the host has no such bridge; {how}.")
    for key in ("Interface", "MACVLAN", "IPVLAN"):
        for value in settings.all("Network", key):
            name = value.text.partition(":")[0]
            if _exists(name) is False:
                there = ", ".join(name for _, name in socket.if_nameindex() if name != "lo") or "none"
                yield _error(
                    value,
                    f"[Network] {key}={value.text}: the host has no interface '{name}'; it has {there}.",
                )


def _exists(name: str) -> bool | None:
    """Whether an interface is there; None for an alternative name that this call cannot ask for."""
    if len(name) > NAME_MAX:
        return None
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _files(settings: Effective) -> Iterator[Finding]:
    for key in ("Bind", "BindReadOnly"):
        for value in settings.all("Files", key):
            source = split_colons(value.text)[0]
            # After a plus it is the tree's, and nothing is a directory that will be made.
            if source.startswith("/") and not os.path.exists(source):
                yield _error(value, f"[Files] {key}={value.text}: the host has no '{source}'.")
    for value in settings.all("Network", "NamespacePath"):
        if not os.path.exists(value.text):
            text = f"[Network] NamespacePath={value.text}: there is no such namespace (ip netns add NAME)."
            yield _error(value, text)
    for value in settings.all("Exec", "LoadCredential"):
        source = value.text.partition(":")[2]
        if source.startswith("/") and not os.path.exists(source):
            yield _error(value, f"[Exec] LoadCredential={value.text}: the host has no '{source}'.")


def _cookies(settings: Effective) -> Iterator[Finding]:
    for value in settings.all("Machine", "XAuthority"):
        if not os.path.isfile(value.text):
            yield _error(value, f"[Machine] XAuthority={value.text}: the host has no such file.")


def _devices(settings: Effective) -> Iterator[Finding]:
    for value in settings.all("Machine", "Device"):
        device = devices.parse(value.text)
        if device is not None and not os.path.exists(device.path):
            yield _error(value, f"[Machine] Device={value.text}: the host has no '{device.path}'.")


def _ports(settings: Effective) -> Iterator[Finding]:
    if managed.is_managed(settings):
        return  # looked at by whoever publishes them
    for value in settings.all("Network", "Port"):
        protocol, host, _ = value.text.split(":")
        if int(host) in listening.ports(protocol):
            severity = Severity.ERROR if value.source.is_ours() else Severity.WARNING
            text = f"[Network] Port={value.text}: a program of the host listens on {protocol} port {host}."
            yield Finding(severity, value.place, text)


def _error(value: Value, text: str) -> Finding:
    return Finding(Severity.ERROR, value.place, text)
