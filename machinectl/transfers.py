# SPDX-License-Identifier: LGPL-2.1-or-later
"""`pull-tar`, `import-fs`, `export-raw` and their like: transfers of images, done by systemd-importd."""

from __future__ import annotations

import time
from collections.abc import Callable

from . import transfer_names as names
from . import transfer_report
from .bus import MACHINE1, Bus, Call
from .context import Context
from .errors import BusError, CommandError
from .names import clean
from .names import is_valid as can_be_started
from .output import message
from .transfer_files import Destination, Source
from .transfer_progress import Meter
from .transfer_run import IMPORT1, Transfer

# Flags of the methods that take any.
_FORCE = 1
_READ_ONLY = 2
_KEEP_DOWNLOAD = 4  # importctl's choice for images of machines: they get a copy of what was downloaded
_CLASS = "machine"
_MEMBERS = {"tar": "Tar", "raw": "Raw", "fs": "FileSystem"}


def pull(context: Context, arguments: list[str]) -> int:
    """`pull-tar`, `pull-raw`, `pull-oci`"""
    options = context.options
    kind = _kind(context)
    remote = arguments[0]
    default = names.of_reference(remote) if kind == "oci" else names.of_url(remote)
    local = names.local_name(arguments[1] if len(arguments) > 1 else None, default, kind, remote)
    flags = _flags(context)
    if kind == "oci":
        calls = [Call(IMPORT1, "PullOci", "ssst", remote, local, _CLASS, flags)]
    else:
        member = f"Pull{_MEMBERS[kind]}"
        keep = flags | _KEEP_DOWNLOAD
        calls = [Call(IMPORT1, member + "Ex", "sssst", remote, local, _CLASS, options.verify, keep)]
        if not options.read_only:  # before systemd 256
            calls.append(Call(IMPORT1, member, "sssb", remote, local, options.verify, options.force))
    bus = context.mutating_bus()
    _check_replaceable(context, bus, local)
    what = f"'{clean(remote)}'" + (f" as image '{clean(local)}'" if local else " into the cache")
    _run(
        context,
        bus,
        calls,
        "pulling " + what,
        "Pulled " + what,
        local,
        Meter(0.0, url=remote),
        remote=remote,
    )
    _warn_of_name(context, local)
    return 0


def import_image(context: Context, arguments: list[str]) -> int:
    """`import-tar`, `import-raw`, `import-fs`"""
    options = context.options
    kind = _kind(context)
    _check_local(context)
    path = "" if arguments[0] == "-" else arguments[0]
    given = arguments[1] if len(arguments) > 1 else None
    if given in ("", "-"):
        given = None
    if given is None and not path:
        raise CommandError("Need either path or local name.", "What comes from standard input has no name.")
    local = names.local_name(given, names.of_path(path), kind, path)
    source = Source(path, directory=kind == "fs")
    try:
        member = f"Import{_MEMBERS[kind]}"
        calls = [
            Call(IMPORT1, member + "Ex", "hsst", source.fd, local, _CLASS, _flags(context)),
            Call(IMPORT1, member, "hsbb", source.fd, local, options.force, options.read_only),
        ]
        bus = context.mutating_bus(fds=True)
        _check_replaceable(context, bus, local)
        what = f"'{clean(path)}'" if path else "standard input"
        what += f" as image '{clean(local)}'"
        begin, now = source.position(), time.time()

        def whole() -> None:
            if kind == "fs":
                _check_whole(bus, source, local, now)

        _run(
            context, bus, calls, "importing " + what, "Imported " + what, local,
            Meter(0.0, total=source.size - begin), lambda: source.position() - begin, whole,
            path=path or None,
        )  # fmt: skip
    finally:
        source.close()
    _warn_of_name(context, local)
    return 0


