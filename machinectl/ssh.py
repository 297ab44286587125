# SPDX-License-Identifier: LGPL-2.1-or-later
"""`ssh`: OpenSSH's client, led to a machine by the shortest way that there is.

A guest with systemd 256 or newer and an sshd listens at a socket that systemd-nspawn shows to the host
(systemd-ssh-generator(8)); virtual machines are registered with an address. Nobody else can be at these, so
no key of the host is asked for. Else it is the network, and ssh's own rules hold.
"""

from __future__ import annotations

import os
import stat
import sys

from .bus import MACHINE1
from .context import Context
from .errors import BusError, CommandError
from .list_machines import address_texts
from .show import machine_properties

# Where systemd-nspawn shows a guest's sockets; the second since systemd 262.
EXPORTS = ("/run/systemd/nspawn/unix-export/{}/ssh", "/run/systemd/nspawn/{}/unix-export/ssh")
PROXY = "/usr/lib/systemd/systemd-ssh-proxy"
# Who listens there is sure.
_TRUSTED = (
    "ProxyUseFdpass=yes", "CheckHostIP=no", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
    "LogLevel=ERROR",
)  # fmt: skip


def ssh(context: Context, arguments: list[str]) -> int:
    """Becomes ssh, whose exit status it is: that of the command, 255 when it does not get there."""
    options = context.options
    if options.host:
        raise CommandError("'ssh' is for local machines; say 'ssh HOST machinectl ssh NAME' for others.")
    user, _, name = arguments[0].rpartition("@")
    argv = ["ssh", *_way(context, name), *(["-l", user or options.uid] if user or options.uid else [])]
    # The name of the machine stands where ssh wants the host's, which it is called by in its messages.
    argv += ["--", name, *arguments[1:]]
    context.end_agent()
    sys.stdout.flush()
    try:
        os.execvp("ssh", argv)
    except FileNotFoundError:
        raise CommandError("There is no 'ssh' on this host.", "Install openssh-client.") from None


def _way(context: Context, name: str) -> list[str]:
    """Options of ssh. Raises CommandError."""
    bus = context.bus()
    properties = machine_properties(context, bus, name)
    address, key = (str(properties.get(word, ("s", ""))[1]) for word in ("SSHAddress", "SSHPrivateKeyPath"))
    addresses: list[tuple[int, bytes]] = []
    if not address:
        paths = [path.format(name) for path in EXPORTS]
        address = next((f"unix{path}" for path in paths if _is_socket(path)), "")
    if not address:
        try:
            addresses = bus.call(MACHINE1, "GetMachineAddresses", "s", name, reply="a(iay)")
        except BusError as error:
            raise context.failure(error, f"Could not find a way to machine '{name}'") from error
    identity = ["-o", f"IdentityFile={key}", "-o", "IdentitiesOnly=yes"] if key else []
    if address:
        words = [f"ProxyCommand={PROXY} {_quoted(address)} %p", *_TRUSTED]
        return [*identity, *(part for word in words for part in ("-o", word))]
    for text in address_texts(addresses)[:1]:
        return [*identity, "-o", f"HostName={text}"]
    raise CommandError(
        f"Machine '{name}' is not to be reached over SSH: it has neither a socket nor an address.",
        "Install openssh-server in it (and systemd 256 or newer), or use 'machinectl shell'.",
    )


def _is_socket(path: str) -> bool:
    """Not what a link of the guest's leads to (which its mount does not follow either, "nosymfollow")."""
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _quoted(address: str) -> str:
    """For the shell that ssh runs its proxy by; a percent sign is ssh's own."""
    return "'" + address.replace("'", "'\\''").replace("%", "%%") + "'"
