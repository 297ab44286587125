# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import logging
import os
import sys
import types
from pathlib import Path

import pytest

from machined.linux import sd


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_PID",
        "LISTEN_FDS",
        "JOURNAL_STREAM",
    ):
        monkeypatch.delenv(name, raising=False)


def provide(monkeypatch: pytest.MonkeyPatch, module: str, **functions: object) -> None:
    fake = types.ModuleType(f"systemd.{module}")
    vars(fake).update(functions)
    monkeypatch.setitem(sys.modules, "systemd", types.ModuleType("systemd"))
    monkeypatch.setitem(sys.modules, f"systemd.{module}", fake)


def withhold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("systemd", "systemd.daemon", "systemd.journal"):
        monkeypatch.setitem(sys.modules, name, None)


def test_notify_without_anybody_to_notify(monkeypatch: pytest.MonkeyPatch) -> None:
    withhold(monkeypatch)
    sd.notify("READY=1")


def test_notify(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/none")
    provide(monkeypatch, "daemon", notify=said.append)
    sd.notify("READY=1")
    assert said == ["READY=1"]


def test_missing_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/none")
    withhold(monkeypatch)
    with pytest.raises(
        ImportError, match=r"'READY=1' needs systemd-python.*Install the package python3-systemd"
    ):
        sd.notify("READY=1")


def test_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sd.watchdog_usec() == 0
    monkeypatch.setenv("WATCHDOG_USEC", "180000000")
    assert sd.watchdog_usec() == 180_000_000
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert sd.watchdog_usec() == 180_000_000
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert sd.watchdog_usec() == 0
    monkeypatch.setenv("WATCHDOG_USEC", "nonsense")
    monkeypatch.delenv("WATCHDOG_PID")
    assert sd.watchdog_usec() == 0


def test_listen_fds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sd.listen_fds() == {}
    read, write = os.pipe()
    os.set_inheritable(read, True)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))

    def passed(unset_environment: bool) -> dict[int, str]:
        assert unset_environment
        return {write: "varlink", read: "varlink"}

    provide(monkeypatch, "daemon", listen_fds_with_names=passed)
    assert sd.listen_fds() == {"varlink": [read, write]}
    assert not os.get_inheritable(read)
    assert "LISTEN_PID" not in os.environ
    os.close(read)
    os.close(write)


def test_listen_fds_meant_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    withhold(monkeypatch)
    monkeypatch.setenv("LISTEN_PID", "1")
    assert sd.listen_fds() == {}


def test_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[bytes, ...]] = []
    monkeypatch.setattr(sd, "JOURNAL_SOCKET", "/dev/null")
    provide(monkeypatch, "journal", sendv=lambda *fields: sent.append(fields))
    sd.journal(
        "New.", priority=sd.LOG_INFO, facility=sd.LOG_AUTH, MESSAGE_ID="24d8", LEADER=7, NAME="a\udcff"
    )
    expected = (
        b"MESSAGE=New.",
        b"PRIORITY=6",
        b"SYSLOG_FACILITY=4",
        b"MESSAGE_ID=24d8",
        b"LEADER=7",
        b"NAME=a\xff",
    )
    assert sent == [expected]


@pytest.mark.parametrize("socket", ["/dev/null", "/no such socket"])
def test_journal_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, socket: str
) -> None:
    withhold(monkeypatch)
    monkeypatch.setattr(sd, "JOURNAL_SOCKET", socket)
    with caplog.at_level(logging.INFO):
        sd.journal("Gone: 100 %s", priority=sd.LOG_WARNING, NAME="a")
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "Gone: 100 %s")


def record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("name", level, "file", 1, text, None, None)


def test_formatter_on_a_terminal() -> None:
    assert sd.JournalFormatter().format(record(logging.ERROR, "text")) == "text"


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.CRITICAL, "<2>"),
        (logging.ERROR, "<3>"),
        (logging.WARNING, "<4>"),
        (logging.INFO, "<6>"),
        (logging.DEBUG, "<7>"),
    ],
)
def test_formatter_in_the_journal(monkeypatch: pytest.MonkeyPatch, level: int, prefix: str) -> None:
    info = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
    text = sd.JournalFormatter("%(name)s: %(message)s").format(record(level, "one\ntwo"))
    assert text == f"{prefix}name: one\n{prefix}two"


def test_formatter_with_stderr_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = os.stat(tmp_path)
    monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
    assert not sd.stderr_is_journal()
