# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock host with our client in it, and nothing else of ours: where a user tries it before the daemon."""

from pathlib import Path

from . import layer
from .boot import Host

_LIBRARY = "/usr/local/lib/machinectl-alone"
_LAUNCHER = "/usr/local/bin/machinectl"


def client_host(suite: str = "trixie", source: Path = layer.REPOSITORY) -> Host:
    """A host, not booted: systemd's own machined, and our client at /usr/local/bin/machinectl."""
    wheels = layer.wheels(suite, source)
    (jeepney,) = wheels.glob("jeepney-*.whl")
    client = {f"{_LIBRARY}/machinectl": source / "machinectl", layer.WHEELS: wheels}
    host = Host(suite, read_only=client)
    launcher = host.path(_LAUNCHER)
    launcher.write_text(
        # Pure Python, so it can stay in its wheel.
        "#!/bin/sh\nexport PYTHONDONTWRITEBYTECODE=1 "
        f"PYTHONPATH={_LIBRARY}:{layer.WHEELS}/{jeepney.name}\n"
        'exec /usr/bin/python3 -s -m machinectl "$@"\n',
        encoding="utf-8",
    )
    launcher.chmod(0o755)
    return host
