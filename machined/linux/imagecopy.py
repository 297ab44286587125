# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies of whole trees and disk images: shared blocks where that goes and is wanted, else real ones.

What is made appears complete under its name or not at all: it grows under a hidden name beside it. As
with systemd-machined the disk has all of it some seconds later: who loses power before may lose the copy.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from machined.linux import btrfs, dissect, filesystem, mstack, nested, partials, provision, quotas, statx
from machined.linux.identity import reset_identity
from machined.linux.removal import remove, unlink
from machined.linux.treeclone import fill

if TYPE_CHECKING:
    from machined.linux.filedata import Reflink


def copy_tree(
    source: str,
    target: str,
    read_only: bool = False,
    beside: Sequence[tuple[str, str]] = (),
    reflink: Reflink = "auto",
    fresh: bool = False,
    settings: Mapping[str, str] | None = None,
) -> None:
    """A copy of a directory or subvolume: a snapshot if that goes, on btrfs a subvolume, else a directory.

    `reflink`: whether blocks are shared, as in filedata.copy_data(); "never" makes no snapshot either.
    `fresh`: the copy gets an identity of its own at its first boot; `settings`: what else it gets, as in
    provision.apply(). Read-only is the flag of a subvolume, or the immutable attribute. FileExistsError,
    OSError.
    """
    with partials.beside(target) as partial:
        made: os.stat_result | None = None
        try:
            _copy_tree(source, partial, reflink)
            _forget_base(partial)
            if fresh:
                reset_identity(partial)
            if settings:
                provision.apply(partial, settings, False, False)
            made = os.lstat(partial)
            subvolume = btrfs.is_subvolume(partial)
            if read_only and subvolume:
                with btrfs.open_directory(partial) as copy:
                    nested.make_read_only(copy.fileno())
            elif read_only:
                # What is immutable cannot be renamed; where it cannot be made so, nothing is to appear.
                filesystem.set_attributes(partial, filesystem.IMMUTABLE, filesystem.IMMUTABLE)
                filesystem.set_attributes(partial, 0, filesystem.IMMUTABLE)
            filesystem.rename_noreplace(partial, target)
            if read_only and not subvolume:
                filesystem.set_attributes(target, filesystem.IMMUTABLE, filesystem.IMMUTABLE)
        except BaseException:
            _take_back(partial, target, made)
            raise
    copy_beside(beside)


def _take_back(partial: str, target: str, made: os.stat_result | None) -> None:
    with contextlib.suppress(OSError):
        # By what is there: a signal may have come right after the renaming.
        if made is not None and os.path.samestat(made, os.lstat(target)):
            with contextlib.suppress(OSError):
                filesystem.set_attributes(target, 0, filesystem.IMMUTABLE)
            filesystem.rename_noreplace(target, partial)
    with contextlib.suppress(OSError):
        remove(partial, "tree")


def _copy_tree(source: str, partial: str, reflink: Reflink) -> None:
    parent, name = os.path.split(partial)
    if not statx.is_btrfs(parent):
        os.mkdir(partial, 0o700)
        fill(source, partial, reflink)
        return
    with btrfs.open_directory(parent) as directory:
        where = directory.fileno()
        if reflink == "never" or not (btrfs.is_subvolume(source) and _snapshot(source, where, name)):
            btrfs.create(where, name)
            fill(source, partial, reflink)
    with btrfs.open_directory(partial) as copy, contextlib.suppress(OSError):
        quotas.set_up(copy.fileno())  # without quotas there is nothing to set up


def _snapshot(source: str, parent: int, name: str) -> bool:
    """Snapshot a subvolume and what is nested in it. False when that would be on another file system."""
    with btrfs.open_directory(source) as original:
        try:
            nested.snapshot(original.fileno(), parent, name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
    return True


def _forget_base(partial: str) -> None:
    """A copy of what layers are over has none over it."""
    with contextlib.suppress(OSError):
        os.removexattr(partial, mstack.BASE)


def copy_image(
    source: str,
    target: str,
    mode: int,
    beside: Sequence[tuple[str, str]] = (),
    reflink: Reflink = "auto",
    fresh: bool = False,
) -> None:
    """A copy of a regular file, of this mode. `reflink` and `fresh` are as above. FileExistsError, OSError.

    What holds no system, or an encrypted one, keeps the identity it has.
    """
    with partials.beside(target) as partial:
        try:
            filesystem.copy_file(source, partial, mode, reflink=reflink, like_image=True)
            if fresh:
                _renew(partial, mode)
            filesystem.rename_noreplace(partial, target)
        except BaseException:
            unlink([partial])
            raise
    copy_beside(beside)


def _renew(partial: str, mode: int) -> None:
    os.chmod(partial, 0o600)
    with contextlib.suppress(OSError):
        dissect.renew(partial)
    os.chmod(partial, mode)


def copy_beside(pairs: Sequence[tuple[str, str]]) -> None:
    """Copy files that may be missing, and that are no reason to fail, over what is there."""
    for source, target in pairs:
        if not os.path.lexists(source):
            continue
        with partials.beside(target) as partial:
            try:
                filesystem.copy_file(source, partial, 0o664)
                os.rename(partial, target)
            except OSError:
                unlink([partial])
