# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host has not, said with file and line."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from machined.linux.inifile import parse
from machined.model import hostcheck
from machined.model.settings.layers import Severity, Source, read
from machined.model.settings.merge import merge

LISTENS = "a program of the host listens on"


def missing(text: str, source: Source = Source.MACHINE) -> list[tuple[Severity, str]]:
    layer = read(parse(text.encode(), "web.conf"), source, 262)
    assert not layer.findings
    return [(finding.severity, str(finding)) for finding in hostcheck.missing(merge([layer]))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[Network]\nBridge=nowhere", "Bridge=nowhere: the host has no such bridge"),
        ("[Network]\nInterface=nowhere:lan", "the host has no interface 'nowhere'"),
        ("[Network]\nMACVLAN=nowhere", "the host has no interface 'nowhere'"),
        ("[Network]\nIPVLAN=nowhere", "the host has no interface 'nowhere'"),
        ("[Network]\nNamespacePath=/run/netns/nowhere", "there is no such namespace"),
        ("[Files]\nBind=/nowhere:/x", "the host has no '/nowhere'"),
        ("[Files]\nBindReadOnly=/nowhere", "the host has no '/nowhere'"),
        ("[Exec]\nLoadCredential=a:/nowhere", "the host has no '/nowhere'"),
    ],
)
def test_not_there(text: str, said: str) -> None:
    ((severity, found),) = missing(text)
    assert severity is Severity.ERROR
    assert found.startswith("web.conf:2: ")
    assert said in found


def test_what_is_there(tmp_path: Path) -> None:
    assert not missing(
        "[Network]\nMACVLAN=lo\nMACVLAN=an-alternative-name-of-some-link:x\n"
        f"[Files]\nBind={tmp_path}\nBind=+/nowhere:/x\nBind=:/y\n[Exec]\nLoadCredential=a:of-the-host\n"
    )


def test_a_taken_port() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        text = f"[Network]\nPort={port}"
        ((severity, said),) = missing(text)
        assert severity is Severity.ERROR
        assert said == f"web.conf:2: [Network] Port=tcp:{port}:{port}: {LISTENS} tcp port {port}."
        assert missing(text, Source.NSPAWN)[0][0] is Severity.WARNING
    assert not missing(text)
