# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reference of all settings, as Markdown, from the table that reads them.

`python3 -m machined.model.settings.reference > docs/settings.md`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from machined.model.settings.presets import PRESETS
from machined.model.settings.setting import OLDEST, Form, Setting, Trust
from machined.model.settings.table import SECTIONS, SETTINGS

_INTRODUCTION: Final = """\
# Settings of machines

<!-- Made by `python3 -m machined.model.settings.reference > docs/settings.md`:
     change the tables, not this file. -->

## Where they are written
What is said in several places adds up; of two values for one key the later of these counts:

1. what holds by default: a system is booted, users are its own (`PrivateUsers=pick`), there is a link to
   the host (`VirtualEthernet=yes`), the host's journalctl finds the journal (`LinkJournal=try-guest`);
2. NAME.nspawn beside the image, of which only what an image may say (below);
3. limits and devices in drop-ins for systemd-nspawn@.service and systemd-nspawn@NAME.service, also those
   of `systemctl set-property`; what else they say is named in the journal;
4. profiles: /etc/machined/profiles/PROFILE.conf, chosen by `[Machine] Profile=`, or those that come with
   machined (below);
5. /run/systemd/nspawn/NAME.nspawn, then /etc/systemd/nspawn/NAME.nspawn, systemd.nspawn(5);
6. /etc/machined/machines/NAME.conf, then NAME.conf.d/*.conf beside it and in /run/machined/machines, in
   the order of their names (one in /etc is instead of one in /run with its name);
7. the command line: `machinectl start NAME --set=Key=value`.

A machine that is made of an image with another name (`start IMAGE --as NAME`) has that image's settings
unless there are some under its own name.

The syntax is that of systemd.syntax(7). Keys that are *lists* add up, also over several files; an empty
value forgets what was said before. Of other keys the last value counts, and an empty one is the default.

What systemd-nspawn would pass over in a .nspawn file is passed over, with a warning in the journal. In
our own files, and on the command line, it is an error, and so is in any file what contradicts something
else: the machine is not started, and file, line and value are told.

## Limits
`machinectl set-property NAME MemoryMax=2G CPUQuota=200% …` changes limits (section [Service], and
`Slice=`) of a machine at once and for all starts to come; with `--runtime` until the host goes down. All
or nothing is changed. `Key=` takes back what was set so, or resets what another file says; `Key+=value`
adds to a list. What PID 1 cannot change of a running unit (timeouts, slice, …) is named and holds from
the next start. A drop-in for machine-NAME.service is PID 1's own, counts more, and is named.

## The network
There is a link to the host unless something else is said. `Private=no`, `VirtualEthernet=no`,
`Interface=`, `MACVLAN=`, `IPVLAN=` and `NamespacePath=` are something else, and so is `Private=yes` with
no other word (the loopback alone); an empty section, a `Port=` or a `VirtualEthernetExtra=` is not. (For
systemd-nspawn, reading a .nspawn file by itself, any word in [Network] means that there is no link
unless the file asks for it.)

## Devices
`Device=/dev/dri` gives a machine a device of the host, or all in a directory: a node that belongs to its
own root, and to the group that has the same name inside as the host's has outside; bound to where it is
outside (`Device=/dev/sda:/dev/vda`); and PID 1 lets it be opened, for reading and writing (`:r`, `:rwm`
say otherwise). `Bind=` and `DeviceAllow=` by themselves make nodes that are nobody's inside. The nodes
are below /dev/machined while the machine runs. Devices that come while it runs are not in it. A disk
image whose users are picked when it is mounted (`PrivateUsers=pick`) gets nodes for all of its users, and
no disks.

`Device=nvidia.com/gpu=all` is what a file in /etc/cdi or /run/cdi (Container Device Interface) describes
under that name: its nodes, mounts and variables are settings, which `explain` shows; its hooks are not
run, and named.

Profiles that come with machined, `machinectl set NAME Profile=gpu`; one in /etc/machined/profiles with
the same name is instead, and `machinectl explain` shows what they mean on this host:

{presets}

`x11`, `wayland`: the variables are those of the machine's init, and a booted system does not hand them on:
`machinectl shell --setenv=DISPLAY=:0 --setenv=WAYLAND_DISPLAY=/run/host/wayland-0 NAME`. An X server wants
a cookie, which `XAuthority=FILE` shows inside as /run/host/xauthority (`$XAUTHORITY`): every user inside
may draw then, and read what is typed. A Wayland display belongs to one user, and the user with the same
number may use it inside (`shell 1000@NAME`), and root. `nesting` makes
the kernel's whole interface reachable from inside. `hardened` takes what sudo and file capabilities need:
log in as who you want to be.

## All settings
"trusted": ignored in a file beside an image. "not in .nspawn": in our own files and on the command line
alone."""


def render() -> str:
    """The page."""
    lines = [_INTRODUCTION.replace("{presets}", "\n".join(_presets()))]
    lines += (line for section in SECTIONS for line in _section(section))
    return "\n".join(lines).rstrip() + "\n"


def _presets() -> Iterator[str]:
    yield "| profile | for |"
    yield "|---|---|"
    for name, preset in PRESETS.items():
        yield f"| `{name}` | {preset.help} |"


def _section(section: str) -> Iterator[str]:
    yield f"### [{section}]"
    yield ""
    yield "| key | value | what it does | |"
    yield "|---|---|---|---|"
    for setting in SETTINGS:
        if setting.section == section:
            value, text = _escaped(setting.kind.shown), _escaped(setting.help)
            yield f"| `{setting.key}=` | {value} | {text} | {_notes(setting)} |"
    yield ""


def _notes(setting: Setting) -> str:
    notes = []
    if setting.option and setting.form is Form.VARIABLE:
        notes.append(f"`${setting.option}`")
    elif setting.option:
        notes.append(f"`{setting.option}`")
    if setting.default:
        notes.append(f"default `{setting.default}`")
    if setting.many:
        notes.append("list, of one file" if setting.whole else "list")
    if setting.trust is Trust.NOTHING:
        notes.append("trusted")
    elif setting.trust is Trust.PROHIBITING:
        notes.append("trusted, but for `~`")
    if setting.nspawn_since is None:
        notes.append("not in .nspawn")
    if setting.since > OLDEST:
        notes.append(f"since systemd {setting.since}")
    if setting.until:
        notes.append(f"before systemd {setting.until}")
    return ", ".join(notes)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(render(), end="")
