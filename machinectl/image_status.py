# SPDX-License-Identifier: LGPL-2.1-or-later
"""`image-status` and `show-image`: one image, or without a name the pool they are in."""

from __future__ import annotations

from .bus import MACHINE1, OURS, Bus, Call, get_all
from .context import Context
from .errors import BusError
from .names import clean
from .pager import paging
from .show import MANAGER, Properties, print_properties
from .timefmt import UINT64_MAX, relative, size, timestamp

IMAGE = "org.freedesktop.machine1.Image"


def show_image(context: Context, arguments: list[str]) -> int:
    bus = context.bus()
    with paging(context.options):
        if not arguments:
            print_properties(context, _properties(context, bus, MACHINE1.path, MANAGER))
        for number, name in enumerate(arguments):
            properties = _properties(context, bus, _path(context, bus, name), IMAGE)
            if number:
                print()
            print_properties(context, properties)
    return 0


def image_status(context: Context, arguments: list[str]) -> int:
    bus = context.bus()
    with paging(context.options):
        if not arguments:
            _print_pool(_properties(context, bus, MACHINE1.path, MANAGER))
        for number, name in enumerate(arguments):
            path = _path(context, bus, name)
            properties = _properties(context, bus, path, IMAGE)
            if number:
                print()
            _print_image(bus, name, properties)
    return 0


def _path(context: Context, bus: Bus, name: str) -> str:
    try:
        path: str = bus.call(MACHINE1, "GetImage", "s", name, reply="o")
    except BusError as error:
        raise context.failure(error, "Could not get path to image") from error
    return path


def _properties(context: Context, bus: Bus, path: str, interface: str) -> Properties:
    result: Properties | BusError = bus.call_all([get_all(MACHINE1, path, interface)])[0]
    if isinstance(result, BusError):
        raise context.failure(result, "Could not get properties")
    return result


def _print_pool(properties: Properties) -> None:
    _line("Path", _text(properties, "PoolPath"))
    for label, name in (("Usage", "PoolUsage"), ("Limit", "PoolLimit")):
        _line(label, size(_number(properties, name)))


def _print_image(bus: Bus, name: str, properties: Properties) -> None:
    print(clean(_text(properties, "Name")))
    _line("Type", _text(properties, "Type"))
    _line("Path", _text(properties, "Path"))
    # Looked up inside the image: not possible while it is in use, and silent about that, as in `list`.
    hostname, machine_id, machine_info, os_release, layers = bus.call_all(
        [
            Call(MACHINE1, "GetImageHostname", "s", name, reply="s"),
            Call(MACHINE1, "GetImageMachineID", "s", name, reply="ay"),
            Call(MACHINE1, "GetImageMachineInfo", "s", name, reply="a{ss}"),
            Call(MACHINE1, "GetImageOSRelease", "s", name, reply="a{ss}"),
            Call(OURS, "GetImageLayers", "s", name, reply="as"),
        ]
    )
    if not isinstance(hostname, BusError):
        _line("Hostname", hostname)
    if not isinstance(machine_id, BusError) and any(machine_id):
        print(f"      Machine ID: {machine_id.hex()}")
    if not isinstance(machine_info, BusError) and "DEPLOYMENT" in machine_info:
        print(f"      Deployment: {clean(machine_info['DEPLOYMENT'])}")
    if not isinstance(os_release, BusError):
        _line("OS", os_release.get("PRETTY_NAME", ""))
    for layer in () if isinstance(layers, BusError) else layers:
        _line("Layer", layer)
    _line("RO", "read-only" if properties.get("ReadOnly", ("b", False))[1] else "writable")
    for label, when in (("Created", "CreationTimestamp"), ("Modified", "ModificationTimestamp")):
        usec = _number(properties, when)
        if timestamp(usec):
            _line(label, f"{timestamp(usec)}; {relative(usec)}")
    for label in ("Usage", "Limit"):
        count, exclusive = _number(properties, label), _number(properties, f"{label}Exclusive")
        more = f" (exclusive: {size(exclusive)})" if exclusive not in (count, UINT64_MAX) else ""
        if count != UINT64_MAX:
            _line(label, size(count) + more)


def _line(label: str, text: str) -> None:
    if text:
        print(f"\t{label:>8}: {clean(text)}")


def _text(properties: Properties, name: str) -> str:
    value = properties.get(name, ("s", ""))[1]
    return value if isinstance(value, str) else ""


def _number(properties: Properties, name: str) -> int:
    value = properties.get(name, ("t", UINT64_MAX))[1]
    return value if isinstance(value, int) else UINT64_MAX
