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

    __slots__ = (
        "also", "complete", "const", "field", "help", "long", "metavar", "own", "parse", "short",
    )  # fmt: skip

    def __init__(
        self, long: str, short: str, metavar: str, field: str, text: str, *,
        const: object = True, parse: Callable[[str], object] = values.text, also: str = "",
        complete: str = "", own: bool = False,
    ) -> None:  # fmt: skip
        self.own = own  # not of systemd's client: what may abbreviate one of that means that
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
    Verb("status", "NAME…", 1, ANY, "Show VM/container details", "status:status",
         options="lines output full no-pager", complete="machines"),
    Verb("show", "[NAME…]", 0, ANY, "Show properties of one or more VMs/containers, or of the manager",
         "show:show", options="property value all no-pager", complete="machines"),
    Verb("start", "NAME…", 1, ANY, "Start container as a service", "power:start",
         options="ephemeral as set no-block timeout runner quiet", complete="images"),
    Verb("terminate", "NAME…", 1, ANY, "Terminate one or more VMs/containers", "power:terminate",
         complete="machines"),
    Verb("reboot", "NAME…", 1, ANY, "Reboot one or more machines", "power:reboot", aliases=("restart",),
         options="no-block timeout", complete="machines"),
    Verb("poweroff", "NAME…", 1, ANY, "Power off one or more machines", "power:poweroff",
         aliases=("stop",), options="no-block timeout", complete="machines"),
    Verb("pause", "NAME…", 1, ANY, "Pause one or more virtual machines", "control:pause",
         complete="machines"),
    Verb("resume", "NAME…", 1, ANY, "Resume one or more paused virtual machines", "control:resume",
         complete="machines"),
    Verb("kill", "NAME…", 1, ANY, "Send signal to processes of a VM/container", "power:kill",
         options="signal kill-whom", complete="machines"),
    Verb("login", "[NAME]", 0, 1, "Get a login prompt in a container or on the local host", "session:login",
         options="quiet", complete="machines"),
    Verb("shell", "[[USER@]NAME [COMMAND…]]", 0, ANY,
         "Invoke a shell (or other command) in a container or on the local host", "session:shell",
         options="uid setenv quiet", complete="users", program=True),
    Verb("ssh", "[USER@]NAME [COMMAND…]", 1, ANY, "Log in to a machine, or run a command, over SSH",
         "ssh:ssh", options="uid", complete="users", program=True),
    Verb("enable", "NAME…", 1, ANY, "Enable automatic container start at boot", "autostart:enable",
         options="now no-block timeout runner quiet", complete="images"),
    Verb("disable", "NAME…", 1, ANY, "Disable automatic container start at boot", "autostart:disable",
         options="now no-block timeout runner quiet", complete="images"),
    Verb("wait", "NAME…", 1, ANY, "Wait until machines run, or are in another state", "wait:wait",
         options="for timeout quiet", complete="images"),
    Verb("top", "[NAME…]", 0, ANY, "Show what machines use, again and again", "top:top",
         options="delay iterations order output json full no-legend", complete="machines"),
    Verb("set-property", "NAME PROPERTY=VALUE…", 2, ANY, "Set limits of a machine, at once and for good",
         "properties:set_property", options="runtime quiet", complete="limits"),
    Verb("publish", "NAME PORT…", 2, ANY, "Have ports of the host lead to a machine ('tcp:8080:80')",
         "ports:publish", options="quiet", complete="machines"),
    Verb("unpublish", "NAME PORT…", 2, ANY, "Take published ports back", "ports:unpublish",
         complete="machines"),
    Verb("ports", "[NAME…]", 0, ANY, "List published ports", "ports:ports",
         options="full output no-legend no-pager json", complete="machines"),
    Verb("network", "", 0, 0, "Show the managed network, and what is in its way", "ports:network",
         options="output json"),
    Verb("copy-to", "NAME PATH [PATH]", 2, 3, "Copy files from the host to a container", "files:copy_to",
         options="force", complete="machines"),
    Verb("copy-from", "NAME PATH [PATH]", 2, 3, "Copy files from a container to the host",
         "files:copy_from", options="force", complete="machines"),
    Verb("bind", "NAME PATH [PATH]", 2, 3, "Bind mount a path from the host into a container", "files:bind",
         options="read-only mkdir", complete="machines"),
    Verb("bind-volume", "NAME PROVIDER:VOLUME[:…]", 2, 2, "Attach a volume to a running virtual machine",
         "volumes:bind_volume", complete="machines"),
    Verb("unbind-volume", "NAME PROVIDER:VOLUME", 2, 2, "Detach a volume from a running virtual machine",
         "volumes:unbind_volume", complete="machines"),
    Verb("list-images", "", 0, 0, "Show available container and VM images", "list_images:list_images",
         group="Image", options="all full output no-legend no-pager json"),
    Verb("image-status", "[NAME…]", 0, ANY, "Show image details, or those of the pool",
         "image_status:image_status", group="Image", options="no-pager", complete="images"),
    Verb("show-image", "[NAME…]", 0, ANY, "Show properties of one or more images, or of the manager",
         "image_status:show_image", group="Image", options="property value all no-pager", complete="images"),
    Verb("edit", "NAME|FILE…", 1, ANY, "Edit settings of one or more containers", "settings:edit",
         group="Image", options="own", complete="images"),
    Verb("cat", "NAME|FILE…", 1, ANY, "Show settings of one or more containers", "settings:cat",
         group="Image", options="own no-pager", complete="images"),
    Verb("clone", "NAME NAME", 2, 2, "Clone an image", "images:clone", group="Image",
         options="read-only copy layer quiet", complete="images"),
    Verb("flatten", "NAME…", 1, ANY, "Make plain trees of layered images", "images:flatten", group="Image",
         complete="images"),
    Verb("chown", "NAME", 1, 1, "Give the files of an image back to unshifted users, or to others",
         "images:chown", group="Image", options="shift quiet", complete="images"),
    Verb("rename", "NAME NAME", 2, 2, "Rename an image", "images:rename", group="Image", complete="images"),
    Verb("read-only", "NAME [BOOL]", 1, 2, "Mark or unmark image read-only", "images:read_only",
         group="Image", complete="images"),
    Verb("remove", "NAME…", 1, ANY, "Remove an image", "images:remove", group="Image",
         options="purge quiet", complete="images"),
    Verb("set-limit", "[NAME] BYTES", 1, 2, "Set image or pool size limit (disk quota)", "images:set_limit",
         group="Image", complete="images"),
    Verb("create", "NAME", 0, 1, "Make a new machine, from packages, an archive, a directory or an image",
         "create:create", group="Image",
         options="from template check start root-password root-password-file hostname locale timezone "
         "ssh-key quiet"),
    Verb("check-image", "NAME…", 1, ANY, "Check whether images can be booted and logged in to",
         "create:check_image", group="Image", options="full output no-legend no-pager json",
         complete="images"),
    Verb("clean", "", 0, 0, "Remove hidden (or all) images", "images:clean", group="Image",
         options="all quiet"),
    Verb("pool", "[status|create|grow BYTES|remove]", 0, 2, "Show the pool of images, or keep it in a file",
         "pool:pool", group="Image", options="size output json quiet", complete="status create grow remove"),
    Verb("explain", "NAME", 1, 1, "Show settings, where they come from, and what becomes of them",
         "explain:explain", group="Settings", options="set ephemeral as full output no-legend no-pager json",
         complete="images"),
    Verb("check", "[NAME…]", 0, ANY, "Check the settings of machines, of all without a name",
         "explain:check", group="Settings", options="output json", complete="images"),
    Verb("set", "NAME [SECTION.]KEY=VALUE…", 2, ANY, "Change settings for the starts to come",
         "configure:set_settings", group="Settings", options="runtime quiet", complete="settings"),
    Verb("apply", "", 0, 0, "Have machines as a document in TOML or JSON says", "configure:apply",
         group="Settings", options="file dry-run diff force quiet output json"),
    Verb("profiles", "", 0, 0, "Show the profiles that settings may name", "explain:profiles",
         group="Settings", options="full output no-legend no-pager json"),
    Verb("pull-tar", "URL [NAME]", 1, 2, "Download a TAR container image", "transfers:pull",
         group="Transfer", options="verify force read-only quiet output json"),
    Verb("pull-raw", "URL [NAME]", 1, 2, "Download a RAW container or VM image", "transfers:pull",
         group="Transfer", options="verify force read-only quiet output json"),
    Verb("pull-oci", "REF [NAME]", 1, 2, "Download an OCI container image", "transfers:pull",
         group="Transfer", options="force read-only quiet output json"),
    Verb("import-tar", "FILE [NAME]", 1, 2, "Import a local TAR container image", "transfers:import_image",
         group="Transfer", options="force read-only quiet output json"),
    Verb("import-raw", "FILE [NAME]", 1, 2, "Import a local RAW container or VM image",
         "transfers:import_image", group="Transfer", options="force read-only quiet output json"),
    Verb("import-fs", "DIRECTORY [NAME]", 1, 2, "Import a local directory container image",
         "transfers:import_image", group="Transfer", options="force read-only quiet output json"),
    Verb("export-tar", "NAME [FILE]", 1, 2, "Export a TAR container image locally", "transfers:export",
         group="Transfer", options="format force quiet output json", complete="images"),
    Verb("export-raw", "NAME [FILE]", 1, 2, "Export a RAW container or VM image locally", "transfers:export",
         group="Transfer", options="format force quiet output json", complete="images"),
    Verb("list-transfers", "", 0, 0, "Show a list of downloads in progress", "transfer_list:list_transfers",
         group="Transfer", options="output no-legend no-pager json"),
    Verb("cancel-transfer", "ID…", 1, ANY, "Cancel a download", "transfer_list:cancel_transfer",
         group="Transfer"),
    Verb("help", "[VERB]", 0, 1, "Show this help, or that of one verb", "helptext:help_verb", group="Other",
         complete="verbs"),
)  # fmt: skip

