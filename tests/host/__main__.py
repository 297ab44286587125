# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python3 -m tests.host`: build the trees, look around in a host, run a command in one, drop the cache."""

import argparse
import subprocess
import sys

from . import build, cache, instance, layer, recipe, terminal
from .boot import Host
from .cache import TestHostError
from .probe import why_not


def main() -> int:
    """The exit status; 77, as test programs have it, where the machine cannot boot a host."""
    arguments = _parser().parse_args()
    if (reason := why_not()) is not None:
        print(f"tests.host: no test host on this machine: {reason}", file=sys.stderr)
        return 77
    try:
        return int(arguments.verb(arguments))
    except (TestHostError, OSError, subprocess.SubprocessError) as error:
        print(f"tests.host: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.host", description="Test hosts of machined.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("build", help="fill the cache: trees, Python packages, the installed layer")
    verb.add_argument("suites", nargs="*", metavar="SUITE", default=list(recipe.SUITES))
    verb.add_argument("--plain", action="store_true", help="the trees only")
    verb.set_defaults(verb=_build)

    verb = verbs.add_parser(
        "shell", help="boot a host and open a shell in it; leaving the shell removes the host"
    )
    verb.add_argument("suite", nargs="?", choices=recipe.SUITES, default=recipe.SUITES[0])
    verb.add_argument("--plain", action="store_true", help="without machined")
    verb.add_argument("--guest", action="append", default=[], metavar="NAME", help="add a container tree")
    verb.set_defaults(verb=_shell)

    verb = verbs.add_parser("run", help="boot a host, run a command in it and remove it")
    verb.add_argument("suite", choices=recipe.SUITES)
    verb.add_argument("--plain", action="store_true", help="without machined")
    verb.add_argument("--guest", action="append", default=[], metavar="NAME", help="add a container tree")
    verb.add_argument("command", nargs="+", metavar="COMMAND", help="after --")
    verb.set_defaults(verb=_run)

    verb = verbs.add_parser("clean", help="drop the cache, except what is in use")
    verb.set_defaults(verb=_clean)
    return parser


def _host(arguments: argparse.Namespace) -> Host:
    host = Host(arguments.suite) if arguments.plain else layer.machined_host(arguments.suite)
    for name in arguments.guest:
        host.add_guest(name)
    return host


def _build(arguments: argparse.Namespace) -> int:
    for suite in arguments.suites:
        build.ensure(suite)
        if not arguments.plain:
            layer.with_machined(suite)
    return 0


def _shell(arguments: argparse.Namespace) -> int:
    if not sys.stdin.isatty():
        raise TestHostError("'shell' wants a terminal; there is 'run' for a command")
    with _host(arguments) as host:
        host.boot()
        cache.say(f"this is a {arguments.suite} host of your own; it is removed when you leave the shell")
        # As a service: what is run from the shell is in a unit then, as it would be after a login.
        return terminal.interact(host, ["systemd-run", "--quiet", "--collect", "--pty", "--", "bash", "-l"])


def _run(arguments: argparse.Namespace) -> int:
    with _host(arguments) as host:
        host.boot()
        with host.popen(arguments.command, stdin=None, stdout=None, stderr=None) as process:
            return process.wait()


def _clean(arguments: argparse.Namespace) -> int:
    in_use = instance.leftovers()
    for name in ("trees", "layers", "wheels", "images", "mirrors"):
        cache.prune(list(cache.directory(name).iterdir()))
    cache.empty_trash()
    if in_use:
        raise TestHostError(f"hosts are running, and what they use was kept: {', '.join(in_use)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
