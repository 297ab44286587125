# SPDX-License-Identifier: LGPL-2.1-or-later
"""--help and `help VERB`, written from the tables."""

from __future__ import annotations

from .context import Context
from .errors import CommandError
from .options import closest
from .table import COMMON, OPTIONS, VERBS, Option, Verb, find_verb

_COLUMN = 30
_WIDTH = 79

_TAIL = """\
Exit status: 0 when everything asked for was done, 1 when anything failed (a
wrong command line too), 130 when interrupted; shell and login: 0 when the
session was opened. A failure says what, of which name and why on stderr, and
what can be done. start waits for the result unless --no-block is given, and
where machined is the manager so do poweroff and reboot.

Downloads, imports and exports are shown until they are done, Ctrl-C cancels
them. With --output=json they print an object for each event, one to a line:
"started" with the id, "progress", "log", and "ended" with "result" ("done",
"failed", "canceled", or "lost" where nobody knows) and "error".

See the machinectl(1) man page for details.
"""


def overview() -> str:
    """The text of --help."""
    parts = [
        "machinectl [OPTIONS...] COMMAND ...\n\n"
        "Send control commands to or query the virtual machine and container\nregistration manager.\n"
    ]
    for group in dict.fromkeys(verb.group for verb in VERBS):
        parts.append(f"\n{group} Commands:\n")
        parts += [_entry(_verb_head(verb), verb.summary) for verb in VERBS if verb.group == group]
    parts.append("\nOptions:\n")
    parts += [_entry(_option_head(option), option.help) for option in OPTIONS if option.help]
    parts.append("\n" + _TAIL)
    return "".join(parts)


def help_verb(context: Context, arguments: list[str]) -> int:
    """`help [VERB]`"""
    if not arguments:
        print(overview(), end="")
        return 0
    verb = find_verb(arguments[0])
    if verb is None:
        nearest = closest(arguments[0], [verb.name for verb in VERBS])
        raise CommandError(
            f"There is no command verb '{arguments[0]}'"
            + (f", did you mean '{nearest}'?" if nearest else ".")
        )
    print(f"machinectl [OPTIONS...] {verb.name} {verb.arguments}".rstrip())
    if verb.aliases:
        print(f"Also: {', '.join(verb.aliases)}")
    print(f"\n{verb.summary}\n\nOptions:")
    for option in options_of(verb):
        print(_entry(_option_head(option), option.help), end="")
    return 0


def options_of(verb: Verb) -> list[Option]:
    """The options that mean something to a verb. All are accepted by all, as in the stock client."""
    wanted = {*COMMON, *verb.options}
    return [option for option in OPTIONS if option.long in wanted or _is_short_for(option, wanted)]


def _is_short_for(option: Option, wanted: set[str]) -> bool:
    """An option with a letter alone belongs to the long one that sets the same."""
    if option.long:
        return False
    return any(other.long in wanted for other in OPTIONS if other.field == option.field)


def _verb_head(verb: Verb) -> str:
    return f"{verb.name} {verb.arguments.replace('…', '...')}".rstrip()


def _option_head(option: Option) -> str:
    short = f"-{option.short}" if option.short else "  "
    if not option.long:
        return f"{short} {option.metavar}".rstrip()
    return f"{short} --{option.long}" + (f"={option.metavar}" if option.metavar else "")


def _entry(head: str, text: str) -> str:
    """One entry: head, and the text folded in its column."""
    lines = [f"  {head}".ljust(_COLUMN - 1)]
    if len(lines[0]) >= _COLUMN:
        lines.append("".ljust(_COLUMN - 1))
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > _WIDTH and len(lines[-1]) >= _COLUMN:
            lines.append("".ljust(_COLUMN - 1))
        lines[-1] += " " + word
    return "\n".join(lines) + "\n"
