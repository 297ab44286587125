# SPDX-License-Identifier: LGPL-2.1-or-later
"""Transfers that do not come to their end: cancelled, interrupted, or left alone by systemd-importd."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.integration.driver import OURS, Driver
from tests.integration.import_lab import POOL, WORK, Lab, Server, archive, small_tree
from tests.until import agree

pytestmark = [pytest.mark.integration, pytest.mark.either("trixie")]

BIG = 2**20


@pytest.fixture(scope="module")
def lab(managed: Driver) -> Iterator[Lab]:
    lab = Lab(managed)
    lab.clear()
    yield lab
    lab.host.run(["rm", "-rf", WORK])


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[Server]:
    with lab.server() as server:
        yield server


@pytest.fixture
def tar(lab: Lab, server: Server) -> str:
    """The URL of a tar that never comes whole."""
    return server.url("stall", lab.publish("stall", "web.tar", archive(*small_tree("x")) + bytes(BIG)))


@pytest.fixture
def raw(lab: Lab, server: Server) -> str:
    return server.url("stall", lab.publish("stall", "web.raw", bytes(range(256)) * (BIG // 256)))


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    before = lab.pool()
    yield
    agree(lambda: (lab.transfers(), []))  # importd may still be at the end of one
    assert lab.pool() == before


def grows(lab: Lab) -> None:
    """Until importd has begun to write: all it does is hidden until it is whole."""
    lab.sh(f"until ls -d {POOL}/.#*[!k]; do sleep 0.05; done")


@pytest.mark.parametrize("kind", ["tar", "raw"])
def test_cancel_transfer(lab: Lab, server: Server, tar: str, raw: str, kind: str) -> None:
    url = tar if kind == "tar" else raw
    with lab.begun(f"pull-{kind}", "--verify=no", url, "stalled") as (process, _, events):
        started = next(events)
        server.wait("stall", f"stall/web.{kind}")
        grows(lab)
        (listed,) = lab.transfers()
        assert (listed["id"], listed["type"]) == (started["id"], f"pull-{kind}")
        assert (listed["class"], listed["local"], listed["remote"]) == ("machine", "stalled", url)
        assert "stalled" in lab.good("list-transfers").stdout
        assert "1 transfers listed." in lab.good("list-transfers").stdout
        assert "stalled" not in lab.images()
        assert lab.good("cancel-transfer", str(started["id"])).stderr == ""
        assert list(events)[-1]["result"] == "canceled"
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert process.stderr.read().startswith(f"Cancelled pulling '{url}' as image 'stalled'.\n")
    assert "Could not cancel transfer" in lab.bad("cancel-transfer", str(started["id"]))


@pytest.mark.parametrize("signal", ["INT", "TERM", "HUP"])
def test_an_interruption_cancels(lab: Lab, server: Server, tar: str, signal: str) -> None:
    with lab.begun("pull-tar", "--verify=no", tar, "stalled") as (process, pid, events):
        next(events)
        server.wait("stall", "stall/web.tar")
        grows(lab)
        lab.host.run(["kill", f"-{signal}", str(pid)])
        assert list(events)[-1]["result"] == "canceled"
        assert process.wait(60) == 1


def test_interruption_of_an_import(lab: Lab) -> None:
    """From a pipe that is not closed."""
    lab.sh("mkfifo pipe")
    for verb in ("import-tar", "import-raw"):
        with lab.begun(verb, f"{WORK}/pipe", "stalled") as (process, pid, events):
            with lab.path(f"{WORK}/pipe").open("wb") as pipe:
                pipe.write(archive(*small_tree("x")))
                pipe.flush()
                next(events)
                grows(lab)
                lab.host.run(["kill", "-INT", str(pid)])
                assert list(events)[-1]["result"] == "canceled"
            assert process.wait(60) == 1
    lab.sh("rm pipe")


def test_interruption_of_an_export(lab: Lab) -> None:
    """What was in the file before is kept."""
    lab.sh(f"mkdir -p {POOL}/whole/etc; head -c 300M /dev/urandom >{POOL}/whole/data; echo old >old.tar")
    try:
        with lab.begun("export-tar", "--force", "--format=xz", "whole", f"{WORK}/old.tar") as begun:
            process, pid, events = begun
            next(events)
            lab.sh("until ls .#old.tar*; do sleep 0.05; done")
            lab.host.run(["kill", "-INT", str(pid)])
            assert list(events)[-1]["result"] == "canceled"
            assert process.wait(60) == 1
        assert lab.sh("cat old.tar; ls -A | grep old") == "old\nold.tar\n"
    finally:
        lab.sh(f"rm -r {POOL}/whole")


def test_nobody_reads_the_progress(lab: Lab, server: Server, tar: str) -> None:
    """The other end of the pipe has gone: that is no success."""
    command = [
        "sh",
        "-c",
        f"{{ {OURS} --json pull-tar --verify=no {tar} stalled; echo $? >{WORK}/rc; }} | :",
    ]
    lab.host.run(command)
    assert lab.sh("cat rc") == "1\n"


def test_importd_is_killed(lab: Lab, server: Server, tar: str) -> None:
    """What it leaves then has names that tell what it is."""
    with lab.begun("pull-tar", "--verify=no", tar, "stalled") as (process, _, events):
        next(events)
        server.wait("stall", "stall/web.tar")
        grows(lab)
        lab.host.run(["systemctl", "kill", "--signal=KILL", "systemd-importd.service"])
        assert list(events)[-1]["result"] == "lost"
        assert process.wait(60) == 1
        assert process.stderr is not None
        said = process.stderr.read()
    assert "The import service (systemd-importd) ended during the transfer" in said
    assert "systemctl status systemd-importd.service" in said
    for name in lab.pool():
        assert name.startswith((".#tar", ".#settings")), name
        lab.host.run(["rm", "-rf", f"{POOL}/{name}"])


def test_two_of_the_same(lab: Lab, server: Server, tar: str) -> None:
    with lab.begun("pull-tar", "--verify=no", tar, "stalled") as (process, pid, events):
        next(events)
        said = lab.bad("pull-tar", "--verify=no", tar, "another")
        assert "Could not begin pulling" in said
        assert "'machinectl list-transfers' shows it." in said
        lab.host.run(["kill", "-INT", str(pid)])
        assert json.loads(process.communicate(timeout=60)[0].splitlines()[-1])["result"] == "canceled"
    assert process.returncode == 1
    del events


def test_two_at_a_time(lab: Lab, server: Server, tar: str, raw: str) -> None:
    """Each hears of its own end alone."""
    with lab.begun("pull-tar", "--verify=no", tar, "one") as (first, pid, one):
        next(one)
        with lab.begun("pull-raw", "--verify=no", raw, "two") as (second, _, two):
            number = next(two)["id"]
            assert {transfer["local"] for transfer in lab.transfers()} == {"one", "two"}
            lab.good("cancel-transfer", str(number))
            assert second.wait(60) == 1
            assert list(two)[-1]["local"] == "two"
        assert [transfer["local"] for transfer in lab.transfers()] == ["one"]
        assert first.poll() is None
        lab.host.run(["kill", "-INT", str(pid)])
        assert first.wait(60) == 1
        assert list(one)[-1]["local"] == "one"


def test_wrong_numbers(lab: Lab) -> None:
    for word in ("x", "-1", "4294967296", ""):
        assert "Failed to parse transfer id" in lab.bad("cancel-transfer", "--", word)
    assert "Too few arguments" in lab.bad("cancel-transfer")


def test_a_terminal_gets_its_line_back(lab: Lab, server: Server, tar: str) -> None:
    """Ctrl-C typed at a terminal."""
    ours, theirs = lab.host.openpty()
    command = [OURS, "pull-tar", "--verify=no", tar, "stalled"]
    process = lab.host.popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={"TERM": "xterm"}, tty=True
    )
    os.close(theirs)
    shown = b""
    try:
        server.wait("stall", "stall/web.tar")
        while b"\x1b[K" not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, b"\x03")
        with suppress(OSError):  # EIO: the other end has gone
            while chunk := os.read(ours, 1024):
                shown += chunk
        assert process.wait(60) == 1
    finally:
        os.close(ours)
    after = shown.rpartition(b"\rstalled")[2]
    assert b"\r\x1b[K" in after
    assert after.partition(b"\r\x1b[K")[2].splitlines()[-2].startswith(b"Cancelled pulling")
