# SPDX-License-Identifier: LGPL-2.1-or-later
"""What holds where several files say something."""

from __future__ import annotations

import pytest

from machined.linux.inifile import parse
from machined.model.settings import command, rules, table
from machined.model.settings.layers import Layer, Source, from_command_line, read
from machined.model.settings.merge import Effective, merge


def layer(text: str, source: Source = Source.NSPAWN, path: str = "web.nspawn") -> Layer:
    return read(parse(text.encode(), path), source, 262)


def words(*layers: Layer) -> list[str]:
    return command.options(merge(layers), 262)


def test_defaults_are_the_templates() -> None:
    assert words() == ["--boot", "--private-users=pick", "--link-journal=try-guest", "--network-veth"]


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[Network]",
        "[Network]\nPort=80",
        "[Network]\nVirtualEthernetExtra=a",
        "[Network]\nVirtualEthernet=yes",
        "[Network]\nZone=lab",
        "[Network]\nBridge=br0",
        "[Network]\nVirtualEthernet=",
        "[Network]\nMACVLAN=eth0\nMACVLAN=",
        "[Exec]\nBoot=yes",
    ],
)
def test_the_link_stays(said: str) -> None:
    assert "--network-veth" in words(layer(said))


@pytest.mark.parametrize(
    "said",
    ["Private=no", "Private=yes", "VirtualEthernet=no", "MACVLAN=eth0", "IPVLAN=eth0", "Interface=eth1",
     "NamespacePath=/run/netns/x"],
)  # fmt: skip
def test_something_else_is_said(said: str) -> None:
    assert "--network-veth" not in words(layer(f"[Network]\n{said}"))
    again = layer("[Network]\nVirtualEthernet=yes", Source.MACHINE)
    assert "--network-veth" in words(layer(f"[Network]\n{said}"), again)


def test_lists_add_up_and_are_forgotten() -> None:
    one = layer("[Files]\nBind=/a\nBind=/b")
    assert [w for w in words(one, layer("[Files]\nBind=/c", Source.MACHINE)) if "bind" in w] == [
        "--bind=/a", "--bind=/b", "--bind=/c",
    ]  # fmt: skip
    assert [w for w in words(one, layer("[Files]\nBind=\nBind=/c", Source.MACHINE)) if "bind" in w] == [
        "--bind=/c"
    ]


def test_a_whole_list_takes_the_place_of_another() -> None:
    one = layer("[Exec]\nBoot=no\nParameters=sleep\nParameters=1")
    assert command.parameters(merge([one])) == ["sleep", "1"]
    assert command.parameters(merge([one, from_command_line(["Parameters=id -u"], 262)])) == ["id", "-u"]


def test_the_last_one_counts_and_an_empty_one_is_the_default() -> None:
    one, two = layer("[Exec]\nLinkJournal=no"), layer("[Exec]\nLinkJournal=", Source.MACHINE)
    assert "--link-journal=no" in words(one)
    assert "--link-journal=try-guest" in words(one, two)
    assert not merge([one, two]).is_set("Exec", "LinkJournal")


def test_origins() -> None:
    effective = merge(
        [layer("[Files]\nBind=/a"), layer("[Files]\n\nBind=/b", Source.MACHINE, "/etc/web.conf")]
    )
    assert [value.origin for value in effective.all("Files", "Bind")] == ["web.nspawn:2", "/etc/web.conf:3"]
    assert [value.origin for value in effective.all("Exec", "Boot")] == ["default"]
    assert [value.origin for value in merge([from_command_line(["Boot=no"], 262)]).all("Exec", "Boot")] == [
        "command line"
    ]


def test_lines_of_filters_stay_apart() -> None:
    filters = [
        w for w in words(layer("[Exec]\nSystemCallFilter=@a b\nSystemCallFilter=~c d")) if "filter" in w
    ]
    assert filters == ["--system-call-filter=@a b", "--system-call-filter=~c d"]


