# SPDX-License-Identifier: LGPL-2.1-or-later
"""Differences that are known and not settled yet: each is to be mended, or to be accepted with a reason.

Whole names of cases, for each suite: any other difference fails the test.
"""

from __future__ import annotations

from typing import Final

_TRIXIE: Final = """
files/CopyFromMachine/destination with dots
files/CopyFromMachine/one dot
files/CopyFromMachine/source with dots
files/CopyFromMachine/source with slashes
files/CopyFromMachine/trailing slash
files/bind
files/copy/plain
files/copy/private
image/clone read-only
image/life/d-raw
lifecycle/register, the leader dies and the unit stays
lifecycle/register/odd root
lifecycle/register/odd service
program/machinectl/image-status .d-hidden
program/machinectl/image-status .host
program/machinectl/image-status d-dir
program/machinectl/image-status d-raw
program/machinectl/image-status d-vendor
program/machinectl/image-status plain
program/machinectl/status .host -n0
program/machinectl/status plain -n0
program/machinectl/status plain -n0 --full
program/machinectl/status private -n0
varlink/Register/empty service
varlink/Register/service
varlink/image/odd/escaped nul
varlink/image/odd/lone surrogate
varlink/image/odd/nan
varlink/image/odd/twice the same key
varlink/images/life
varlink/machine/odd/escaped nul
varlink/machine/odd/lone surrogate
varlink/machine/odd/nan
varlink/machine/odd/twice the same key
varlink/user/odd/escaped nul
varlink/user/odd/lone surrogate
varlink/user/odd/nan
varlink/user/odd/twice the same key
"""

_SID: Final = """
bus/GetMachine/control
bus/GetMachineAddresses/control
bus/GetMachineOSRelease/control
bus/GetMachineSSHInfo/control
bus/GetMachineUIDShift/control
bus/ListImages
bus/MapFromMachineGroup/control
bus/MapFromMachineUser/control
bus/OpenMachineRootDirectory/control
bus/get all/escaped letter/
bus/get all/escaped letter/org.freedesktop.machine1.Machine
bus/get all/nul escape/
bus/get all/nul escape/org.freedesktop.machine1.Machine
bus/get all/plain/
bus/get all/plain/org.freedesktop.machine1.Machine
bus/get all/private/
bus/get all/private/org.freedesktop.machine1.Machine
bus/get all/scope/
bus/get all/scope/org.freedesktop.machine1.Machine
bus/get all/vm/
bus/get all/vm/org.freedesktop.machine1.Machine
bus/get/plain/Subgroup
bus/get/scope/Supervisor
bus/get/scope/SupervisorPIDFDId
bus/get/vm/Supervisor
bus/get/vm/SupervisorPIDFDId
bus/introspect/images
files/CopyFromMachine/trailing slash
files/bind
files/copy/plain
files/copy/private
image/GetImage/'a\\x01b'
image/GetImageOSRelease/'a\\x01b'
image/RemoveImage/'a\\x01b'
image/clone read-only
image/life/d-raw
image/refused/clone the host
lifecycle/KillMachine/control
lifecycle/TerminateMachine/control
lifecycle/UnregisterMachine/control
lifecycle/a container of systemd-nspawn
lifecycle/allowed to the trusted
lifecycle/ex/descriptor
lifecycle/of a user
lifecycle/refused to users
lifecycle/register, the leader dies and the unit stays
lifecycle/register/name control
lifecycle/register/name empty
program/hostnamectl
program/machinectl/image-status .d-hidden
program/machinectl/image-status .host
program/machinectl/image-status d-dir
program/machinectl/image-status d-raw
program/machinectl/image-status d-vendor
program/machinectl/image-status plain
program/machinectl/show --all plain
program/machinectl/show d-scope
program/machinectl/show d-vm
program/machinectl/show plain
program/machinectl/show plain private
program/machinectl/show private
program/machinectl/status .host -n0
program/machinectl/status d-scope -n0
program/machinectl/status d-vm -n0
program/machinectl/status plain -n0
program/machinectl/status plain -n0 --full
program/machinectl/status private -n0
program/sockets/
program/varlinkctl call
varlink/BindMount/d-scope
varlink/List/all/None
varlink/List/all/graceful
varlink/List/all/no
varlink/List/by leader
varlink/List/by leader, wrong name
varlink/List/d-scope/None
varlink/List/d-scope/graceful
varlink/List/d-scope/no
varlink/List/d-vm/None
varlink/List/d-vm/graceful
varlink/List/d-vm/no
varlink/List/odd/interactive
varlink/List/odd/more and a name
varlink/List/plain/None
varlink/List/plain/graceful
varlink/List/plain/no
varlink/List/plain/yes
varlink/List/private/None
varlink/List/private/graceful
varlink/List/private/no
varlink/List/private/yes
varlink/Register/empty address
varlink/Register/empty service
varlink/Register/unit
varlink/hook/filter with more
varlink/hook/odd/escaped nul
varlink/hook/odd/filter
varlink/hook/odd/lone surrogate
varlink/hook/odd/nan
varlink/hook/odd/twice the same key
varlink/image/odd/escaped nul
varlink/image/odd/lone surrogate
varlink/image/odd/nan
varlink/image/odd/twice the same key
varlink/images/List/all
varlink/images/life
varlink/machine/odd/escaped nul
varlink/machine/odd/lone surrogate
varlink/machine/odd/nan
varlink/machine/odd/twice the same key
varlink/pipelined
varlink/service/environment
varlink/user/odd/escaped nul
varlink/user/odd/lone surrogate
varlink/user/odd/nan
varlink/user/odd/twice the same key
"""

_CASES: Final = {"trixie": frozenset(_TRIXIE.splitlines()), "sid": frozenset(_SID.splitlines())}


def is_open(suite: str, case: str) -> bool:
    """Whether a difference in this case is known and not settled."""
    return case in _CASES[suite]
