# SPDX-License-Identifier: LGPL-2.1-or-later
"""`pool`: what /var/lib/machines is; a btrfs file for it, made, grown and removed."""

from __future__ import annotations

from . import quantities
from .bus import ASKING_TIMEOUT, OURS, Bus
from .context import Context
from .errors import BusError, CommandError
from .names import clean
from .output import message, to_json
from .timefmt import UINT64_MAX, size

_USAGE = "Usage: machinectl pool [status | create [--size=BYTES] | grow BYTES | remove]"
_FILE = "file"  # a type of pool: a btrfs in it


def pool(context: Context, arguments: list[str]) -> int:
    """Without a word: status."""
    word, *rest = arguments or ["status"]
    verbs = {"status": _status, "create": _create, "grow": _grow, "remove": _remove}
    if word not in verbs:
        raise CommandError(f"Unknown operation on the pool: '{word}'.", _USAGE)
    if len(rest) != (word == "grow") or (context.options.size and word != "create"):
        raise CommandError(f"'pool {word}' does not go with these arguments.", _USAGE)
    return verbs[word](context, rest)


def _status(context: Context, arguments: list[str]) -> int:
    told = _ask(context, context.bus())
    options = context.options
    if options.json:
        values = {name: None if value == UINT64_MAX else value for name, value in told.items()}
        print(to_json(values, pretty=options.output == "json-pretty"))
        return 0
    kinds = {
        "directory": f"directory on {told.get('file-system') or 'an unknown file system'}",
        "btrfs": "btrfs of the host",
        _FILE: "btrfs in a file",
    }
    kind = str(told.get("type"))
    for label, text in (
        ("Pool", str(told.get("path"))),
        ("Type", kinds.get(kind, kind)),
        ("Size", _size(told, "size")),
        ("Used", _size(told, "used")),
        ("Free", _size(told, "available")),
        ("Limit", _size(told, "limit") or ("none" if kind != "directory" else "")),
        ("File", str(told.get("file", ""))),
        ("On disk", _size(told, "allocated")),
        ("May grow to", _size(told, "size-max")),
    ):
        if text:
            print(f"{label:>12}: {clean(text)}")
    return 0


def _size(told: dict[str, object], name: str) -> str:
    value = told.get(name, UINT64_MAX)
    return size(value) if isinstance(value, int) else ""


def _ask(context: Context, bus: Bus) -> dict[str, object]:
    try:
        told: dict[str, tuple[str, object]] = bus.call(OURS, "GetPool", reply="a{sv}")
    except BusError as error:
        raise _failure(context, error, "Could not look at the pool") from error
    return {name: value for name, (_, value) in told.items()}


def _create(context: Context, arguments: list[str]) -> int:
    wanted = quantities.size(context.options.size) if context.options.size else 0
    if context.options.size and not wanted:
        raise CommandError("A pool of no size holds nothing.", _USAGE)
    return _change(context, "create", "CreatePool", "ta{sv}", wanted, {})


def _grow(context: Context, arguments: list[str]) -> int:
    return _change(context, "grow", "GrowPool", "t", quantities.size(arguments[0]))


def _remove(context: Context, arguments: list[str]) -> int:
    return _change(context, "remove", "RemovePool", "a{sv}", {})


def _change(context: Context, doing: str, member: str, signature: str, *arguments: object) -> int:
    bus = context.mutating_bus()
    # Images take as long as they take.
    limit = ASKING_TIMEOUT if member == "GrowPool" else None
    try:
        bus.call(OURS, member, signature, *arguments, timeout=limit)
    except BusError as error:
        raise _failure(context, error, f"Could not {doing} the pool") from error
    if not context.options.quiet:
        told = _ask(context, bus)
        if told.get("type") == _FILE:
            most = _size(told, "size-max")
            text = f"has {_size(told, 'size')} in the file {told.get('file')}, and may grow to {most}"
        else:
            text = f"is a plain directory on {told.get('file-system')}"
        message(f"The pool {told.get('path')} {text}.")
    return 0


def _failure(context: Context, error: BusError, what: str) -> CommandError:
    if error.not_there:
        return CommandError(
            "'pool' needs machined's own manager, but systemd's is running.",
            "'systemctl status systemd-machined.service' shows which one it is.",
        )
    if error.left:
        return CommandError(
            f"{what}: the manager was restarted meanwhile.",
            "What was begun goes on: 'machinectl pool' and 'systemctl status machined-pool.service' tell.",
        )
    return context.failure(error, what)
