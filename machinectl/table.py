# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one table of verbs and the one table of options.

The parser, --help, the suggestions and the shell completions all come from here: a new verb is a row here
and a function in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from . import values


class Option:
    """One option. `metavar` empty: it takes no argument and sets `field` to `const`."""

    __slots__ = ("also", "complete", "const", "field", "help", "long", "metavar", "parse", "short")

    def __init__(
        self, long: str, short: str, metavar: str, field: str, text: str, *,
        const: object = True, parse: Callable[[str], object] = values.text, also: str = "",
        complete: str = "",
    ) -> None:  # fmt: skip
        self.long = long
        self.short = short
        self.metavar = metavar
        self.field = field
        self.help = text
        self.const = const
        self.parse = parse
        self.also = also  # a second field, set to True
        self.complete = complete  # what its argument is: words, or a kind that completions.py knows


class Verb:
    """One verb. `function`: "module:function", imported when it runs, called with (Context, arguments)."""

    __slots__ = (
        "aliases", "arguments", "complete", "function", "group", "maximum", "minimum", "name", "options",
        "program", "summary",
    )  # fmt: skip

    def __init__(
        self, name: str, arguments: str, minimum: int, maximum: int, summary: str, function: str, *,
        group: str = "Machine", aliases: tuple[str, ...] = (), options: str = "", complete: str = "",
        program: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self.arguments = arguments
        self.minimum = minimum
        self.maximum = maximum
        self.summary = summary
        self.function = function
        self.group = group
        self.aliases = aliases
        self.options = options.split()  # beside those every verb takes
        self.complete = complete
        self.program = program  # what follows the first argument belongs to a program


ANY = 2**31

# The order of the first rows decides which of two equally near verbs is suggested for a mistyped one.
VERBS = (
    Verb("list", "", 0, 0, "List running VMs and containers", "list_machines:list_machines",
         options="all full output max-addresses no-legend no-pager json"),
    Verb("list-images", "", 0, 0, "Show available container and VM images", "list_images:list_images",
         group="Image", options="all full output no-legend no-pager json"),
    Verb("status", "NAME…", 1, ANY, "Show VM/container details", "status:status",
         options="lines output full no-pager", complete="machines"),
    Verb("show", "[NAME…]", 0, ANY, "Show properties of one or more VMs/containers, or of the manager",
         "show:show", options="property value all no-pager", complete="machines"),
    Verb("start", "NAME…", 1, ANY, "Start container as a service", "power:start",
         options="no-block timeout quiet", complete="images"),
    Verb("terminate", "NAME…", 1, ANY, "Terminate one or more VMs/containers", "power:terminate",
         complete="machines"),
    Verb("reboot", "NAME…", 1, ANY, "Reboot one or more containers", "power:reboot", aliases=("restart",),
         options="no-block timeout", complete="machines"),
    Verb("poweroff", "NAME…", 1, ANY, "Power off one or more containers", "power:poweroff",
         aliases=("stop",), options="no-block timeout", complete="machines"),
    Verb("kill", "NAME…", 1, ANY, "Send signal to processes of a VM/container", "power:kill",
         options="signal kill-whom", complete="machines"),
    Verb("login", "[NAME]", 0, 1, "Get a login prompt in a container or on the local host", "session:login",
         options="quiet", complete="machines"),
    Verb("shell", "[[USER@]NAME [COMMAND…]]", 0, ANY,
         "Invoke a shell (or other command) in a container or on the local host", "session:shell",
         options="uid setenv quiet", complete="users", program=True),
    Verb("enable", "NAME…", 1, ANY, "Enable automatic container start at boot", "autostart:enable",
         options="now no-block timeout quiet", complete="images"),
    Verb("disable", "NAME…", 1, ANY, "Disable automatic container start at boot", "autostart:disable",
         options="now no-block timeout quiet", complete="images"),
    Verb("wait", "NAME…", 1, ANY, "Wait until machines run, or are in another state", "wait:wait",
         options="for timeout quiet", complete="images"),
    Verb("help", "[VERB]", 0, 1, "Show this help, or that of one verb", "helptext:help_verb", group="Other",
         complete="verbs"),
)  # fmt: skip

COMMON = ("help", "version", "no-ask-password", "host", "machine")
"""Options every verb takes."""

OPTIONS = (
    Option("help", "h", "", "help", "Show this help"),
    Option("version", "", "", "version", "Show package version"),
    Option("no-pager", "", "", "pager", "Do not pipe output into a pager", const=False),
    Option("no-legend", "", "", "legend", "Do not show the headers and footers", const=False),
    Option("no-ask-password", "", "", "ask_password", "Do not ask for system passwords", const=False),
    Option("host", "H", "[USER@]HOST", "host", "Operate on remote host"),
    Option("machine", "M", "CONTAINER", "machine", "Operate on local container", parse=values.machine,
           complete="machines"),
    Option("property", "p", "NAME", "properties", "Show only properties by this name"),
    Option("value", "", "", "value", "When showing properties, only print the value"),
    Option("", "P", "NAME", "properties", "Equivalent to --value --property=NAME", also="value"),
    Option("quiet", "q", "", "quiet", "Suppress output"),
    Option("all", "a", "", "all", "Show all properties, including empty ones, or hidden ones"),
    Option("full", "l", "", "full", "Do not ellipsize output"),
    Option("kill-whom", "", "WHOM", "kill_whom", "Whom to send signal to (leader, all)",
           complete="leader all"),
    Option("signal", "s", "SIGNAL", "signal", "Which signal to send ('list' shows all)",
           parse=values.signal_name, complete="signals"),
    Option("uid", "", "USER", "uid", "Specify user ID to invoke shell as"),
    Option("setenv", "E", "VAR[=VALUE]", "setenv", "Add an environment variable for shell",
           parse=values.assignment),
    Option("lines", "n", "INTEGER", "lines", "Number of journal entries to show", parse=values.lines),
    Option("max-addresses", "", "INTEGER", "max_addresses", "Number of internet addresses to show at most",
           parse=values.max_addresses, complete="all"),
    Option("output", "o", "STRING", "output", "Change journal output mode ('help' shows all)",
           parse=values.output, complete=" ".join(values.OUTPUT_MODES)),
    Option("json", "", "", "output", "Short for --output=json", const="json"),
    Option("now", "", "", "now", "Start or power off container after enabling or disabling it"),
    Option("no-block", "", "", "block", "Do not wait until the operation is done", const=False),
    Option("timeout", "", "SEC", "timeout", "How long to wait ('90', '1min 30s')", parse=values.seconds),
    Option("for", "", "STATE", "condition", "State to wait for (running, stopped, …)",
           complete="running stopped starting degraded stopping failed"),
    Option("completion", "", "SHELL", "completion", ""),
)  # fmt: skip


class Options:
    """The values given on the command line; the class attributes are the defaults."""

    help = False
    version = False
    pager = True
    legend = True
    ask_password = True
    host = ""
    machine = ""
    value = False
    quiet = False
    all = False
    full = False
    kill_whom = ""
    signal = ""
    uid = ""
    lines = 10
    max_addresses = 1
    output = "short"
    now = False
    block = True
    timeout = 0.0  # 0 = not given
    condition = "running"
    completion = ""

    def __init__(self) -> None:
        self.properties: list[str] = []
        self.setenv: list[str] = []

    @property
    def json(self) -> bool:
        return self.output.startswith("json")


def find_verb(word: str) -> Verb | None:
    return next((verb for verb in VERBS if word == verb.name or word in verb.aliases), None)
