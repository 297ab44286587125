# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an installation consists of, and where each part goes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from machinectl import completions

ROOT = Path(__file__).resolve().parent.parent

MACHINED_UNIT = "systemd-machined.service"

# An override of ours is told from anybody else's by this line in it.
MARK = "# Written by machined's `make install`"

_HEAD = """\
#!{python} {flags}
# SPDX-License-Identifier: LGPL-2.1-or-later
{mark}
import sys

"""

# -I: no environment variable and no directory of the caller's has a say. -S: without the site module and the
# .pth files it reads, which would be a good part of the time that `machinectl list` takes.
_LEAN = (
    _HEAD
    + """\
sys.path.insert(0, "{site}")

from {module} import {function}

sys.exit({function}())
"""
)

# The daemon needs the site module, for the distribution's python3-systemd.
_DAEMON = (
    _HEAD
    + """\
if sys.version_info[:2] != ({major}, {minor}):
    sys.exit(
        "machined was installed for Python {major}.{minor}, and python3 is now %d.%d: "
        "install it again (make install)" % sys.version_info[:2]
    )

import runpy

runpy.run_module("machined", run_name="__main__", alter_sys=True)
"""
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things go. All paths are as the target will see them: without DESTDIR."""

    prefix: Path

    def __post_init__(self) -> None:
        # It is written into units (%, quotes, blanks) and into "#!" lines.
        if not re.fullmatch(r"/[A-Za-z0-9._/+-]*", str(self.prefix)) or ".." in self.prefix.parts:
            raise ValueError(
                f"PREFIX '{self.prefix}' has to be an absolute path of letters, digits and ._+-"
            )

    @property
    def tree(self) -> Path:
        """The private environment, with everything that is only ours in it."""
        return self.prefix / "lib/machined"

    @property
    def python(self) -> Path:
        return self.tree / "bin/python3"

    @property
    def site(self) -> Path:
        return self.tree / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

    @property
    def manifest(self) -> Path:
        """The list of what lies outside of the tree."""
        return self.tree / "manifest"

    @property
    def command(self) -> Path:
        """The client. Below /usr/local it comes before systemd's own in everybody's PATH."""
        return self.prefix / "bin/machinectl"

    @property
    def override(self) -> Path:
        return Path("/etc/systemd/system") / MACHINED_UNIT

    def _searched(self, below_prefix: str, else_in: str) -> Path:
        """A directory that systemd and polkit (126 and newer) search below /usr and /usr/local only."""
        if self.prefix in (Path("/usr"), Path("/usr/local")):
            return self.prefix / below_prefix
        return Path(else_in)

    @property
    def tmpfiles(self) -> Path:
        return self._searched("lib/tmpfiles.d", "/etc/tmpfiles.d") / "machined.conf"

    def launcher(self, module: str | None, function: str = "main") -> str:
        """A small program that calls a function of a module of ours; None is the daemon."""
        return (_DAEMON if module is None else _LEAN).format(
            python=self.python,
            flags="-I" if module is None else "-IS",
            mark=MARK + ".",
            site=self.site,
            module=module,
            function=function,
            major=sys.version_info[0],
            minor=sys.version_info[1],
        )

    def _rendered(self, source: str) -> str:
        return (ROOT / source).read_text(encoding="utf-8").replace("@PREFIX@", str(self.prefix))

    def programs(self) -> Iterator[tuple[Path, str]]:
        """The executable files in the tree: (path, content)."""
        yield self.tree / "machined", self.launcher(None)
        yield self.tree / "cleanup-nspawn", self.launcher("machined.cleanup")
        yield self.tree / "poolctl", self.launcher("machined.poolctl")

    def files(self) -> Iterator[tuple[Path, str]]:
        """The files outside of the tree, but for the command: (path, content)."""
        units = self._searched("lib/systemd/system", "/etc/systemd/system")
        yield self.override, self._rendered("units/systemd-machined.service.in")
        yield units / "machined@.service", self._rendered("units/machined@.service.in")
        yield self.tmpfiles, self._rendered("units/machined.tmpfiles.conf")
        shells = {"bash": "bash-completion/completions/machinectl", "zsh": "zsh/site-functions/_machinectl"}
        for shell, place in shells.items():
            yield self.prefix / "share" / place, completions.script(shell)
        # Never below /usr: the file says why.
        yield (
            Path("/etc/dbus-1/system.d/org.machined1.conf"),
            self._rendered("dbus-policy/org.machined1.conf"),
        )
        actions = self._searched("share/polkit-1/actions", "/etc/polkit-1/actions")
        yield actions / "org.machined1.policy", self._rendered("dbus-policy/org.machined1.policy")
