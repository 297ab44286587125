# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon: puts the model on its wires, says when it is ready, and leaves in good order.

Guests never depend on it: they are in units of their own, and everything known of them is on disk or with
PID 1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from machined.bus.connection import Bus, system_bus_path
from machined.bus.guest import Connector
from machined.bus.logcontrol import LogControl
from machined.bus.service import BusService, NameTakenError
from machined.bus.systemd1 import Systemd1, updated
from machined.linux import helper, sd
from machined.model.core import Core
from machined.varlink.service import VarlinkService

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILURE = 1


def cleanup_program() -> str:
    """The installed launcher of machined.cleanup, beside our own."""
    return os.fspath(Path(sys.prefix) / "cleanup-nspawn")


def pool_program() -> str:
    """The installed launcher of machined.poolctl, beside our own."""
    return os.fspath(Path(sys.prefix) / "poolctl")


class Daemon:
    """One run of the daemon, from the bus connection to its end."""

    def __init__(self, control: LogControl) -> None:
        self._control = control
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to stop (0) or the bus is lost (1: PID 1 starts us again)."""
        async with helper.kept():
            return await self._run()

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        inherited = sd.listen_fds()
        bus = await Bus.connect_to(system_bus_path())
        systemd = Systemd1(bus)
        bus.on_signal = systemd.handle_signal
        await systemd.start()
        core = Core(systemd, Connector(), cleanup=cleanup_program(), poolctl=pool_program())
        systemd.on_job_removed = core.job_removed
        systemd.wants = core.states.wants
        systemd.on_unit_changed = lambda name, changed: core.unit_changed(name, changed, updated)
        systemd.on_unit_removed = core.unit_removed
        systemd.on_reloaded = core.reloaded
        service = BusService(bus, core, systemd, self._control)
        varlink = VarlinkService(core, service.polkit, self._control)
        watchdog = asyncio.ensure_future(_watchdog())
        sweeping: asyncio.Future[Any] | None = None
        try:
            half_flat = core.cloning.half_flat()
            await core.creation.stop_orphans()
            adopted = await core.load()
            sweeping = asyncio.gather(core.sweeping.sweep(), core.cloning.finish(half_flat))
            core.pool_file.begin_recovery()
            await varlink.start(inherited)
            core.announce(adopted)
            await service.acquire_name()
            sd.notify("READY=1\nSTATUS=Managing machines...")
            log.info("Managing machines, %d adopted (systemd %d)", len(adopted), systemd.version)
            return await self._serve(bus, service)
        except NameTakenError as error:
            log.error("%s", error)
            return EXIT_FAILURE
        finally:
            sd.notify("STOPPING=1\nSTATUS=Shutting down...")
            watchdog.cancel()
            await varlink.close()
            await service.dispatcher.close()
            await core.close()
            bus.close()
            await asyncio.gather(watchdog, *filter(None, [sweeping]), return_exceptions=True)

    async def _serve(self, bus: Bus, service: BusService) -> int:
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            ends: list[asyncio.Future[Any]] = [stop, bus.disconnected, service.lost_name]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        if self._stop.is_set():
            return EXIT_OK
        log.error("The system bus is lost, ending (PID 1 starts the service again)")
        return EXIT_FAILURE


async def _watchdog() -> None:
    """Tell PID 1 that the loop still turns, twice in each interval (sd_watchdog_enabled(3))."""
    interval = sd.watchdog_usec() / 1e6
    while interval:
        sd.notify("WATCHDOG=1")
        await asyncio.sleep(interval / 2)


def main() -> int:
    """Entry point of the service."""
    # Set before anything can look a user up: our own user database socket must not be asked by ourselves.
    os.environ["SYSTEMD_BYPASS_USERDB"] = "io.systemd.Machine"
    control = LogControl(os.environ.get("SYSTEMD_LOG_LEVEL", "info"))
    try:
        return asyncio.run(Daemon(control).run())
    except (ConnectionError, FileNotFoundError, TimeoutError) as error:
        log.error(
            "Cannot reach the system bus: %s. machined needs a host that runs systemd and D-Bus.", error
        )
        return EXIT_FAILURE
