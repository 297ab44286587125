# SPDX-License-Identifier: LGPL-2.1-or-later
"""What cannot hold together, said before anything starts.

systemd-nspawn would say most of it in the journal, in the middle of a start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from machined.model.settings import managed
from machined.model.settings.layers import Finding, Severity
from machined.model.settings.merge import UPLINKS, Effective, Value
from machined.model.settings.section_image import TREES

Contradiction = tuple[Value | None, str]
Rule = Callable[[Effective], Iterator[Contradiction]]


def check(effective: Effective) -> list[Finding]:
    """All that contradicts something else, as errors."""
    return [
        Finding(Severity.ERROR, value.place if value else None, text)
        for rule in RULES
        for value, text in rule(effective)
    ]


def _last(effective: Effective, section: str, key: str) -> Value | None:
    values = effective.all(section, key)
    return values[-1] if values else None


def _at(value: Value | None) -> str:
    return f" ({value.origin})" if value else ""


def _payload(e: Effective) -> Iterator[Contradiction]:
    boot, two, user = _last(e, "Exec", "Boot"), _last(e, "Exec", "ProcessTwo"), _last(e, "Exec", "User")
    if boot and boot.text == "yes":
        if two and two.text == "yes":
            yield two, f"[Exec] ProcessTwo=yes runs a command, Boot=yes{_at(boot)} an init: say one of them."
        if user:
            yield user, f"[Exec] User={user.text} is for commands (Boot=no): an init is root."
    elif not (e.all("Exec", "Parameters") or e.all("Image", "OCIBundle")):
        yield two or boot, "[Exec] Boot=no needs a command, Parameters=…: nobody sits at a shell there."


def _network(e: Effective) -> Iterator[Contradiction]:
    links = [
        v for key in ("VirtualEthernetExtra", *UPLINKS, "Bridge", "Zone") for v in e.all("Network", key)
    ]
    ethernet = _last(e, "Network", "VirtualEthernet")
    if ethernet and ethernet.text == "yes":
        links.append(ethernet)
    host, mac = _last(e, "Network", "Private"), _last(e, "Network", "MACAddress")
    if host and host.text == "no" and links and host.source.is_ours():
        what = links[0]
        yield (
            host,
            f"[Network] Private=no is the host's network, '{what.text}'{_at(what)} is for one of its own.",
        )
    for port in e.all("Network", "Port"):
        if not links and not e.yes("Network", "Private"):
            yield (
                port,
                f"[Network] Port={port.text} leads to a machine's own network, and this one has the host's: "
                f"its ports are the host's already. Take it out, or say VirtualEthernet=yes.",
            )
    bridge, zone = _last(e, "Network", "Bridge"), _last(e, "Network", "Zone")
    if bridge and zone:
        yield zone, f"[Network] Zone={zone.text}, Bridge={bridge.text}{_at(bridge)}: one link, one bridge."
    if (path := _last(e, "Network", "NamespacePath")) is not None:
        for link in links:
            if link is not path:
                yield (
                    link,
                    f"[Network] '{link.text}': NamespacePath={path.text}{_at(path)} is all of a network.",
                )
    if mac and not (bridge or zone or e.yes("Network", "VirtualEthernet")):
        yield mac, f"[Network] MACAddress={mac.text} is host0's, and there is none (VirtualEthernet=yes)."


def _names(e: Effective) -> Iterator[Contradiction]:
    """No two links with one name inside, and no port twice."""
    names: dict[str, Value] = {}
    for key, prefix in (
        ("VirtualEthernetExtra", ""),
        ("Interface", ""),
        ("MACVLAN", "mv-"),
        ("IPVLAN", "iv-"),
    ):
        for value in e.all("Network", key):
            host, _, inside = value.text.partition(":")
            name = inside or (prefix + host)[:15]
            if name in names:
                yield value, f"[Network] {key}={value.text}: there is a '{name}' already{_at(names[name])}."
            names[name] = value
    ports: dict[str, Value] = {}
    for value in e.all("Network", "Port"):
        port, _, target = value.text.rpartition(":")
        before = ports.setdefault(port, value)
        if before.text.rpartition(":")[2] != target:
            yield value, f"[Network] Port={value.text}: that port leads elsewhere already{_at(before)}."


def _users(e: Effective) -> Iterator[Contradiction]:
    ownership, users = _last(e, "Files", "PrivateUsersOwnership"), _last(e, "Exec", "PrivateUsers")
    read_only, guest = _last(e, "Files", "ReadOnly"), _last(e, "Files", "BindUser")
    if ownership and ownership.text == "chown" and read_only and read_only.text == "yes":
        yield (
            read_only,
            f"[Files] ReadOnly=yes: PrivateUsersOwnership=chown{_at(ownership)} writes to all files.",
        )
    if users and users.text == "no":
        if guest:
            yield guest, f"[Files] BindUser={guest.text} needs PrivateUsers= other than 'no'{_at(users)}."
        if ownership and ownership.text in {"chown", "map", "foreign"}:
            yield (
                ownership,
                f"[Files] PrivateUsersOwnership={ownership.text} needs PrivateUsers=: whose is all?",
            )


def _tree(e: Effective) -> Iterator[Contradiction]:
    trees = [value for key in TREES for value in e.all("Image", key)]
    if len(trees) > 1:
        yield (
            trees[1],
            f"[Image] '{trees[1].text}' and '{trees[0].text}'{_at(trees[0])}: a machine has one tree.",
        )
    directory, root_hash = _last(e, "Image", "Directory"), _last(e, "Image", "RootHash")
    for key in ("RootHash", "RootHashSignature", "VerityData"):
        value = _last(e, "Image", key)
        if value and directory:
            yield value, f"[Image] {key}= is for disk images, Directory={directory.text} names a tree."
    signature = _last(e, "Image", "RootHashSignature")
    if signature and not root_hash:
        yield signature, "[Image] RootHashSignature= needs the RootHash= that it signs."


RULES: Final[tuple[Rule, ...]] = (_payload, _network, managed.contradictions, _names, _users, _tree)