def export(context: Context, arguments: list[str]) -> int:
    """`export-tar`, `export-raw`"""
    options = context.options
    kind = _kind(context)
    _check_local(context)
    name = names.check(arguments[0], "Image name")
    path = arguments[1] if len(arguments) > 1 and arguments[1] != "-" else ""
    if options.json and not path:
        raise CommandError(
            "The image and the JSON cannot both go to standard output.",
            "Name a FILE.",
        )
    compression = options.format or names.compression(path)
    with Destination(path, force=options.force) as destination:
        member = f"Export{_MEMBERS[kind]}"
        calls = [
            Call(IMPORT1, member + "Ex", "sshst", name, _CLASS, destination.fd, compression, 0),
            Call(IMPORT1, member, "shs", name, destination.fd, compression),
        ]
        bus = context.mutating_bus(fds=True)
        what = f"image '{clean(name)}' to " + (f"'{clean(path)}'" if path else "standard output")
        _run(
            context, bus, calls, "exporting " + what, "Exported " + what, name, Meter(0.0),
            destination.written, destination.keep, path=path or None,
        )  # fmt: skip
    return 0


def _run(
    context: Context, bus: Bus, calls: list[Call], doing: str, done: str, local: str, meter: Meter,
    look: Callable[[], int] = lambda: 0, finish: Callable[[], None] = lambda: None, **where: object,
) -> None:  # fmt: skip
    """One transfer, shown as the options say. `where`: where it is from or goes to, for JSON."""
    options = context.options
    meter.restart(time.monotonic())
    what: dict[str, object] = {
        "id": 0, "type": context.verb.name, "class": _CLASS, "local": local or None, **where,
    }  # fmt: skip
    kind = transfer_report.choose(quiet=options.quiet, json=options.json)
    Transfer(context, bus, kind(meter, what, doing), look).run(calls, doing, done, finish)


def _kind(context: Context) -> str:
    return context.verb.name.rpartition("-")[2]


def _flags(context: Context) -> int:
    return _FORCE * context.options.force | _READ_ONLY * context.options.read_only


def _check_local(context: Context) -> None:
    """A descriptor does not cross ssh, nor the border of a container."""
    if context.local:
        return
    verb, where = context.verb.name, context.options.host or context.options.machine
    raise CommandError(
        f"'{verb}' works with files of the host it runs on: they cannot be handed to '{where}'.",
        f"Run it over there, with the file on a pipe: 'ssh {where} machinectl {verb} …'."
        if context.options.host
        else f"Run it over there: 'machinectl shell {where}'.",
    )


def _check_replaceable(context: Context, bus: Bus, local: str) -> None:
    """importd replaces the tree of a machine that runs, and leaves ruins. Raises CommandError.

    Where nobody can say whether it runs, importd's own rules are all there is.
    """
    if not context.options.force or not local:
        return
    try:
        bus.call(MACHINE1, "GetMachine", "s", local, reply="o")
    except BusError:
        return
    raise CommandError(
        f"Could not replace image '{local}': the machine '{local}' runs, and would lose its files.",
        f"'machinectl poweroff {local}' ends it; or choose another NAME.",
    )


def _check_whole(bus: Bus, source: Source, local: str, begun: float) -> None:
    """Raises CommandError for a copy that is not, and takes it away. Of another's nothing can be told."""
    from .transfer_verify import POOL, compare

    try:
        path, subvolumes = compare(source.fd, f"{POOL}/{local}", begun)
    except OSError:
        return
    if not path:
        for left_out in subvolumes:
            message(
                f"Not in the image: '{clean(left_out)}', a subvolume of its own, which importd leaves out."
            )
        return
    try:
        bus.call(MACHINE1, "RemoveImage", "s", local, timeout=None)
        rest = ""
    except BusError as error:
        rest = f" What is there of it could not be removed: {error.text}."
    raise CommandError(
        f"Failed importing '{clean(source.path)}' as image '{clean(local)}': '{clean(path)}' is not whole, "
        f"most likely there is no space left.{rest}",
        "'machinectl image-status' shows the pool; 'machinectl clean' and 'machinectl remove' make room.",
    )


def _warn_of_name(context: Context, local: str) -> None:
    if local and not can_be_started(local) and not context.options.quiet:
        message(
            f"A machine cannot have the name '{clean(local)}': give the image another before it is started, "
            f"with 'machinectl rename'."
        )
