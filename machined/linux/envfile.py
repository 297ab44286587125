# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of NAME=value lines (os-release, state files), read and written as systemd's env-file code does."""

from __future__ import annotations

import errno
import re
from enum import Enum, auto

_WHITESPACE = " \t\n\r"
_NEWLINE = "\n\r"
_COMMENTS = "#;"
_NEED_ESCAPE = '"\\`$'
_NEED_QUOTES = re.compile(r"[\x00-\x20\x7f\"\\`$*?\['()<>|&;!]")
# What is UTF-8 for Python and not for systemd: code points that Unicode reserves for internal use.
_PLANE_ENDS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_NONCHARACTERS = re.compile(f"[\ufdd0-\ufdef{_PLANE_ENDS}]")


class _State(Enum):
    PRE_KEY = auto()
    KEY = auto()
    PRE_VALUE = auto()
    VALUE = auto()
    VALUE_ESCAPE = auto()
    SINGLE_QUOTED = auto()
    DOUBLE_QUOTED = auto()
    DOUBLE_QUOTED_ESCAPE = auto()
    COMMENT = auto()
    COMMENT_ESCAPE = auto()


class _Parser:
    """The state machine of systemd's parse_env_file(), oddities included: files are written for them."""

    def __init__(self) -> None:
        self.result: dict[str, str] = {}
        self._key: list[str] = []
        self._value: list[str] = []
        self._solid = 0  # so many characters of the value end in one that is not unquoted white space

    def _push(self, *, strip: bool) -> None:
        key = "".join(self._key).rstrip(_WHITESPACE)
        value = "".join(self._value[: self._solid] if strip else self._value)
        self._key, self._value, self._solid = [], [], 0
        if _is_text(key) and _is_text(value):
            self.result[key] = value

    def _add(self, text: str) -> None:
        self._value.append(text)
        self._solid = len(self._value)

    def feed(self, text: str) -> None:
        state = _State.PRE_KEY
        for c in text:
            state = self._step(state, c)
        if state not in (_State.PRE_KEY, _State.KEY, _State.COMMENT, _State.COMMENT_ESCAPE):
            self._push(strip=state is _State.VALUE)

    def _step(self, state: _State, c: str) -> _State:
        match state:
            case _State.PRE_KEY:
                if c in _COMMENTS:
                    return _State.COMMENT
                if c in _WHITESPACE:
                    return state
                self._key = [c]
                return _State.KEY
            case _State.KEY:
                if c in _NEWLINE:
                    return _State.PRE_KEY  # a line without '=' is none
                if c == "=":
                    return _State.PRE_VALUE
                self._key.append(c)
                return state
            case _State.PRE_VALUE | _State.VALUE:
                return self._unquoted(state, c)
            case _State.VALUE_ESCAPE:
                if c not in _NEWLINE:
                    self._add(c)
                return _State.VALUE
            case _State.SINGLE_QUOTED:
                if c == "'":
                    return _State.PRE_VALUE
                self._add(c)
                return state
            case _State.DOUBLE_QUOTED:
                if c == '"':
                    return _State.PRE_VALUE
                if c == "\\":
                    return _State.DOUBLE_QUOTED_ESCAPE
                self._add(c)
                return state
            case _State.DOUBLE_QUOTED_ESCAPE:
                if c in _NEED_ESCAPE:
                    self._add(c)
                elif c != "\n":
                    self._add("\\" + c)
                return _State.DOUBLE_QUOTED
            case _State.COMMENT | _State.COMMENT_ESCAPE:
                # A backslash does not continue a comment (systemd 254): the next line stands for itself.
                return _State.PRE_KEY if c in _NEWLINE else _State.COMMENT

    def _unquoted(self, state: _State, c: str) -> _State:
        if c in _NEWLINE:
            self._push(strip=state is _State.VALUE)
            return _State.PRE_KEY
        if c == "\\":
            self._solid = len(self._value)
            return _State.VALUE_ESCAPE
        if state is _State.PRE_VALUE:
            if c == "'":
                return _State.SINGLE_QUOTED
            if c == '"':
                return _State.DOUBLE_QUOTED
            if c in _WHITESPACE:
                return state
        if c in _WHITESPACE:
            self._value.append(c)
        else:
            self._add(c)
        return _State.VALUE


def _is_text(text: str) -> bool:
    """Whether systemd would take this for UTF-8; what was not is surrogates here."""
    return not any("\ud800" <= c <= "\udfff" for c in text) and not _NONCHARACTERS.search(text)


def parse(data: bytes) -> dict[str, str]:
    """NAME → value in the order of the file; the last of equal names wins, what is not UTF-8 is dropped.

    OSError EBADMSG if there is a NUL in it: then this is no text file.
    """
    if b"\0" in data:
        raise OSError(errno.EBADMSG, "there is a NUL byte in it")
    parser = _Parser()
    parser.feed(data.decode("utf-8", "surrogateescape"))
    return parser.result


def quote(value: str) -> str:
    """The value as it is written after 'NAME=': in double quotes where a shell would need them."""
    if not _NEED_QUOTES.search(value):
        return value
    return '"' + "".join("\\" + c if c in _NEED_ESCAPE else c for c in value) + '"'
