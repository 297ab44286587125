# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong, and the sentences a person reads about it."""

from __future__ import annotations

DRIVER = "org.freedesktop.DBus"
MACHINED = "org.freedesktop.machine1"

# A method, interface or object of our own that the manager on the bus (systemd's) does not have.
_NOT_THERE = frozenset(
    f"org.freedesktop.DBus.Error.{name}" for name in ("UnknownMethod", "UnknownInterface", "UnknownObject")
)
_DENIED = frozenset(
    (
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
        "org.freedesktop.DBus.Error.AuthFailed",
    )
)


class CommandError(Exception):
    """The command failed: a sentence (what, which name, why), a hint (what to do next), an exit status."""

    def __init__(self, message: str, hint: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status


class BusError(Exception):
    """An error reply, or none in time. `destination` was asked, `sender` answered ("" = nobody)."""

    def __init__(self, name: str, text: str, destination: str = "", sender: str = "") -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text or name
        self.destination = destination
        self.sender = sender

    @property
    def not_there(self) -> bool:
        """The peer runs but does not know our interface: it is systemd's own manager.

        A bus policy that has no word about our interface refuses the call in the peer's place.
        """
        return self.name in _NOT_THERE or (self.sender == DRIVER and self.name.endswith(".AccessDenied"))

    @property
    def denied(self) -> bool:
        return self.name in _DENIED

    @property
    def left(self) -> bool:
        """Who was asked has left the bus without an answer: killed, or replaced by a newer version.

        Nobody knows whether it has done what it was asked for.
        """
        return self.sender == DRIVER and self.name.endswith(".NoReply")

    @property
    def not_running(self) -> bool:
        """Nobody answers for the name: not started, not startable, or gone while we waited."""
        if self.not_there or self.denied:
            return False
        return self.sender in ("", DRIVER)


def explain(error: BusError, what: str, verb: str = "VERB", *, asking: bool = True) -> CommandError:
    """The sentence for an error reply; `what` says what was tried ("Could not kill machine 'x'").

    `asking`: polkit was allowed to ask for a password.
    """
    if error.not_running and error.destination == MACHINED:
        return CommandError(
            f"{what}: the machine manager ({MACHINED}) is not running: {error.text}",
            "Start it with 'systemctl start systemd-machined.service'; "
            "'systemctl status systemd-machined.service' tells why it does not run.",
        )
    if error.denied:
        hint = f"This needs administrator rights: try 'sudo machinectl {verb} …'"
        if not asking:
            hint += ", or leave out --no-ask-password"
        elif not error.name.endswith(".AccessDenied"):
            hint += ", or run it from a login session, where polkit can ask for a password"
        return CommandError(f"{what}: {error.text.rstrip('.')}.", hint + ".")
    return CommandError(f"{what}: {error.text}", _hint(error))


def _hint(error: BusError) -> str:
    kind = error.name.rpartition(".")[2]
    if kind == "FileNotFound" and "system bus in container" in error.text:
        return (
            "A login or a shell is started by the guest's own systemd, over its D-Bus: the guest needs the "
            "package 'dbus', and must be far enough in its boot: see 'machinectl status NAME'."
        )
    if kind == "NoSuchMachine":
        return "'machinectl list' shows the machines that run."
    if kind == "NoSuchImage":
        return "'machinectl list-images' shows the images there are."
    return ""
