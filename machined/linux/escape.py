# SPDX-License-Identifier: LGPL-2.1-or-later
"""The escapings of unit names, D-Bus object path labels and state files. str in, str out.

Bytes that are no UTF-8 travel as surrogates (os.fsdecode), so that any file name makes the round trip.
"""

from __future__ import annotations

import re

_ALNUM = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_DIGITS = frozenset(b"0123456789")
_UNIT = _ALNUM | frozenset(b":_.")

_PLAIN_UNIT = re.compile(r"[0-9A-Za-z:_][0-9A-Za-z:_.]*")
_PLAIN_LABEL = re.compile(r"[A-Za-z][0-9A-Za-z]*")
_PLAIN_C = re.compile(r"[ -~]*")

_C_LETTERS = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 39: "'", 92: "\\"}
_C_QUOTED = frozenset("\"'\\")
_C_BYTES = {letter: bytes((value,)) for value, letter in _C_LETTERS.items()} | {"s": b" "}
_C_SEQUENCE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|([abfnrtvs\\\"'])|.?)", re.DOTALL
)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def unit_name_escape(text: str) -> str:
    """As systemd-escape: '/' becomes '-', what a unit's name may not hold and a leading '.' \\xNN."""
    if _PLAIN_UNIT.fullmatch(text):
        return text
    parts = []
    for position, byte in enumerate(_encode(text)):
        if byte == 0x2F:
            parts.append("-")
        elif byte not in _UNIT or (position == 0 and byte == 0x2E):
            parts.append(f"\\x{byte:02x}")
        else:
            parts.append(chr(byte))
    return "".join(parts)


def unit_name_unescape(text: str) -> str:
    """The reverse of unit_name_escape(). ValueError if a backslash begins anything but \\xNN."""

    def byte(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            raise ValueError(f"'{text}' holds a backslash that begins no \\xNN")
        return bytes.fromhex(match[1].decode())

    return _decode(re.sub(rb"\\(?:x([0-9a-fA-F]{2}))?", byte, _encode(text).replace(b"-", b"/")))


def bus_label_escape(text: str) -> str:
    """One label of a D-Bus object path: '_xx' for a leading digit and all but [A-Za-z0-9]; '_' for ''."""
    if not text:
        return "_"
    if _PLAIN_LABEL.fullmatch(text):
        return text
    return "".join(
        f"_{byte:02x}" if byte not in _ALNUM or (position == 0 and byte in _DIGITS) else chr(byte)
        for position, byte in enumerate(_encode(text))
    )


def bus_label_unescape(label: str) -> str:
    """The reverse of bus_label_escape(). A '_' that begins no '_xx' stands for itself."""
    if label == "_":
        return ""
    return _decode(
        re.sub(rb"_([0-9a-fA-F]{2})", lambda match: bytes.fromhex(match[1].decode()), _encode(label))
    )


def c_escape(text: str) -> str:
    """As systemd's cescape(): \\n and its like, \\\\, both quotes; octal for what is not printable ASCII."""
    if _PLAIN_C.fullmatch(text) and not _C_QUOTED.intersection(text):
        return text
    parts = []
    for byte in _encode(text):
        if letter := _C_LETTERS.get(byte):
            parts.append("\\" + letter)
        elif byte < 0x20 or byte >= 0x7F:
            parts.append(f"\\{byte:03o}")
        else:
            parts.append(chr(byte))
    return "".join(parts)


def c_unescape(text: str) -> str:
    """The reverse of c_escape(); \\s, \\xNN, \\uNNNN, \\UNNNNNNNN too. ValueError for others and a NUL."""
    data = bytearray()
    end = 0
    for match in _C_SEQUENCE.finditer(text):
        data += _encode(text[end : match.start()])
        end = match.end()
        hexadecimal, short, long, octal, letter = match.groups()
        if letter is not None:
            data += _C_BYTES[letter]
            continue
        digits = hexadecimal or short or long
        value = int(digits, 16) if digits else int(octal, 8) if octal else 0
        wide = short is not None or long is not None
        # chr() is no check: it accepts surrogates, and these would then count as smuggled bytes.
        if value == 0 or value > (0x10FFFF if wide else 0xFF) or (wide and 0xD800 <= value <= 0xDFFF):
            raise ValueError(f"'{match[0]}' in '{text}' is no escape sequence")
        data += chr(value).encode() if wide else bytes((value,))
    data += _encode(text[end:])
    return _decode(bytes(data))
