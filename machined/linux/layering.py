# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees that are layers over others: made, mounted, copied flat, looked into. For machined.linux.worker.

What is mounted for a machine is made of the parts that a stack on disk has (machined.linux.mstack).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from machined.linux import filesystem, imagecopy, overlay, partials, removal, rootfiles, treeclone
from machined.linux.identity import reset_identity
from machined.linux.mstack import DATA, FLATTENED, WRITABLE, make_writable, write

# On a tree that was made read-only because it is part of layers.
_PROTECTED: Final = "user.machined.base"


def create(
    target: str, layers: Sequence[str], written: str, fresh: bool, beside: Sequence[tuple[str, str]] = ()
) -> None:
    """A new stack over trees, the topmost first, with a copy of what was `written` in another ("": none).

    `fresh`: it is to get an identity of its own when it boots. FileExistsError.
    """
    with partials.beside(target) as partial:
        try:
            write(partial, layers, beside=target)
            writable = os.path.join(partial, WRITABLE)
            make_writable(writable, written or layers[0])
            if written:
                treeclone.fill(written, os.path.join(writable, DATA))
            if fresh:
                with overlay.assemble(layers, writable) as mount:
                    reset_identity(overlay.path_of(mount))
            filesystem.rename_noreplace(partial, target)
        except BaseException:
            with contextlib.suppress(OSError):
                removal.remove(partial, "tree")
            raise
    imagecopy.copy_beside(beside)


def mount(
    target: str,
    layers: Sequence[str],
    writable: str,
    base: int,
    volatile: bool,
    read_only: bool,
) -> None:
    """Show layers at a directory, which is made, for users from `base` on (0: as they are). OSError.

    `volatile`: `writable` is made for this mount alone, and whoever boots in it gets a new identity.
    """
    if volatile:
        make_writable(writable, layers[0])
    Path(target).mkdir(mode=0o700, parents=True, exist_ok=True)
    visible = [os.path.join(writable, DATA), *layers] if read_only else layers
    with overlay.assemble(visible, None if read_only else writable, base=base, volatile=volatile) as mounted:
        if volatile:
            reset_identity(overlay.path_of(mounted))
        overlay.attach(mounted, target)


def flatten(stack: str, layers: Sequence[str], target: str) -> None:
    """Put a plain tree with all that is in a stack in its place. FileExistsError.

    The tree is there, whole, before the stack goes; what a crash leaves of the stack finish() takes away.
    """
    with overlay.assemble([os.path.join(stack, WRITABLE, DATA), *layers], None) as mounted:
        marker = Path(stack, FLATTENED)
        try:
            marker.touch()
            imagecopy.copy_tree(overlay.path_of(mounted), target)
        except BaseException:
            with contextlib.suppress(OSError):
                if not os.path.lexists(target):
                    marker.unlink()
            raise
    removal.remove(stack, "tree")


def flat_copy(
    layers: Sequence[str],
    target: str,
    read_only: bool,
    fresh: bool,
    beside: Sequence[tuple[str, str]] = (),
) -> None:
    """A plain tree with all that is in layers, the topmost first. FileExistsError."""
    with overlay.assemble(layers, None) as mounted:
        imagecopy.copy_tree(overlay.path_of(mounted), target, read_only, beside, fresh=fresh)


def protect(path: str, yes: bool) -> None:
    """Keep others from writing to a tree that is part of layers, or let them if it was us. OSError."""
    if yes:
        os.setxattr(path, _PROTECTED, b"1")
        filesystem.set_attributes(path, filesystem.IMMUTABLE, filesystem.IMMUTABLE)
        return
    try:
        os.getxattr(path, _PROTECTED)
    except OSError:
        return  # read-only for another reason
    filesystem.set_attributes(path, 0, filesystem.IMMUTABLE)
    os.removexattr(path, _PROTECTED)


def finish(stack: str, target: str) -> None:
    """Take away a stack whose flat copy has taken its place, or forget that there was to be one. OSError."""
    if os.path.lexists(target):
        removal.remove(stack, "tree")
    else:
        Path(stack, FLATTENED).unlink(missing_ok=True)


def read(
    layers: Sequence[str], wanted: Sequence[Sequence[str]], limit: int = rootfiles.LIMIT
) -> list[bytes | None]:
    """As rootfiles.read(), of layers, the topmost first."""
    with overlay.assemble(layers, None) as mounted:
        return rootfiles.read(overlay.path_of(mounted), wanted, limit)
