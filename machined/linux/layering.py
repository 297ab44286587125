# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees that are layers over others: made, mounted, copied flat, looked into. For machined.linux.worker.

What is mounted for a machine is made of the parts that a stack on disk has (machined.linux.mstack).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from machined.linux import (
    filesystem,
    imagecopy,
    mstack,
    overlay,
    partials,
    provision,
    removal,
    rootfiles,
    syscalls,
    treeclone,
)
from machined.linux.fds import OwnedFd
from machined.linux.identity import reset_identity
from machined.linux.mstack import DATA, FLATTENED, WRITABLE, make_writable, write

# On a flat copy, until the stack that it takes the place of is gone: what the note in that one says.
_FLAT: Final = "trusted.machined.flat"
_READ_ONLY: Final = " ro"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def create(
    target: str,
    layers: Sequence[str],
    written: str,
    fresh: bool,
    beside: Sequence[tuple[str, str]] = (),
    settings: Mapping[str, str] | None = None,
) -> None:
    """A new stack over trees, the topmost first, with a copy of what was `written` in another ("": none).

    `fresh`: it is to get an identity of its own when it boots; `settings`: what else it gets, as in
    provision.apply(). FileExistsError.
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
            if settings:
                provision.apply_to_layers(layers, writable, settings)
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

    The tree is there, whole and on the disk, before the stack goes; what a crash leaves of the stack is
    taken away by finish().
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    read_only = mstack.is_read_only(stack)
    note = os.urandom(8).hex() + (_READ_ONLY if read_only else "")
    try:
        if read_only:
            mstack.set_read_only(stack, False)
        _write_note(stack, note)
        with overlay.assemble([os.path.join(stack, WRITABLE, DATA), *layers], None) as mounted:
            _make_flat(overlay.path_of(mounted), target, note)
    except BaseException:
        with contextlib.suppress(OSError):
            if not _is_flat(target, note):
                _forget(stack, read_only)
        raise
    _take_away(stack, target, read_only)


def _make_flat(source: str, target: str, note: str) -> None:
    with partials.beside(target) as partial:
        try:
            imagecopy.copy_tree(source, partial)
            os.setxattr(partial, _FLAT, note.encode())
            with OwnedFd(os.open(partial, _DIRECTORY)) as copy:
                syscalls.syncfs(copy.fileno())
            filesystem.rename_noreplace(partial, target)
        except BaseException:
            with contextlib.suppress(OSError):
                removal.remove(partial, "tree")
            raise
    with OwnedFd(os.open(os.path.dirname(target), _DIRECTORY)) as around:
        os.fsync(around.fileno())


def _take_away(stack: str, target: str, read_only: bool) -> None:
    """A stack whose flat copy has its name, and is read-only as the stack was."""
    if read_only:
        mstack.set_read_only(target, True)
    removal.remove(stack, "tree")
    with contextlib.suppress(OSError):  # of what is read-only it cannot be taken, and means nothing now
        os.removexattr(target, _FLAT)


def _write_note(stack: str, note: str) -> None:
    path = Path(stack, FLATTENED)
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with OwnedFd(os.open(path, flags, 0o600)) as file:
        os.write(file.fileno(), note.encode())


def _read_note(stack: str) -> str:
    """Empty when there is none that can be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with OwnedFd(os.open(os.path.join(stack, FLATTENED), flags)) as file:
            return os.read(file.fileno(), 64).decode("ascii", "replace")
    except OSError:
        return ""


def _is_flat(target: str, note: str) -> bool:
    """Whether what has the name of a flat copy is the one that a note is about."""
    try:
        return os.getxattr(target, _FLAT, follow_symlinks=False) == note.encode()
    except OSError:
        return False


def _forget(stack: str, read_only: bool) -> None:
    Path(stack, FLATTENED).unlink(missing_ok=True)
    if read_only:
        mstack.set_read_only(stack, True)


def finish(stack: str, target: str) -> None:
    """Take away a stack whose flat copy has taken its place, or forget that there was to be one. OSError."""
    note = _read_note(stack)
    read_only = note.endswith(_READ_ONLY)
    if note and _is_flat(target, note):
        _take_away(stack, target, read_only)
    else:
        _forget(stack, read_only)


def flat_copy(
    layers: Sequence[str],
    target: str,
    read_only: bool,
    fresh: bool,
    beside: Sequence[tuple[str, str]] = (),
    settings: Mapping[str, str] | None = None,
) -> None:
    """A plain tree with all that is in layers, the topmost first. FileExistsError."""
    with overlay.assemble(layers, None) as mounted:
        imagecopy.copy_tree(
            overlay.path_of(mounted), target, read_only, beside, fresh=fresh, settings=settings
        )


def protect(path: str, yes: bool) -> None:
    """Keep others from writing to a tree that is part of layers, or let them if it was us. OSError."""
    if yes:
        mstack.protect(path)
    else:
        mstack.unprotect(path)


def read(
    layers: Sequence[str], wanted: Sequence[Sequence[str]], limit: int = rootfiles.LIMIT
) -> list[bytes | None]:
    """As rootfiles.read(), of layers, the topmost first."""
    with overlay.assemble(layers, None) as mounted:
        return rootfiles.read(overlay.path_of(mounted), wanted, limit)
