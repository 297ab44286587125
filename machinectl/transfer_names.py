# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of images made of URLs, references and files, and what of those can be used at all.

The rules are those of importctl: what it would call an image we call it too.
"""

from __future__ import annotations

import os

from .errors import CommandError
from .names import clean

_TAR = (".tar", ".tar.xz", ".tar.gz", ".tar.bz2", ".tar.zst", ".tgz")
_RAW = (".xz", ".gz", ".bz2", ".zst", ".raw", ".qcow2", ".img", ".bin")

_COMPRESSION = {".xz": "xz", ".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2", ".zst": "zstd"}
_NAME_MAX = 255
_SCHEMES = ("http://", "https://", "file://")


def strip(name: str, kind: str) -> str:
    """A file's name without what says how it is packed; `kind`: "tar", "raw", or one that is not packed.

    Of a tar one suffix goes, of a disk image all that there are. A suffix alone is a name.
    """
    if kind == "raw":
        while suffix := next((s for s in _RAW if name.endswith(s) and name != s), ""):
            name = name.removesuffix(suffix)
    elif kind == "tar":
        name = name.removesuffix(next((s for s in _TAR if name.endswith(s) and name != s), ""))
    return name


def check(name: str, what: str = "Local name") -> str:
    """The name, which an image can have: that of a file, without control characters, not a temporary's.

    Raises CommandError.
    """
    reason = ""
    if name in ("", ".", ".."):
        reason = "it is empty" if not name else "it is a directory's own"
    elif "/" in name:
        reason = "it has a '/' in it"
    elif len(os.fsencode(name)) > _NAME_MAX:
        reason = f"it is longer than {_NAME_MAX} bytes"
    elif name.startswith(".#"):
        reason = "names that begin with '.#' are for temporary files"
    elif any(ord(c) < 32 or ord(c) == 127 for c in name):
        reason = "it has control characters in it"
    elif not _is_utf8(name):
        reason = "it is not valid UTF-8"
    if reason:
        raise CommandError(f"{what} '{clean(name)}' is not a suitable image name: {reason}.")
    return name


def local_name(given: str | None, default: str, kind: str, source: str) -> str:
    """What the image is to be called: as given, or `default`, which was made of the name of `source`.

    "" where a '-' is given, which is no name. Raises CommandError.
    """
    if given in ("", "-"):
        return ""
    name = default if given is None else given
    if not name:
        raise CommandError(f"There is no name for an image in '{clean(source)}'.", "Give a NAME after it.")
    return check(strip(name, kind))


def of_url(url: str) -> str:
    """The last component of a URL's path; raises CommandError for what is no URL importd would take."""
    rest = next((url.removeprefix(scheme) for scheme in _SCHEMES if url.startswith(scheme)), "")
    if not rest or not url.isascii() or not url.isprintable() or " " in url:
        raise CommandError(
            f"URL '{clean(url)}' is not valid.", f"It has to begin with {', '.join(_SCHEMES)}."
        )
    path = rest.partition("#")[0].partition("?")[0]
    host, slash, path = path.partition("/")
    if not host and not url.startswith("file://"):
        raise CommandError(f"URL '{clean(url)}' is not valid: it names no host.")
    return path.rstrip("/").rpartition("/")[2] if slash else ""


def of_reference(reference: str) -> str:
    """The image's own name in [REGISTRY/]NAME[:TAG|@DIGEST]. Raises CommandError."""
    name = reference.partition("@")[0].rpartition("/")[2].partition(":")[0]
    if not name or not reference.isprintable() or " " in reference:
        raise CommandError(
            f"Ref '{clean(reference)}' is not valid.",
            "Write it as [REGISTRY/]NAME[:TAG], as in 'debian:13'.",
        )
    return name


def of_path(path: str) -> str:
    """The name of a file or directory, however the path to it is written."""
    name = path.rstrip("/").rpartition("/")[2]
    if name in ("", ".", ".."):
        name = os.path.basename(os.path.realpath(path))
    return name


def compression(path: str) -> str:
    """How a file of this name is to be compressed, "" where the name does not tell."""
    return next((word for suffix, word in _COMPRESSION.items() if path.endswith(suffix)), "")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
