# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes to stdout and stderr: tables, JSON, messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .names import clean
from .table import Options
from .values import ALL


class Cell:
    """One field: what people read ("" = nothing to say), and its JSON value."""

    __slots__ = ("lines", "value")

    def __init__(self, text: str, value: object = None) -> None:
        self.lines = [clean(line) for line in text.split("\n")]
        self.value = value


def text_cell(text: str) -> Cell:
    """A string: empty prints as "-" and is null in JSON."""
    return Cell(text or "-", text or None)


def is_utf8() -> bool:
    """May we print more than ASCII? Asked of the environment, as the locale module is slow to come by."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        value = os.environ.get(name)
        if value:
            return "utf8" in value.lower().replace("-", "")
    return True


def ellipsis() -> str:
    return "…" if is_utf8() else "..."


def message(text: str) -> None:
    """Lines for people on stderr; what others wrote in them cannot drive the terminal."""
    sys.stdout.flush()
    print("\n".join(map(clean, text.splitlines())), file=sys.stderr, flush=True)


def print_rows(
    options: Options, columns: Sequence[str], rows: list[list[Cell]], word: str, *,
    right: frozenset[str] = frozenset(), height: int = ALL,
) -> None:  # fmt: skip
    """Print a table or JSON as the options say. `height`: at most so many lines of a cell are shown."""
    if options.json:
        keys = [column.lower() for column in columns]
        records = [{key: cell.value for key, cell in zip(keys, row, strict=True)} for row in rows]
        print(to_json(records, pretty=options.output == "json-pretty"))
        return
    if rows:
        header = [[Cell(column) for column in columns]] if options.legend else []
        limit = 0 if options.full or not sys.stdout.isatty() else terminal_width()
        aligned = [column in right for column in columns]
        for line in layout(header + rows, aligned, limit=limit, height=height):
            print(line)
    if options.legend:
        print(f"\n{len(rows)} {word} listed." if rows else f"No {word}.")


def print_columns(
    options: Options, titles: Sequence[str], columns: Sequence[list[str]], word: str, *,
    right: frozenset[str] = frozenset(),
) -> None:  # fmt: skip
    """As print_rows() for people, from the texts of each column; quick for thousands of plain ones."""
    limit = 0 if options.full or not sys.stdout.isatty() else terminal_width()
    count = len(columns[0])
    if options.legend and count:
        columns = [[title, *texts] for title, texts in zip(titles, columns, strict=True)]
    everything = "".join(map("".join, columns))
    widths = [max(map(len, texts), default=0) for texts in columns]
    if not everything.isascii() or not everything.isprintable() or 0 < limit < sum(widths) + len(widths) - 1:
        rows = [[Cell(text) for text in row] for row in zip(*columns, strict=True)]
        print_rows(options, titles, rows[bool(options.legend) :], word, right=right)
        return
    if count:
        padded = [
            [text.rjust(w) if title in right else text.ljust(w) for text in texts]
            for title, texts, w in zip(titles, columns, widths, strict=True)
        ]
        print("\n".join(line.rstrip() for line in map(" ".join, zip(*padded, strict=True))))
    if options.legend:
        print(f"\n{count} {word} listed." if count else f"No {word}.")


def layout(table: list[list[Cell]], right: list[bool], *, limit: int = 0, height: int = ALL) -> list[str]:
    """Lines of a table, columns one blank apart; `limit`: cells are cut to keep lines so short, 0 = not."""
    texts = [[_cut_height(cell.lines, height) for cell in row] for row in table]
    widths = [max(width(line) for row in texts for line in row[i]) for i in range(len(right))]
    if limit:
        _shrink(widths, [max(map(width, cell)) for cell in texts[0]], limit)
    result = []
    for row in texts:
        for n in range(max(map(len, row))):
            parts = []
            for i, cell in enumerate(row):
                part = _cut(cell[n] if n < len(cell) else "", widths[i])
                pad = " " * (widths[i] - width(part))
                parts.append(pad + part if right[i] else part + pad)
            result.append(" ".join(parts).rstrip())
    return result


def _cut_height(lines: list[str], height: int) -> list[str]:
    if len(lines) <= height:
        return lines
    return [*lines[: height - 1], lines[height - 1] + ellipsis()]


def _shrink(widths: list[int], least: list[int], limit: int) -> None:
    """Take width from the widest columns, but never below what their header needs."""
    over = sum(widths) + len(widths) - 1 - limit
    while over > 0:
        i = max(range(len(widths)), key=lambda i: (widths[i] - least[i], widths[i]))
        if widths[i] <= max(least[i], 4):
            return
        widths[i] -= 1
        over -= 1


def _cut(text: str, limit: int) -> str:
    if width(text) <= limit:
        return text
    dots = ellipsis()
    while text and width(text) + len(dots) > limit:
        text = text[:-1]
    return text + dots


def width(text: str) -> int:
    """Columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def terminal_width() -> int:
    """Columns of the terminal, 80 when nobody knows."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def to_json(value: object, *, pretty: bool) -> str:
    """As systemd's tools write it: one line, or tabs and blanks around the colon.

    ASCII alone where stdout cannot do all of Unicode; never a character that a terminal acts upon.
    """
    import json

    ascii_only = sys.stdout.encoding.lower().replace("-", "") != "utf8"
    if pretty and value != []:
        text = json.dumps(value, ensure_ascii=ascii_only, indent="\t", separators=(",", " : "))
    else:
        text = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":"))
    if text.isascii() and "\x7f" not in text:
        return text
    # JSON lets these stand as they are.
    return text.translate({code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)})
