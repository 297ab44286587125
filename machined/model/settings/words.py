# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a value falls into parts: words with quotes, and paths between colons."""

from __future__ import annotations

_QUOTES = "\"'"


def split_words(text: str) -> list[str]:
    """Words between white space; quotes keep it, a backslash is a character like any other.

    (systemd.syntax(7); what systemd-nspawn does with the lists of .nspawn files.) Raises ValueError.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    for char in text:
        if quote:
            if char == quote:
                quote = ""
            else:
                word = (word or "") + char
        elif char in _QUOTES:
            quote, word = char, word or ""
        elif char.isspace():
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + char
    if quote:
        raise ValueError(f"a closing {quote} is missing")
    if word is not None:
        words.append(word)
    return words


def join_words(words: list[str] | tuple[str, ...]) -> str:
    """The text that split_words() takes apart again. Raises ValueError for what no quotes can hold."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if word and not any(char.isspace() or char in _QUOTES for char in word):
        return word
    # Parts with one kind of quote in quotes of the other kind; they are one word as nothing is between them.
    parts: list[str] = []
    rest = word
    while rest:
        quote = "'" if rest[0] == '"' else '"'
        head, _, _ = rest.partition(quote)
        parts.append(f"{quote}{head}{quote}")
        rest = rest[len(head) :]
    return "".join(parts) or '""'


def escape_colons(text: str) -> str:
    r"""A part of what split_colons() takes apart."""
    return text.replace("\\", "\\\\").replace(":", "\\:")


def split_colons(text: str) -> list[str]:
    r"""What stands between colons; `\:` is a colon in a part, `\\` a backslash. Raises ValueError."""
    parts, escaped = [""], False
    for char in text:
        if escaped:
            if char not in ":\\":
                parts[-1] += "\\"
            parts[-1] += char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ":":
            parts.append("")
        else:
            parts[-1] += char
    if escaped:
        raise ValueError("nothing follows the last backslash")
    return parts
