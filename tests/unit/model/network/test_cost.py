# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who manages no network pays nothing for it."""

from __future__ import annotations

import subprocess
import sys

from tests.fakes.world import World


def test_pyroute2_is_not_loaded_by_the_daemon() -> None:
    program = "import sys, machined.daemon; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "machined" in done.stdout
    assert "pyroute2" not in done.stdout


async def test_a_machine_without_it_asks_nobody(host: World) -> None:
    host.sandbox.image("web")
    host.boots()
    job = await host.core.lifecycle.start("web")
    await job.over.wait()
    assert not host.core.networks.holds("web")
    assert set(host.systemd.transient) == {"machine-web.service"}
    assert not any("networkd" in str(call) for call in host.systemd.calls)
