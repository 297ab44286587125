# SPDX-License-Identifier: LGPL-2.1-or-later
"""Section [Image]: the tree or disk image, where that is not the image with the machine's name."""

from __future__ import annotations

from typing import Final

from machined.model.settings import kinds, places
from machined.model.settings.setting import Form, Setting, Trust

_SECTION: Final = "Image"
_UNTRUSTED: Final = Trust.NOTHING

TREES: Final = ("Directory", "Image", "OCIBundle")
"""Keys that say what a machine is made of."""

ROWS: Final = (
    Setting(
        _SECTION,
        "Directory",
        places.PATH,
        "--directory",
        "The tree, where it is not the image with the machine's name.",
        Form.OWN,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "Image",
        places.PATH,
        "--image",
        "Likewise a disk image or block device.",
        Form.OWN,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "OCIBundle",
        places.PATH,
        "--oci-bundle",
        "Likewise an OCI bundle.",
        Form.OWN,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "Template",
        places.PATH,
        "--template",
        "The tree that Directory= is copied from, where there is nothing yet.",
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "ImagePolicy",
        kinds.text("POLICY"),
        "--image-policy",
        "Which partitions are used, systemd.image-policy(7).",
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "RootHash",
        places.ROOT_HASH,
        "--root-hash",
        "The hash of the root of a disk image, dm-verity.",
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "RootHashSignature",
        places.SIGNATURE,
        "--root-hash-sig",
        "Its signature.",
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "VerityData",
        places.PATH,
        "--verity-data",
        "Where its hashes are.",
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
)
