# SPDX-License-Identifier: LGPL-2.1-or-later
"""A booted host whose machine manager can be exchanged, and the program in it that measures."""

from __future__ import annotations

import json
import select
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.host import layer
from tests.host.boot import Host
from tests.host.cache import TestHostError

INSIDE: Final = Path(__file__).with_name("inside.py")
UNIT: Final = "/etc/systemd/system/systemd-machined.service"
DROP_IN: Final = "/run/systemd/system/systemd-machined.service.d"
SITE: Final = "import glob; print(*glob.glob('/usr/local/lib/machined/lib/python3*/site-packages'))"
PATIENCE: Final = 900.0
GUEST: Final = "bench-guest"


class Inside:
    """The program in the host."""

    def __init__(self, host: Host) -> None:
        site = host.run(["python3", "-c", SITE]).stdout.strip()
        host.path("/root/bench-inside.py").write_text(INSIDE.read_text(encoding="utf-8"), encoding="utf-8")
        # As a service: who registers a machine has to be in a unit.
        unit = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--property=TasksMax=infinity"]
        unit.append("--property=LimitNOFILE=65536")
        self._process = host.popen(
            [*unit, "--", "python3", "/root/bench-inside.py", site], stdin=-1, stdout=-1, stderr=None
        )

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Have something done. Raises TestHostError."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([command, arguments]) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            raise TestHostError(f"'{command}' took longer than {PATIENCE:g} s")
        line = process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the program in the host has ended"}
        if "error" in answer:
            raise TestHostError(f"'{command}' failed: {answer['error']}")
        return answer["ok"]

    def close(self) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


class Bench:
    """One host with machined installed; `use` says whose daemon runs. Machines outlive the exchange."""

    def __init__(self, suite: str) -> None:
        self.host = layer.machined_host(suite)
        self.daemon = "ours"

    def __enter__(self) -> Self:
        try:
            self.host.boot()
            self.inside = Inside(self.host)
        except BaseException:
            self.host.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.inside.close()
        finally:
            self.host.stop()

    @property
    def modern(self) -> bool:
        """Whether its systemd is the newer one, which has goals of its own."""
        return self.host.suite == "sid"

    def use(self, daemon: str, *, settle: bool = True) -> None:
        """Have the "stock" daemon or "ours" run, freshly started."""
        # The vendor's unit has the usual 1024 of most hosts, which 262 runs out of at some 500 machines.
        limit = f"mkdir -p {DROP_IN} && printf '[Service]\\nLimitNOFILE=65536\\n' >{DROP_IN}/bench.conf"
        if daemon == "stock":
            swap = f"if [ -e {UNIT} ]; then mv {UNIT} {UNIT}.away; fi"
        else:
            swap = f"if [ -e {UNIT}.away ]; then mv {UNIT}.away {UNIT}; fi"
        restart = "systemctl daemon-reload && systemctl restart systemd-machined.service"
        self.host.run(["sh", "-ec", f"{limit}; {swap}; {restart}"], timeout=120)
        self.daemon = daemon
        if settle:
            self.inside("ready")

    def guest(self) -> None:
        """Have a bootable image."""
        if not self.host.path(f"/var/lib/machines/{GUEST}/usr").exists():
            self.host.add_guest(GUEST)