COMMON = ("help", "version", "no-ask-password", "host", "machine", "system", "user")
"""Options every verb takes."""

OPTIONS = (
    Option("help", "h", "", "help", "Show this help"),
    Option("version", "", "", "version", "Show package version"),
    Option("no-pager", "", "", "pager", "Do not pipe output into a pager", const=False),
    Option("no-legend", "", "", "legend", "Do not show the headers and footers", const=False),
    Option("no-ask-password", "", "", "ask_password", "Do not ask for system passwords", const=False),
    Option("host", "H", "[USER@]HOST", "host", "Operate on remote host", parse=values.host),
    Option("machine", "M", "CONTAINER", "machine", "Operate on local container", parse=values.machine,
           complete="machines"),
    Option("system", "", "", "user", "Connect to the system's machine manager", const=False),
    Option("user", "", "", "user", "Connect to the user's machine manager"),
    Option("property", "p", "NAME", "properties", "Show only properties by this name"),
    Option("value", "", "", "value", "When showing properties, only print the value"),
    Option("", "P", "NAME", "properties", "Equivalent to --value --property=NAME", also="value"),
    Option("quiet", "q", "", "quiet", "Suppress output"),
    Option("all", "a", "", "all", "Show all properties, including empty ones, or hidden ones"),
    Option("full", "l", "", "full", "Do not ellipsize output"),
    Option("kill-whom", "", "WHOM", "kill_whom", "Whom to send signal to (leader, supervisor, all)",
           complete="leader supervisor all"),
    Option("signal", "s", "SIGNAL", "signal", "Which signal to send ('list' shows all)",
           parse=values.signal_name, complete="signals"),
    Option("uid", "", "USER", "uid", "Specify user ID to invoke shell as"),
    Option("setenv", "E", "VAR[=VALUE]", "setenv", "Add an environment variable for shell",
           parse=values.assignment),
    Option("runtime", "", "", "runtime", "Change it until the host goes down only", own=True),
    Option("read-only", "", "", "read_only", "Create read-only bind mount, clone or image"),
    Option("copy", "", "", "clone_mode", "Clone by copying everything", const="copy", own=True),
    Option("layer", "", "", "clone_mode", "Clone as a layer over the image", const="layer", own=True),
    Option("shift", "", "BASE", "shift", "First user of the range that files are given to (0)",
           parse=values.shift, own=True),
    Option("purge", "", "", "purge", "Remove the administrator's settings as well", own=True),
    Option("ephemeral", "x", "", "ephemeral", "Start so that nothing the machine writes is kept", own=True),
    Option("as", "", "NAME", "names", "Start the image under this name, and keep nothing", own=True),
    Option("mkdir", "", "", "mkdir", "Create directory before bind mounting, if missing"),
    Option("force", "", "", "force", "Replace target file or image, if necessary"),
    Option("lines", "n", "INTEGER", "lines", "Number of journal entries to show", parse=values.lines),
    Option("max-addresses", "", "INTEGER", "max_addresses", "Number of internet addresses to show at most",
           parse=values.max_addresses, complete="all"),
    Option("output", "o", "STRING", "output", "Change journal output mode ('help' shows all)",
           parse=values.output, complete=" ".join(values.OUTPUT_MODES)),
    Option("json", "", "", "output", "Short for --output=json", const="json"),
    Option("now", "", "", "now", "Start or power off container after enabling or disabling it"),
    Option("runner", "", "RUNNER", "runner", "Run the machine by 'nspawn' or 'vmspawn'",
           parse=values.runner, complete=" ".join(values.RUNNERS)),
    Option("", "V", "", "runner", "Short for --runner=vmspawn", const="vmspawn"),
    Option("verify", "", "MODE", "verify", "How to verify downloads ('help' shows all)",
           parse=values.verify, complete=" ".join(values.VERIFY_MODES)),
    Option("format", "", "FORMAT", "format", "How to compress what is exported",
           parse=values.compression, complete=" ".join(values.FORMATS)),
    Option("size", "", "BYTES", "size", "Size of the pool that is created ('512M', '1.5G')"),
    Option("no-block", "", "", "block", "Do not wait until the operation is done", const=False),
    Option("timeout", "", "SEC", "timeout", "How long to wait ('90', '1min 30s')", parse=values.seconds),
    Option("for", "", "STATE", "condition", "State to wait for (running, stopped, …)",
           complete="running stopped starting degraded stopping failed"),
    Option("from", "", "BUILDER:…", "source", "What to create from ('help' lists the builders)", own=True),
    Option("template", "", "IMAGE", "template", "Create as a clone of this image", complete="images",
           own=True),
    Option("check", "", "BOOL", "check", "Whether what is created must be bootable", complete="yes no",
           own=True),
    Option("start", "", "", "start_after", "Start what was created", own=True),
    Option("root-password", "", "", "root_password", "Ask for the password of root", own=True),
    Option("root-password-file", "", "FILE", "root_password_file", "Read it from a file, '-' is stdin",
           own=True),
    Option("hostname", "", "NAME", "hostname", "How a created machine is called inside", own=True),
    Option("locale", "", "LOCALE", "locale", "Its language (de_DE.UTF-8)", own=True),
    Option("timezone", "", "ZONE", "timezone", "Its time zone (Europe/Berlin)", own=True),
    Option("ssh-key", "", "FILE", "ssh_key", "Public keys that root may log in with over SSH", own=True),
    Option("set", "", "KEY=VALUE", "settings", "A setting that holds until the machine's end", own=True),
    Option("own", "", "", "own", "Machined's own file of the machine, NAME.conf", own=True),
    Option("file", "f", "FILE", "file", "The document, '-' is stdin", own=True),
    Option("dry-run", "", "", "dry_run", "Change nothing, tell what would be", own=True),
    Option("diff", "", "", "diff", "Show what of the files changes", own=True),
    Option("delay", "d", "SEC", "delay", "Time between two looks ('2', '500ms')",
           parse=values.delay, own=True),
    Option("iterations", "", "COUNT", "iterations", "How many looks before the end",
           parse=values.iterations, own=True),
    Option("order", "", "WORD", "order", "What comes first (cpu, memory, tasks, io, name)",
           parse=values.order, complete=" ".join(values.ORDERS), own=True),
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
    user = False
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
    read_only = False
    runtime = False
    clone_mode = "auto"
    purge = False
    shift = 0
    ephemeral = False
    source = ""
    template = ""
    check = "yes"
    start_after = False
    root_password = False
    root_password_file = ""
    hostname = ""
    locale = ""
    timezone = ""
    ssh_key = ""
    own = False
    file = ""
    dry_run = False
    diff = False
    mkdir = False
    force = False
    runner = "nspawn"
    verify = "signature"
    format = ""
    now = False
    block = True
    timeout = 0.0  # 0 = not given
    condition = "running"
    size = ""
    delay = 1.0
    iterations = 0
    order = "cpu"
    completion = ""

    def __init__(self) -> None:
        self.properties: list[str] = []
        self.setenv: list[str] = []
        self.names: list[str] = []
        self.settings: list[str] = []

    @property
    def json(self) -> bool:
        return self.output.startswith("json")


def find_verb(word: str) -> Verb | None:
    return next((verb for verb in VERBS if word == verb.name or word in verb.aliases), None)
