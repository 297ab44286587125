# SPDX-License-Identifier: LGPL-2.1-or-later
"""`bind-volume` and `unbind-volume`: volumes of storage providers (systemd 262) in virtual machines."""

from __future__ import annotations

import os
from typing import Any

from . import quantities
from .bus import ASKING_TIMEOUT
from .context import Context
from .control import INSTANCE, address_of, reason, runtime_directory
from .errors import CommandError
from .varlink import Connection, VarlinkError

PROVIDERS = "systemd/io.systemd.StorageProvider"
CREATE_MODES = ("any", "new", "open")
TYPES = ("blk", "reg", "dir")
_FORM = "PROVIDER:VOLUME[:CONFIG][:KEY=VALUE,…]"
_KEYS = "template, create, read-only, size, request-as"


class Volume:
    """What is asked of a provider, and the machine's own word for how to attach it."""

    __slots__ = ("config", "name", "parameters", "provider")

    def __init__(self, provider: str, name: str, config: str, parameters: dict[str, Any]) -> None:
        self.provider = provider
        self.name = name
        self.config = config
        self.parameters = parameters


def bind_volume(context: Context, arguments: list[str]) -> int:
    machine, spec = arguments
    _check_local(context)
    volume = parse(spec)
    context.start_agent()
    # The machine first: a provider may make the volume, and nobody would want it.
    address = address_of(context, machine)
    name = f"{volume.provider}:{volume.name}"
    try:
        with Connection(address) as connection:
            fd = _acquire(context, volume)
            try:
                parameters: dict[str, Any] = {"fileDescriptorIndex": 0, "name": name}
                if volume.config:
                    parameters["config"] = volume.config
                connection.call(f"{INSTANCE}.AddStorage", parameters, fds=(fd,))
            finally:
                os.close(fd)
    except VarlinkError as error:
        raise CommandError(f"Machine '{machine}' does not take volume '{name}': {_words(error)}") from error
    except OSError as error:
        raise CommandError(f"Failed to reach machine '{machine}' at '{address}': {reason(error)}") from error
    return 0


def unbind_volume(context: Context, arguments: list[str]) -> int:
    machine, name = arguments
    _check_local(context)
    provider, _, volume = name.partition(":")
    if not _is_provider(provider) or not _is_volume(volume):
        raise CommandError(f"Invalid unbind-volume name '{name}', expected '<provider>:<volume>'.")
    context.start_agent()
    address = address_of(context, machine)
    try:
        with Connection(address) as connection:
            connection.call(f"{INSTANCE}.RemoveStorage", {"name": name})
    except VarlinkError as error:
        raise CommandError(
            f"Machine '{machine}' does not let go of volume '{name}': {_words(error)}"
        ) from error
    except OSError as error:
        raise CommandError(f"Failed to reach machine '{machine}' at '{address}': {reason(error)}") from error
    return 0


def parse(spec: str) -> Volume:
    """PROVIDER:VOLUME[:CONFIG][:KEY=VALUE,…], a backslash before a ':' that is meant.

    Raises CommandError.
    """
    fields = _split(spec)
    if len(fields) < 2 or not _is_provider(fields[0]) or not _is_volume(fields[1]):
        raise CommandError(f"Failed to parse bind-volume argument '{spec}': it is not {_FORM}.")
    parameters: dict[str, Any] = {}
    for setting in filter(None, ":".join(fields[3:]).split(",")):
        key, equals, value = setting.partition("=")
        name, parsed = _parameter(spec, key, value) if equals else ("", None)
        if not name or name in parameters:
            raise CommandError(
                f"Failed to parse bind-volume argument '{spec}': '{setting}' is unknown, or there twice.",
                f"The keys are {_KEYS}.",
            )
        parameters[name] = parsed
    # "auto" is what the provider does when it is not told.
    if parameters.get("readOnly", True) is None:
        del parameters["readOnly"]
    return Volume(fields[0], fields[1], fields[2] if len(fields) > 2 else "", parameters)


def _parameter(spec: str, key: str, value: str) -> tuple[str, object]:
    """(name, value) of a parameter of Acquire(); ("", None) for a key that is none."""
    if key == "template":
        if not _is_volume(value):
            raise CommandError(f"Failed to parse bind-volume argument '{spec}': no template '{value}'.")
        return "template", value
    if key in ("read-only", "ro"):
        return "readOnly", None if value == "auto" else quantities.boolean(value)
    if key in ("size", "create-size"):
        return "createSizeBytes", quantities.size(value)
    for known, name, words in (("create", "createMode", CREATE_MODES), ("request-as", "requestAs", TYPES)):
        if key == known:
            if value not in words:
                raise CommandError(
                    f"Failed to parse bind-volume argument '{spec}': '{key}' cannot be '{value}'.",
                    f"It can be {', '.join(words)}.",
                )
            return name, value
    return "", None


def _split(spec: str) -> list[str]:
    """The first three fields without their backslashes, then the settings as they are."""
    fields, field, escaped = [], "", False
    for index, char in enumerate(spec):
        if escaped:
            field, escaped = field + char, False
        elif char == "\\":
            escaped = True
        elif char == ":":
            fields.append(field)
            field = ""
            if len(fields) == 3:
                return [*fields, spec[index + 1 :]]
        else:
            field += char
    return [*fields, field]


def _is_provider(name: str) -> bool:
    """It becomes a file name."""
    return 0 < len(name) <= 255 and name not in (".", "..") and "/" not in name and name.isprintable()


def _is_volume(name: str) -> bool:
    return bool(name) and name.isprintable()


def _check_local(context: Context) -> None:
    if not context.local or context.options.machine:
        raise CommandError(f"{context.verb.name} is only supported on the local transport.")


def _acquire(context: Context, volume: Volume) -> int:
    """A descriptor of the volume, the caller's to close. Raises CommandError."""
    path = f"{runtime_directory(user=context.options.user)}/{PROVIDERS}/{volume.provider}"
    what = f"Failed to acquire storage volume '{volume.provider}:{volume.name}' from provider"
    asking = context.options.ask_password
    parameters = {"name": volume.name, **volume.parameters, "allowInteractiveAuthentication": asking}
    try:
        with Connection(path) as provider:
            reply = provider.call("io.systemd.StorageProvider.Acquire", parameters, timeout=ASKING_TIMEOUT)
            return provider.take_fd(reply.get("fileDescriptorIndex"))
    except VarlinkError as error:
        raise CommandError(f"{what}: {_words(error)}") from error
    except FileNotFoundError as error:
        raise CommandError(
            f"{what}: there is no provider '{volume.provider}'.", "'storagectl' lists those there are."
        ) from error
    except OSError as error:
        raise CommandError(f"{what}: {reason(error)}") from error


def _words(error: VarlinkError) -> str:
    kind = error.name.rpartition(".")[2]
    return {
        "StorageExists": f"it has it already ({error.name})",
        "NoSuchStorage": f"it does not have it ({error.name})",
        "StorageImmutable": f"it was there from the start and stays ({error.name})",
    }.get(kind, error.name)
