# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that run a command, each with a network of its own kind, and links of the host for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.driver import Driver

COMMAND = "[Exec]\nBoot=no\nProcessTwo=yes\nParameters=sleep infinity\nPrivateUsers=no\n"


class ModesLab:
    """One host."""

    def __init__(self, managed: Driver, image: str) -> None:
        self.managed = managed
        self.image = image
        self.files: list[Path] = []
        self.links: list[str] = []

    def start(self, name: str, network: str, *, check: bool = True) -> str:
        file = self.managed.host.path(f"/etc/machined/machines/{name}.conf")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{COMMAND}[Network]\n{network}\n", encoding="utf-8")
        self.files.append(file)
        words = [name] if name == self.image else [self.image, "--as", name]
        return self.managed.ctl("start", *words, check=check).stderr

    def stop(self, name: str) -> None:
        self.managed.call("StopMachine", "sa{sv}", name, "1", "mode", "s", "terminate", check=False)
        self.managed.call("WaitMachine", "sst", name, "stopped", "60000000", check=False)

    def add(self, name: str, *words: str) -> None:
        self.managed.host.run(["ip", "link", "add", name, *words])
        self.managed.host.run(["ip", "link", "set", name, "up"])
        self.links.append(name)

    def inside(self, name: str) -> dict[str, dict[str, Any]]:
        """The links that a machine has, but for the loopback."""
        leader = self.managed.leader(name)
        done = self.managed.host.run(
            ["nsenter", f"--target={leader}", "--net", "ip", "-json", "-details", "link"]
        )
        return {link["ifname"]: link for link in json.loads(done.stdout) if link["ifname"] != "lo"}

    def host(self) -> dict[str, dict[str, Any]]:
        done = self.managed.host.run(["ip", "-json", "-details", "link"])
        return {link["ifname"]: link for link in json.loads(done.stdout)}

    def clear(self) -> None:
        for file in self.files:
            self.stop(file.name.removesuffix(".conf"))
            file.unlink(missing_ok=True)
        for name in self.links:
            self.managed.host.run(["ip", "link", "del", name], check=False)
