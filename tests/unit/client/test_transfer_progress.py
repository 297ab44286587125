# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far, how fast, how long, and what is shown of it; with a clock of our own."""

from __future__ import annotations

import json

import pytest

from machinectl.transfer_progress import Meter, bar, span
from machinectl.transfer_reasons import failed
from machinectl.transfer_report import Events, Log, Report, Terminal, choose

URL = "http://host/web.tar"
WHAT: dict[str, object] = {"id": 7, "type": "pull-tar", "local": "web", "remote": URL}


def test_what_importd_tells_of_a_download() -> None:
    meter = Meter(100.0, url=URL)
    assert (meter.fraction, meter.percent(), meter.left(101), meter.rate(101)) == (None, None, None, 0)
    assert not meter.read(100.0, f"Downloading 40M for {URL}.")
    assert meter.total == 40 * 2**20
    assert not meter.read(100.0, "Downloading 374B for http://host/SHA256SUMS.")
    assert meter.total == 40 * 2**20
    assert meter.read(102.0, f"Got 25% of {URL}. 6s left at 5M/s.")
    assert meter.done == 10 * 2**20
    assert meter.rate(102.0) == 5 * 2**20
    assert meter.left(102.0) == 6
    meter.told(0.2)
    assert meter.percent() == 20
    assert meter.words(102.0) == "10M of 40M, 5M/s, 6s left"
    assert meter.read(103.0, f"Got 50% of {URL}.")
    assert meter.done == 20 * 2**20
    assert meter.read(103.0, "Imported 50%.")
    assert not meter.read(103.0, "Image 'web' already exists.")


def test_a_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter(0.0, total=1000)
    for second in range(1, 21):
        meter.moved(second, second * 10)
    for second in range(21, 41):
        meter.moved(second, 200 + (second - 20) * 40)
    assert meter.rate(40.0) == 40
    assert meter.left(40.0) == 0
    assert meter.rate(60.0) == 0
    assert meter.fraction == 1


def test_without_bytes_the_fraction_tells_the_end() -> None:
    meter = Meter(10.0)
    meter.told(-1.7e308)
    assert meter.fraction is None
    meter.told(0.01)
    assert meter.left(11.0) is None
    meter.told(0.25)
    meter.told(0.20)
    assert meter.left(20.0) == 30
    assert meter.words(20.0) == "30s left"
    meter.told(0.29)
    assert meter.percent() == 29
    meter.told(7.0)
    assert meter.percent() == 29


def test_a_bar() -> None:
    meter = Meter(0.0, total=2**30)
    meter.moved(8.0, 2**29)
    line = bar(meter, "web", 79, 8.0)
    assert len(line) == 79
    assert line.startswith("web  50% [====")
    assert line.endswith("] 512M of 1G, 64M/s, 8s left")
    inside = line.partition("[")[2].partition("]")[0]
    assert abs(inside.count("=") + 1 - len(inside) / 2) <= 1
    assert bar(meter, "web", 40, 8.0) == "web  50% 512M of 1G, 64M/s, 8s left"
    assert bar(meter, "web", 20, 8.0) == "web  50%"
    assert bar(meter, "web", 3, 8.0) == ""
    meter.moved(16.0, 2**30)
    assert ">" not in bar(meter, "web", 79, 16.0)
    assert bar(Meter(0.0), "x\x1b[31m", 60, 5.0) == "x[31m 5s"
    for columns in range(1, 100):
        assert len(bar(meter, "a-rather-long-name-of-an-image", columns, 16.0)) <= columns


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1min 0s"), (200, "3min 20s"), (7500, "2h 5min"), (3e5, "3 days"),
     (1e300, "9999 days")],
)  # fmt: skip
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_log_has_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter(0.0)
    log = Log(meter, WHAT, "pulling it")
    log.started()
    for percent in range(101):
        meter.told(percent / 100)
        log.moved()
    for number in range(1000):
        log.line(6, f"line {number}\x1b[31m")
    log.line(6, "Exiting.")
    log.ended("done", "Pulled it.", 1.0)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "Transfer 7: pulling it (Ctrl-C cancels it)"
    assert [line.partition(":")[0] for line in lines[1:11]] == [f"{n}%" for n in range(10, 101, 10)]
    assert lines[11] == "line 0[31m"
    assert len(lines) == 1 + 10 + 100 + 1 + 1
    assert lines[-1] == "Pulled it."


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter(0.0)
    events = Events(meter, WHAT, "pulling it")
    events.started()
    for step in range(1001):
        meter.told(step / 1000)
        events.moved()
    events.line(3, "oh\nno")
    events.ended("failed", "It failed.", 1.2345)
    out, err = capsys.readouterr()
    read = list(map(json.loads, out.splitlines()))
    assert err == ""
    assert read[0] == {"event": "started", **WHAT}
    assert [event["percent"] for event in read if event["event"] == "progress"] == list(range(101))
    assert read[-2] == {"event": "log", "priority": 3, "message": "ohno"}
    assert read[-1] == {
        "event": "ended",
        **WHAT,
        "result": "failed",
        "error": "It failed.",
        "seconds": 1.234,
    }


