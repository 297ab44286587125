# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a managed machine is started with, and the files that it sees of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from machined.model.images import Image
from machined.model.network import host, networkd, store
from machined.model.network.draft import Draft
from machined.model.settings import managed
from machined.model.settings.merge import Effective

_RESOLVED: Final = "run/systemd/resolve"


@dataclass(frozen=True, slots=True)
class Prepared:
    """The settings a machine is started with, and more options for systemd-nspawn."""

    settings: Effective
    options: tuple[str, ...] = ()


def prepared(name: str, image: Image, settings: Effective, made: Draft) -> Prepared:
    """The settings, and options, for what was written down."""
    record = made.record
    extra = [value.text for value in settings.all("Network", "VirtualEthernetExtra")]
    changes = {
        ("Network", "VirtualEthernet"): ["yes"],
        ("Network", "Bridge"): [made.plan.bridge],
        ("Network", "MACAddress"): [record.mac],
        ("Network", "Port"): [],
        ("Network", "VirtualEthernetExtra"): [*extra, *(f"{n.outside}:{n.inside}" for n in record.nics)],
    }
    options = []
    if not settings.is_set("Exec", "ResolvConf") and not _asks_resolved(image):
        changes["Exec", "ResolvConf"] = ["off"]
        options.append(f"--bind-ro={store.RUNTIME / f'{name}.resolv'}:/etc/resolv.conf")
    options.append(f"--bind-ro={store.RUNTIME / f'{name}.network'}:{networkd.INSIDE}")
    return Prepared(managed.with_values(settings, changes), tuple(options))


def write(made: Draft, server: str) -> None:
    """Write it down, and have the network there. OSError."""
    store.save_leases(made.leases)
    host.set_up(made.plan, server)
    store.write(made.record)
    name, servers = made.record.machine, networkd.servers(made.plan, made.record)
    text = "".join(f"nameserver {address}\n" for address in servers)
    (store.RUNTIME / f"{name}.resolv").write_text(text, encoding="ascii")
    text = networkd.render_inside(made.plan, made.record)
    (store.RUNTIME / f"{name}.network").write_text(text, encoding="ascii")


def _asks_resolved(image: Image) -> bool:
    """Whether the names of a tree are its own resolved's business, which hears of us by DHCP and RA."""
    if not image.is_tree:
        return True
    try:
        return _RESOLVED in os.readlink(Path(image.path) / "etc/resolv.conf")
    except OSError:
        return False
