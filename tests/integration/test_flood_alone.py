# SPDX-License-Identifier: LGPL-2.1-or-later
"""A user who asks for all that can be had, without end, keeps nobody else out."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Final

import pytest

from tests.integration.driver import Driver
from tests.integration.fuzz_lab import PYTHON, VARLINK, FuzzLab

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.either("trixie")]

# kB of the daemon while a user does what he can.
MOST_MEMORY: Final = 160 * 1024


@pytest.mark.parametrize("kind", ["looks", "questions", "waits", "varlink"])
def test_a_flood_keeps_nobody_out(managed: Driver, machine: str, kind: str) -> None:
    """Root lists, registers over varlink and gets a shell while a user asks for all that can be had."""
    managed.start(machine)
    fuzzed = FuzzLab(managed, machine)
    before, cursor = fuzzed.same(), fuzzed.cursor()
    argv = ["python3", "-m", "tests.fuzz.flood", kind, fuzzed.guest]
    with managed.host.popen(argv, user="tester", stdin=subprocess.PIPE, env=PYTHON) as flood:
        assert flood.stdin is not None
        assert flood.stdout is not None
        try:
            assert flood.stdout.readline() == "ready\n"
            time.sleep(2)  # let it swell
            # More than one look at it: a queue that has just emptied proves nothing.
            for _ in range(2):
                assert fuzzed.guest in managed.stock("list", "--no-legend").stdout
                managed.host.run(["machinectl", "shell", fuzzed.guest, "/bin/true"], timeout=50)
                question = json.dumps({"name": fuzzed.guest})
                managed.host.run(["varlinkctl", "call", VARLINK, "io.systemd.Machine.List", question])
            memory = fuzzed.load()[1]
            print(f"{kind}: {memory} kB")
            assert memory < MOST_MEMORY
            flood.stdin.close()
            assert int(flood.stdout.readline()) > 1000
        finally:
            flood.kill()
    idle = fuzzed.quiet()
    assert idle[0] < 24, "descriptors"
    fuzzed.check(before, idle, cursor)