def test_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines take the place of the bar, and the bar comes back below."""
    meter = Meter(0.0)
    terminal = Terminal(meter, WHAT, "pulling it")
    meter.told(0.5)
    terminal.moved()
    terminal.moved()
    terminal.line(6, "something")
    terminal.ended("done", "Pulled it.", 1.0)
    err = capsys.readouterr().err
    assert err.count("\rweb") == 1
    assert err.endswith("\r\x1b[Ksomething\nPulled it.\n")


def test_which_report(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(quiet=False, json=True) is choose(quiet=True, json=True) is Events
    assert choose(quiet=True, json=False) is Report
    monkeypatch.setattr("os.isatty", lambda fd: fd == 2)
    assert choose(quiet=False, json=False) is Terminal
    monkeypatch.setenv("TERM", "dumb")
    assert choose(quiet=False, json=False) is Log
    monkeypatch.setattr("os.isatty", lambda fd: False)
    monkeypatch.setenv("TERM", "xterm")
    assert choose(quiet=False, json=False) is Log


@pytest.mark.parametrize(
    ("lines", "reason", "hint"),
    [
        ([(3, "Image 'web' already exists.")], "image 'web' exists already", "--force"),
        ([(6, "tar: ./big: Wrote only 1024 of 10240 bytes"), (3, "tar failed with exit status 2.")],
         "there is no space left", "image-status"),
        ([(3, "Failed to unpack regular file 'big': Write error"), (3, "'tar' failed with exit status 1.")],
         "there is no space left", "image-status"),
        ([(5, f"HTTP request to {URL} failed with code 404."),
          (3, "Failed to retrieve image file. (Wrong URL?)")],
         "the server has no such file (404)", "URL"),
        ([(5, "HTTP request to http://host/web.nspawn failed with code 404."), (3, "Oh dear.")],
         "Oh dear", "journalctl"),
        ([(5, f"HTTP request to {URL} failed with code 500."), (3, "Failed to retrieve image file.")],
         "Failed to retrieve image file", "journalctl"),
        ([(3, "First."), (3, "Exiting."), (3, "Second."), (3, "Second.")], "First; Second", "journalctl"),
        ([(6, "A line.")], "A line", "journalctl"),
        ([], "systemd-importd does not say why", "journalctl"),
        ([(3, "Failed to allocate puller: Operation not supported")], "libcurl", "libcurl4t64"),
        ([(3, "DOWNLOAD INVALID: Checksum of x file did not check out, file has been tampered with.")],
         "its checksum is not the one the server tells", "Try again"),
        ([(3, "DOWNLOAD INVALID: Signature verification failed.")], "its signature is not valid", "pubring"),
    ],
)  # fmt: skip
def test_reasons(lines: list[tuple[int, str]], reason: str, hint: str) -> None:
    error = failed("Failed it", lines, "web")
    assert error.message.startswith("Failed it: ")
    assert reason in error.message
    assert hint in error.hint
