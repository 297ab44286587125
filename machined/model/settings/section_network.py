# SPDX-License-Identifier: LGPL-2.1-or-later
"""Section [Network]: links, bridges, ports (systemd.nspawn(5), and what it has no key for)."""

from __future__ import annotations

from typing import Final

from machined.model.settings import links, places
from machined.model.settings.kinds import BOOLEAN
from machined.model.settings.setting import Form, Setting, Trust

_SECTION: Final = "Network"
_UNTRUSTED: Final = Trust.NOTHING

ROWS: Final = (
    Setting(
        _SECTION,
        "Private",
        BOOLEAN,
        "--private-network",
        "A network of its own; 'no' is the host's.",
        Form.FLAG,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "VirtualEthernet",
        BOOLEAN,
        "--network-veth",
        "A link to the host: host0 inside, ve-NAME here. It is there unless "
        "another uplink is named, or the host's network used.",
        Form.FLAG,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "VirtualEthernetExtra",
        links.EXTRA,
        "--network-veth-extra",
        "One more link to the host.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "Interface",
        links.PAIR,
        "--network-interface",
        "An interface of the host is the machine's while it runs.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "MACVLAN",
        links.PAIR,
        "--network-macvlan",
        "A station of its own on an interface's network.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "IPVLAN",
        links.PAIR,
        "--network-ipvlan",
        "Likewise, with the interface's hardware address.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "Bridge",
        links.INTERFACE,
        "--network-bridge",
        "The link to the host goes to this bridge.",
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "Zone",
        links.ZONE,
        "--network-zone",
        "The link to the host goes to the bridge vz-NAME, which is there as long as a machine is on it.",
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "Port",
        links.PORT,
        "--port",
        "A port of the host leads to one of the machine.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "NamespacePath",
        places.PATH,
        "--network-namespace-path",
        "The network is that of this namespace (/run/netns/…).",
        trust=_UNTRUSTED,
        nspawn_since=259,
    ),
    Setting(
        _SECTION,
        "MACAddress",
        links.MAC_ADDRESS,
        "SYSTEMD_NSPAWN_NETWORK_MAC",
        "The hardware address of host0.",
        Form.VARIABLE,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
)
