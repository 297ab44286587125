# SPDX-License-Identifier: LGPL-2.1-or-later
"""The settings of a machine, where they are valid, and the tree that they name, where it is no image."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from machined.linux import btrfs
from machined.model import hostcheck
from machined.model.errors import MachineError, Problem
from machined.model.images import Image, ImageType
from machined.model.settings import sources
from machined.model.settings.layers import Finding, Severity
from machined.model.settings.merge import Effective
from machined.model.settings.section_image import TREES
from machined.model.unit import Source

log = logging.getLogger(__name__)

_SHOWN: Final = 10


def settle(name: str, effective: Effective) -> None:
    """Raises MachineError (INVALID_SETTINGS) where they are not valid; what is only odd goes to the log."""
    check(name, effective.errors())
    for finding in effective.findings:
        log.warning("Settings of machine '%s': %s", name, finding)


def check(name: str, errors: Sequence[Finding]) -> None:
    """Raises MachineError (INVALID_SETTINGS) with the first of them."""
    if not errors:
        return
    shown = "\n".join(f"  {error}" for error in errors[:_SHOWN])
    more = f"\n  … and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    raise MachineError(
        Problem.INVALID_SETTINGS,
        f"The settings of machine '{name}' are not valid, nothing was done:\n{shown}{more}\n"
        f"'machinectl check {name}' tells when they are.",
    )


def check_host(name: str, effective: Effective) -> None:
    """Raises MachineError (INVALID_SETTINGS) when the host lacks what they name."""
    findings = hostcheck.missing(effective)
    check(name, [finding for finding in findings if finding.severity is Severity.ERROR])
    for finding in findings:
        log.warning("Settings of machine '%s': %s", name, finding)


def check_bundle(name: str, effective: Effective, *, ephemeral: bool) -> None:
    """Raises MachineError (NOT_SUPPORTED) for what cannot be done with a bundle."""
    if ephemeral and effective.is_set("Image", "OCIBundle"):
        bundle = effective.get("Image", "OCIBundle")
        raise MachineError(
            Problem.NOT_SUPPORTED,
            f"Machine '{name}' is made of the bundle '{bundle}', which is run as it is: what it writes is "
            f"kept (no --ephemeral). With Directory={bundle}/rootfs its tree alone can.",
        )


def load(
    name: str, found: Image | None, version: int, words: Sequence[str] = ()
) -> tuple[Image | None, Effective]:
    """A machine's tree, and what holds for it with `words` of a command line, valid or not.

    The tree is the one that its settings name, else the image that was `found` for it. Raises MachineError
    (FILE_NOT_FOUND).
    """
    effective = sources.load(name, found, version, words)
    for key in TREES:
        values = effective.all("Image", key)
        if values:
            said = f"[Image] {key}={values[-1].text} ({values[-1].origin})"
            image = _image(name, values[-1].text, said)
            # What lies beside that one is said of it, not what lies beside the image of the same name.
            return image, sources.load(name, image, version, words)
    return found, effective


def _image(name: str, path: str, said: str) -> Image:
    try:
        path = os.path.realpath(path, strict=True)
        if os.path.isdir(path):
            kind = ImageType.SUBVOLUME if btrfs.is_subvolume(path) else ImageType.DIRECTORY
        else:
            kind = ImageType.BLOCK if Path(path).is_block_device() else ImageType.RAW
    except OSError as error:
        raise MachineError(
            Problem.FILE_NOT_FOUND, f"Machine '{name}' has no tree: {said}: {error.strerror}."
        ) from None
    return Image(name, path, kind, read_only=False)


def root_of(source: Source) -> str:
    """The tree that a machine is run from, "" where that is not one of its own."""
    if not source.bundle:
        return source.directory
    # Its file may have another name for it, as hardly any does.
    usual = os.path.join(source.bundle, "rootfs")
    return usual if os.path.isdir(usual) else source.bundle


def source(image: Image, ephemeral: bool, options: tuple[str, ...], *, bundle: bool = False) -> Source:
    """What systemd-nspawn boots of such a tree, or runs of a bundle."""
    if bundle:
        return Source(bundle=image.path, ephemeral=ephemeral, options=options)
    if image.is_tree:
        return Source(directory=image.path, mapped=False, ephemeral=ephemeral, options=options)
    return Source(image=image.path, ephemeral=ephemeral, options=options)
