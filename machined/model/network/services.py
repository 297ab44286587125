# SPDX-License-Identifier: LGPL-2.1-or-later
"""The units that serve the managed network: dnsmasq, and a socket for each port at [::1]."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from typing import Final

from machined.linux import commands, process
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.failure import last_words
from machined.model.network import dnsmasq, networkd, proxies
from machined.model.network.addresses import Plan
from machined.model.network.store import Record
from machined.model.ports import ServiceManager, UnitProperty

log = logging.getLogger(__name__)

DNSMASQ: Final = "dnsmasq"
NETWORKD: Final = "networkd"


class Services:
    """Has PID 1 run them."""

    def __init__(self, systemd: ServiceManager) -> None:
        self._systemd = systemd

    async def choose_server(self) -> str:
        """Who gives addresses on this host. Raises MachineError when nobody can."""
        if not commands.is_installed("nft"):
            raise MachineError(
                Problem.NOT_SUPPORTED,
                "A managed network needs 'nft', which is not installed (package nftables).",
            )
        if (await self._systemd.unit(networkd.UNIT)).is_up:
            return NETWORKD
        if dnsmasq.program() is None:
            raise MachineError(
                Problem.NOT_SUPPORTED,
                "A managed network needs somebody who gives addresses: neither does systemd-networkd run "
                f"on this host, nor is dnsmasq installed (package {dnsmasq.PACKAGE}).",
            )
        return DNSMASQ

    async def serve(self, plan: Plan, server: str) -> None:
        """dnsmasq, with its tables read. Raises MachineError when it cannot."""
        path = dnsmasq.program()
        if path is None:
            log.info("dnsmasq is not installed: machines do not find each other by their names")
            return
        if (await self._systemd.unit(dnsmasq.UNIT)).is_up:
            await self._systemd.kill_unit(dnsmasq.UNIT, "main", signal.SIGHUP)
            return
        began = process.now_usec()[0]
        result = await self._start(dnsmasq.UNIT, dnsmasq.properties(path, plan, dhcp=server == DNSMASQ))
        if result != "done":
            why = await last_words(dnsmasq.UNIT, began, program="dnsmasq")
            text = f"dnsmasq does not serve the managed network{f': {why}' if why else ''}. "
            raise MachineError(Problem.FAILED, f"{text}See 'journalctl -u {dnsmasq.UNIT}'.")

    async def _start(
        self,
        name: str,
        properties: Sequence[UnitProperty],
        aux: Sequence[tuple[str, Sequence[UnitProperty]]] = (),
    ) -> str:
        try:
            job = await self._systemd.start_transient(name, properties, aux=aux)
        except ServiceManagerError as error:
            if error.name != "org.freedesktop.systemd1.UnitExists":
                raise
            await self._systemd.reset_failed(name)
            job = await self._systemd.start_transient(name, properties, aux=aux)
        return await self._systemd.job_result(job)

    async def proxy(self, records: Sequence[Record]) -> None:
        """A socket for each published port, and none for others. What cannot be had is a warning."""
        try:
            there = {unit.name for unit in await self._systemd.units([proxies.PATTERN]) if unit.is_up}
        except ServiceManagerError as error:
            log.warning("PID 1 does not list the sockets of published ports, ignoring: %s", error)
            return
        rows = {socket[0]: (socket, service) for socket, service in proxies.wanted(list(records))}
        for name in sorted(there - set(rows)):
            await self.stop(name)
            await self.stop(name.replace(".socket", ".service"))
        for name in sorted(set(rows) - there):
            socket, service = rows[name]
            try:
                result = await self._start(name, socket[1], [service])
            except ServiceManagerError as error:
                result = str(error)
            if result != "done":
                log.warning("A published port cannot be reached at [::1] (%s: %s)", name, result)

    async def stop(self, name: str) -> None:
        """Stop a unit and wait for its end; it may be gone already."""
        try:
            await self._systemd.job_result(await self._systemd.stop_unit(name, "replace"))
        except ServiceManagerError as error:
            if not error.is_missing_unit():
                log.warning("Cannot stop '%s', ignoring: %s", name, error)

    async def end(self) -> None:
        """None of them is needed any more."""
        await self.proxy([])
        await self.stop(dnsmasq.UNIT)