def test_a_command_instead_of_a_system() -> None:
    effective = merge([layer("[Exec]\nProcessTwo=yes\nParameters=sleep 1")])
    assert "--as-pid2" in command.options(effective, 262)
    assert "--boot" not in command.options(effective, 262)


SECTIONS = ", ".join(f"[{section}]" for section in table.SECTIONS)
CONTRADICTIONS = {
    "[Exec]\nBoot=yes\nProcessTwo=yes": "ProcessTwo=yes runs a command",
    "[Exec]\nUser=joe": "an init is root",
    "[Exec]\nBoot=no": "needs a command",
    "[Network]\nPrivate=no\nPort=80": "ports are the host's already",
    "[Network]\nVirtualEthernet=no\nPort=80": "ports are the host's already",
    "[Network]\nBridge=a\nZone=b": "one bridge",
    "[Network]\nPrivate=no\nBridge=a": "Private=no is the host's network",
    "[Network]\nNamespacePath=/run/netns/x\nVirtualEthernet=yes": "all of a network",
    "[Network]\nNamespacePath=/run/netns/x\nMACVLAN=a": "all of a network",
    "[Network]\nVirtualEthernet=no\nMACAddress=02:00:00:00:00:01": "there is none",
    "[Network]\nMACVLAN=a:lan\nInterface=b:lan": "there is a 'lan' already",
    "[Network]\nPort=80:1\nPort=80:2": "leads elsewhere already",
    "[Files]\nReadOnly=yes\nPrivateUsersOwnership=chown": "writes to all files",
    "[Exec]\nPrivateUsers=no\n[Files]\nBindUser=joe": "other than 'no'",
    "[Exec]\nPrivateUsers=no\n[Files]\nPrivateUsersOwnership=map": "whose is all?",
    "[Image]\nDirectory=/a\nImage=/b": "a machine has one tree",
    "[Image]\nDirectory=/a\nRootHash=" + "ab" * 32: "is for disk images",
    "[Image]\nRootHashSignature=/a": "needs the RootHash=",
}


def contradictions(effective: Effective) -> list[str]:
    return [str(finding) for finding in rules.check(effective)]


@pytest.mark.parametrize("said", CONTRADICTIONS)
def test_contradictions(said: str) -> None:
    found = contradictions(merge([layer(said, Source.MACHINE, "/etc/web.conf")]))
    assert len(found) == 1, found
    assert CONTRADICTIONS[said] in found[0]
    assert found[0].startswith("/etc/web.conf:")


@pytest.mark.parametrize(
    "said",
    ["", "[Network]\nPort=80\nPort=udp:80\nPort=80", "[Network]\nZone=a\nMACAddress=02:00:00:00:00:01"],
)
def test_no_contradictions(said: str) -> None:
    assert not contradictions(merge([layer(said, Source.MACHINE)]))


def test_mistakes_are_explained() -> None:
    found = [
        str(finding)
        for finding in layer(
            "Stray=1\n[Exec]\nBot=yes\nBind=/a\nnothing\n[Exex]\n[Network]\nMACAddress=02:00:00:00:00:01\n"
        ).findings
    ]
    assert found == [
        "web.nspawn:1: 'Stray=' stands before any [Section], ignored.",
        "web.nspawn:5: 'nothing' is no assignment (Key=value), ignored.",
        f"web.nspawn: unknown section [Exex]; there are {SECTIONS}. Ignored.",
        "web.nspawn:3: [Exec] has no key 'Bot'; did you mean 'Boot'? Ignored.",
        "web.nspawn:4: [Exec] has no key 'Bind'; it belongs to [Files]. Ignored.",
        "web.nspawn:8: [Network] MACAddress= is no key of .nspawn files; write it to "
        "/etc/machined/machines/NAME.conf (machinectl set NAME MACAddress=…). Ignored.",
    ]


@pytest.mark.parametrize("word", ["Boot", "=yes", "Nothing=1", "Exec.Nothing=1", "Network.Boot=yes"])
def test_mistakes_on_the_command_line(word: str) -> None:
    found = from_command_line([word], 262)
    assert not found.lines
    assert len(found.findings) == 1
