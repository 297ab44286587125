# SPDX-License-Identifier: LGPL-2.1-or-later
"""Long answers of the bus: arrays of structures of basic types, taken apart in one loop."""

from __future__ import annotations

import struct

# D-Bus specification, "Summary of D-Bus marshalling": alignment and size, and the letter in `struct`.
_FIXED = {
    "y": (1, "B"), "n": (2, "h"), "q": (2, "H"), "i": (4, "i"), "u": (4, "I"), "b": (4, "I"),
    "x": (8, "q"), "t": (8, "Q"), "d": (8, "d"),
}  # fmt: skip
_TEXT = "so"


def can(signature: str) -> bool:
    """Whether rows() is for answers of this signature."""
    inside = signature[2:-1]
    return signature == f"a({inside})" and inside != "" and all(c in _FIXED or c in _TEXT for c in inside)


def rows(data: bytes, position: int, signature: str, order: str) -> list[tuple[object, ...]]:
    """The array at a position of a message, which is a multiple of 8; `order` is "<" or ">".

    Raises ValueError for what is no such array.
    """
    length_of = struct.Struct(f"{order}I").unpack_from
    fields = []
    for kind in signature[2:-1]:
        size, letter = _FIXED.get(kind, (0, "I"))  # a text, of which the length comes first
        fields.append((size, struct.Struct(order + letter).unpack_from, kind == "b"))
    found: list[tuple[object, ...]] = []
    try:
        (length,) = length_of(data, position)
        position += 8
        end = position + length
        if end > len(data):
            raise ValueError("the message is shorter than the array in it")
        while position < end:
            position = (position + 7) & -8
            row: list[object] = []
            for size, unpack, is_bool in fields:
                if size:
                    position += -position % size
                    (value,) = unpack(data, position)
                    position += size
                    row.append(bool(value) if is_bool else value)
                else:
                    position = (position + 3) & -4
                    (length,) = unpack(data, position)
                    position += 4
                    row.append(data[position : position + length].decode())
                    position += length + 1
            found.append((*row,))
    except struct.error as error:
        raise ValueError(f"the message is too short: {error}") from error
    if position != end:
        raise ValueError("the last row does not end where the array does")
    return found
