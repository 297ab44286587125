# SPDX-License-Identifier: LGPL-2.1-or-later
"""The paths of a host, moved into a directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from machined.linux import cgroup
from machined.model import (
    autostart,
    credentials,
    image_ops,
    images,
    leftovers,
    lending,
    lifecycle,
    rangebook,
    readiness,
    rootrecord,
    userranges,
)
from machined.model.network import configuration as network_configuration
from machined.model.network import draft as network_draft
from machined.model.network import host as network_host
from machined.model.network import store as network_store
from machined.model.settings import sources, unit_dropins


@dataclass
class Sandbox:
    """Where things are. `units` says in which unit a process is."""

    root: Path
    units: dict[int, str] = field(default_factory=dict)
    last_words: str = ""

    @classmethod
    def make(cls, root: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
        box = cls(root)
        for path in (box.pool, box.runtime, box.locks, box.settings, *box.wants):
            path.mkdir(parents=True)

        async def knows_nobody(base: int) -> bool:
            return False

        monkeypatch.setattr(cgroup, "unit_of", box.units.get)
        monkeypatch.setattr(cgroup, "path_of", lambda pid: f"/{box.units.get(pid, 'init.scope')}")
        monkeypatch.setattr(readiness, "SETTLING", 0)
        monkeypatch.setattr(leftovers, "RUNTIME", box.runtime)
        monkeypatch.setattr(leftovers, "RECORDS", box.records)
        monkeypatch.setattr(rootrecord, "RUNTIME", box.roots)
        monkeypatch.setattr(userranges, "LOCKS", box.root / "nspawn-uid")
        monkeypatch.setattr(userranges, "SUBUID", box.root / "subuid")
        monkeypatch.setattr(userranges, "is_known", knows_nobody)
        monkeypatch.setattr(rangebook, "KEPT", box.root / "lib-machined/ranges")
        monkeypatch.setattr(rangebook, "RUNTIME", box.root / "run-machined/ranges")
        monkeypatch.setattr(sources, "NSPAWN", (box.root / "run-nspawn", box.settings))
        monkeypatch.setattr(sources, "CONFIGURATION", box.configuration)
        monkeypatch.setattr(sources, "RUNTIME", box.root / "run-machined")
        monkeypatch.setattr(unit_dropins, "UNITS", (box.root / "units", box.root / "usr-units"))
        monkeypatch.setattr(network_configuration, "FILE", box.configuration / "network.conf")
        monkeypatch.setattr(network_draft, "FILE", box.configuration / "network.conf")
        monkeypatch.setattr(network_store, "STATE", box.root / "lib-machined")
        monkeypatch.setattr(network_store, "RUNTIME", box.root / "run-machined/network")
        monkeypatch.setattr(network_host, "LOCK", box.root / "run-machined/network.lock")
        monkeypatch.setattr(lending, "RUNTIME", box.root / "run-machined/lent")
        monkeypatch.setattr(credentials, "DIRECTORY", box.root / "credentials")
        monkeypatch.setattr(images, "LOCKS", box.locks)
        monkeypatch.setattr(image_ops, "_SETTINGS", (box.settings,))
        monkeypatch.setattr(autostart, "WANTS", box.wants)
        monkeypatch.setattr(autostart, "MARK", box.mark)

        async def last_words(unit: str, since_usec: int) -> str:
            return box.last_words

        monkeypatch.setattr(lifecycle, "last_words", last_words)
        return box

    @property
    def pool(self) -> Path:
        return self.root / "pool"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def roots(self) -> Path:
        return self.root / "roots"

    @property
    def runtime(self) -> Path:
        return self.root / "runtime"

    @property
    def settings(self) -> Path:
        return self.root / "settings"

    @property
    def configuration(self) -> Path:
        return self.root / "etc-machined"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def wants(self) -> tuple[Path, Path]:
        return self.root / "etc-wants", self.root / "run-wants"

    @property
    def mark(self) -> Path:
        return self.root / "mark" / "enabled"

    def image(self, name: str, *, init: bool = True, os_release: bool = True) -> Path:
        """The tree of a guest, bootable unless something is left out."""
        tree = self.pool / name
        for directory in ("etc", "usr/lib/systemd", "sbin"):
            (tree / directory).mkdir(parents=True)
        if os_release:
            (tree / "etc/os-release").write_text("ID=test\nVERSION_ID=1\n", encoding="utf-8")
        if init:
            program = tree / "usr/lib/systemd/systemd"
            program.touch()
            program.chmod(0o755)
        return tree
