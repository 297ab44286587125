# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the bytes of a message to a method call, as strict as systemd's own parser of JSON."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, Final

# Objects and arrays in each other. Python's parser goes on until its stack is full: megabytes that stay.
MAX_DEPTH: Final = 512

_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[][{}]', re.DOTALL)
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS: Final = bytes(set(range(256)) - set(_STEPS))


def parse(data: bytes) -> dict[str, Any]:
    """A call as it came.

    Raises ValueError for what is none: the connection ends then, as with any server.
    """
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and too_deep(data):
        raise ValueError("the message is nested too deeply")
    message = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    if b"\\u" in data and not all(map(_is_text, _strings(message))):
        raise ValueError("the message has a string that is no text")
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        raise ValueError("the message is no method call")
    return message


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a key that is there twice: who else reads the message may take the other one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object of the message has the same key twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"'{text}' is no JSON")


def _strings(value: Any) -> Iterator[str]:
    """All strings in a parsed message, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _strings(item)


def _is_text(text: str) -> bool:
    """Whether a string that was written with escapes is UTF-8 that C can hold."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def too_deep(data: bytes) -> bool:
    """Whether its objects and arrays are in each other deeper than they may, if it is JSON."""
    # Without regard to strings first, which nearly all messages pass.
    brackets = data.translate(None, _NO_BRACKETS)
    if max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0) <= MAX_DEPTH:
        return False
    steps = (_STEPS.get(match[0][0], 0) for match in _TOKENS.finditer(data))
    return any(depth > MAX_DEPTH for depth in itertools.accumulate(steps))
