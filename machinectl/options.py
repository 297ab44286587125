# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command line parsing with the rules of getopt_long(3), which scripts written for the stock client rely on.

Options anywhere, long ones abbreviated where that is unambiguous, short ones in one word, "--" ends them.
After `shell NAME` everything belongs to the program.
"""

from __future__ import annotations

from .errors import CommandError
from .table import OPTIONS, VERBS, Option, Options, Verb, find_verb

_USAGE = "'machinectl --help' shows the options and verbs."


def parse(argv: list[str]) -> tuple[Options, list[str]]:
    """Options and the remaining words, the verb first. Raises CommandError, values.Answer."""
    options = Options()
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if word.startswith("--"):
            _long(options, word, rest)
        elif word.startswith("-") and word != "-":
            _short(options, word, rest)
        else:
            words.append(word)
            verb = find_verb(words[0])
            if verb is not None and verb.program and len(words) == 2:
                words += rest
                break
    return options, words


def choose_verb(words: list[str]) -> tuple[Verb, list[str]]:
    """The verb and its arguments, counted. Raises CommandError."""
    if not words:
        return VERBS[0], []
    verb = find_verb(words[0])
    if verb is None:
        nearest = closest(words[0], [name for verb in VERBS for name in (verb.name, *verb.aliases)])
        raise CommandError(
            f"Unknown command verb '{words[0]}'" + (f", did you mean '{nearest}'?" if nearest else "."),
            "" if nearest else _USAGE,
        )
    arguments = words[1:]
    usage = f"Usage: machinectl {verb.name} {verb.arguments}".rstrip()
    if len(arguments) < verb.minimum:
        raise CommandError("Too few arguments.", usage)
    if len(arguments) > verb.maximum:
        raise CommandError("Too many arguments.", usage)
    return verb, arguments


def closest(word: str, words: list[str]) -> str:
    """The word that was most likely meant: it starts so, or has the least edit distance (5 at most)."""
    starting = sorted((w for w in words if w.startswith(word)), key=len)
    if starting:
        return starting[0]
    distance, best = min(((_distance(word, w), w) for w in words), key=lambda pair: pair[0])
    return best if distance <= 5 else ""


def _distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def _long(options: Options, word: str, rest: list[str]) -> None:
    name, equals, value = word[2:].partition("=")
    option = _find_long(name)
    if not option.metavar:
        if equals:
            raise CommandError(f"machinectl: option '--{option.long}' doesn't allow an argument")
        _store(options, option, "")
        return
    if not equals:
        if not rest:
            raise CommandError(f"machinectl: option '--{option.long}' requires an argument")
        value = rest.pop(0)
    _store(options, option, value)


def _find_long(name: str) -> Option:
    found = [option for option in OPTIONS if option.long and option.long.startswith(name)]
    exact = [option for option in found if option.long == name]
    if len(stock := [option for option in found if not option.own]) == 1 and not exact:
        return stock[0]
    if exact:
        return exact[0]
    if not found:
        raise CommandError(f"machinectl: unrecognized option '--{name}'", _USAGE)
    if len(found) > 1:
        possible = " ".join(f"'--{option.long}'" for option in found)
        raise CommandError(f"machinectl: option '--{name}' is ambiguous; possibilities: {possible}")
    return found[0]


def _short(options: Options, word: str, rest: list[str]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = next((option for option in OPTIONS if option.short == letter), None)
        if option is None:
            raise CommandError(f"machinectl: invalid option -- '{letter}'", _USAGE)
        if not option.metavar:
            _store(options, option, "")
            continue
        if not letters and not rest:
            raise CommandError(f"machinectl: option requires an argument -- '{letter}'")
        _store(options, option, letters or rest.pop(0))
        return


def _store(options: Options, option: Option, value: str) -> None:
    result = option.parse(value) if option.metavar else option.const
    held = getattr(options, option.field)
    if isinstance(held, list):
        held.append(result)
    else:
        setattr(options, option.field, result)
    if option.also:
        setattr(options, option.also, True)
