# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from machined.linux import commands, listening, sysctl


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_ports(family: socket.AddressFamily, protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as sock:
        try:
            sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        except OSError:
            pytest.skip("no such addresses here")
        port = sock.getsockname()[1]
        if protocol == "tcp":
            assert port not in listening.ports(protocol), "bound is not yet listening"
            sock.listen()
        assert port in listening.ports(protocol)
    assert port not in listening.ports(protocol)


def test_switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctl, "ROOT", tmp_path)
    assert not sysctl.has_ipv6()
    assert sysctl.interfaces("ipv6") == []
    for name in ("all", "default", "eth0"):
        (tmp_path / "ipv6/conf" / name).mkdir(parents=True)
        (tmp_path / "ipv6/conf" / name / "disable_ipv6").write_text("0\n", encoding="ascii")
    assert sysctl.has_ipv6()
    assert sysctl.interfaces("ipv6") == ["eth0"]
    assert sysctl.write("ipv6/conf/all/disable_ipv6", "1") == "0"
    assert sysctl.read("ipv6/conf/all/disable_ipv6") == "1"
    assert not sysctl.has_ipv6()


def test_commands() -> None:
    assert commands.run("cat", text="told") == "told"
    assert commands.is_installed("cat")
    assert not commands.is_installed("no-such-program")
    with pytest.raises(commands.NotInstalledError, match="'no-such-program' is not installed"):
        commands.run("no-such-program")
    with pytest.raises(OSError, match="sh: why"):
        commands.run("sh", "-c", "echo why >&2; echo more >&2; exit 3")
    with pytest.raises(OSError, match="exit status 3"):
        commands.run("sh", "-c", "exit 3")


def test_commands_take_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "TIMEOUT", 0.05)
    with pytest.raises(TimeoutError):
        commands.run("sleep", "60")
