# SPDX-License-Identifier: LGPL-2.1-or-later
"""Section [Service]: limits of the machine's unit, systemd.resource-control(5), and how long it may take.

Each is a property of the transient unit, under the name that PID 1 has for it on the bus. The slice is
[Exec] Slice=; what the payload may use by itself is [Exec] Limit…=.
"""

from __future__ import annotations

from typing import Final

from machined.model.settings import access, limits
from machined.model.settings.limits import UnitKind
from machined.model.settings.setting import OLDEST, Form, Setting, Trust

SECTION: Final = "Service"
# systemd's versions that made an end of, or began, what only one of those that are tested knows.
_WITHOUT_LEGACY: Final = 258
_RECENT: Final = 262


def _row(
    key: str,
    kind: UnitKind,
    text: str,
    *,
    name: str = "",
    many: bool = False,
    whole: bool = False,
    default: str = "",
    since: int = OLDEST,
    until: int = 0,
) -> Setting:
    """`name` of the property, where it is not the key."""
    return Setting(
        SECTION,
        key,
        kind,
        name or key,
        text,
        Form.UNIT,
        many=many,
        whole=whole,
        trust=Trust.NOTHING,
        since=since,
        until=until,
        nspawn_since=None,
        default=default,
    )


_CPU: Final = (
    _row("CPUWeight", limits.CPU_WEIGHT, "Share of the processors where they are all wanted."),
    _row("StartupCPUWeight", limits.CPU_WEIGHT, "Likewise while the host starts and stops."),
    _row(
        "CPUQuota",
        limits.QUOTA,
        "Time on processors, 200% being two of them at most.",
        name="CPUQuotaPerSecUSec",
    ),
    _row(
        "CPUQuotaPeriodSec",
        limits.QUOTA_PERIOD,
        "Over which time that is measured.",
        name="CPUQuotaPeriodUSec",
    ),
    _row("AllowedCPUs", limits.CPUS, "Processors that may be used.", many=True),
    _row("StartupAllowedCPUs", limits.CPUS, "Likewise while the host starts and stops.", many=True),
    _row("AllowedMemoryNodes", limits.NODES, "NUMA nodes that memory may come from.", many=True),
    _row(
        "StartupAllowedMemoryNodes",
        limits.NODES,
        "Likewise while the host starts and stops.",
        many=True,
    ),
    _row(
        "CPUSetPartition",
        limits.PARTITION,
        "Whether those processors are kept from all others.",
        since=_RECENT,
    ),
    _row("CPUAccounting", limits.ON, "Whether the time on processors is counted.", until=_WITHOUT_LEGACY),
)
_MEMORY: Final = (
    _row("MemoryMin", limits.PROTECTION, "Memory that is never taken away from the machine."),
    _row("MemoryLow", limits.PROTECTION, "Memory that is taken from others first."),
    _row("StartupMemoryLow", limits.PROTECTION_AT_STARTUP, "Likewise while the host starts and stops."),
    _row("MemoryHigh", limits.SIZE, "Memory above which the machine is slowed down."),
    _row("StartupMemoryHigh", limits.AT_STARTUP, "Likewise while the host starts and stops."),
    _row("MemoryMax", limits.SIZE, "Memory above which processes of the machine are killed."),
    _row("StartupMemoryMax", limits.AT_STARTUP, "Likewise while the host starts and stops."),
    _row("MemorySwapMax", limits.SIZE_OR_NOTHING, "Swap space at most."),
    _row("StartupMemorySwapMax", limits.AT_STARTUP_OR_NOTHING, "Likewise while the host starts and stops."),
    _row("MemoryZSwapMax", limits.SIZE_OR_NOTHING, "Compressed swap space in memory at most."),
    _row("StartupMemoryZSwapMax", limits.AT_STARTUP_OR_NOTHING, "Likewise while the host starts and stops."),
    _row("MemoryZSwapWriteback", limits.ON, "Whether that may go on to a disk."),
    _row("MemoryAccounting", limits.ON, "Whether memory is counted."),
    _row("MemoryPressureWatch", limits.PRESSURE_WATCH, "Whether the machine is told of short memory."),
    _row(
        "MemoryPressureThresholdSec",
        limits.PRESSURE_THRESHOLD,
        "From how much waiting for memory on.",
        name="MemoryPressureThresholdUSec",
    ),
    *(
        row
        for what in ("CPU", "IO")
        for row in (
            _row(
                f"{what}PressureWatch",
                limits.PRESSURE_WATCH,
                f"Whether the machine is told of short {what}.",
                since=_RECENT,
            ),
            _row(
                f"{what}PressureThresholdSec",
                limits.PRESSURE_THRESHOLD,
                f"From how much waiting for {what} on.",
                name=f"{what}PressureThresholdUSec",
                since=_RECENT,
            ),
        )
    ),
)
_TASKS: Final = (
    _row("TasksMax", limits.TASKS, "Processes and threads at most.", default="16384"),
    _row("TasksAccounting", limits.ON, "Whether they are counted."),
)
_IO: Final = (
    _row("IOWeight", limits.IO_WEIGHT, "Share of the disks where they are all wanted."),
    _row("StartupIOWeight", limits.IO_WEIGHT, "Likewise while the host starts and stops."),
    _row("IODeviceWeight", access.DISK_WEIGHT, "Likewise for one disk, or that of a file.", many=True),
    _row("IOReadBandwidthMax", access.DISK_RATE, "Bytes a second read from a disk, at most.", many=True),
    _row("IOWriteBandwidthMax", access.DISK_RATE, "Bytes a second written to it.", many=True),
    _row("IOReadIOPSMax", access.DISK_RATE, "Times a second that is read from a disk, at most.", many=True),
    _row("IOWriteIOPSMax", access.DISK_RATE, "Times a second that is written to it.", many=True),
    _row(
        "IODeviceLatencyTargetSec",
        access.DISK_LATENCY,
        "How long a disk may take at the cost of others.",
        name="IODeviceLatencyTargetUSec",
        many=True,
    ),
    _row("IOAccounting", limits.OFF, "Whether reading and writing is counted."),
)
_NETWORK: Final = (
    _row("IPAccounting", limits.OFF, "Whether packets are counted (those of the unit's own network)."),
    _row("IPAddressAllow", access.ADDRESSES, "Addresses that may be spoken with.", many=True),
    _row("IPAddressDeny", access.ADDRESSES, "Addresses that may not, where not allowed.", many=True),
    _row("SocketBindAllow", access.PORT, "Ports that may be listened on.", many=True),
    _row("SocketBindDeny", access.PORT, "Ports that may not, where not allowed.", many=True),
    _row(
        "RestrictNetworkInterfaces",
        access.LINKS,
        "Network links that may be used, after a '~' those that may not.",
        many=True,
        whole=True,
    ),
    _row("BindNetworkInterface", access.LINK, "The link of all sockets.", since=_RECENT),
    _row("IPIngressFilterPath", access.FILTER, "Pinned BPF programs for what comes in.", many=True),
    _row("IPEgressFilterPath", access.FILTER, "Pinned BPF programs for what goes out.", many=True),
    _row("BPFProgram", access.PROGRAM, "Other BPF programs of the control group.", many=True),
    _row("NFTSet", access.NFT_SET, "Sets of nftables that the control group is put into.", many=True),
)
_DEVICES: Final = (
    _row(
        "DeviceAllow",
        access.DEVICE,
        "Devices that may be used, beside those every machine needs.",
        many=True,
    ),
    _row(
        "DevicePolicy",
        limits.DEVICE_POLICY,
        "Whether all others may be used (auto), or only the usual ones.",
        default="closed",
    ),
)
_OOM: Final = (
    _row("ManagedOOMSwap", limits.OOM_MODE, "Whether systemd-oomd ends the machine for short swap."),
    _row("ManagedOOMMemoryPressure", limits.OOM_MODE, "Likewise for short memory."),
    _row("ManagedOOMMemoryPressureLimit", limits.PRESSURE_LIMIT, "From how much waiting on."),
    _row(
        "ManagedOOMMemoryPressureDurationSec",
        limits.PRESSURE_DURATION,
        "For how long.",
        name="ManagedOOMMemoryPressureDurationUSec",
    ),
    _row("ManagedOOMPreference", limits.OOM_PREFERENCE, "Whether systemd-oomd rather takes another."),
    _row("OOMRules", limits.OOM_RULES, "Rules of systemd-oomd that hold.", many=True, since=_RECENT),
    _row("OOMPolicy", limits.OOM_POLICY, "What becomes of the rest where the kernel kills one of it."),
)
_REST: Final = (
    _row("DisableControllers", limits.CONTROLLERS, "Controllers kept from the machine.", many=True),
    _row(
        "CoredumpReceive",
        limits.ON_AT_START,
        "Whether the machine keeps the dumps of its own crashes.",
        default="yes",
    ),
    _row(
        "TimeoutStartSec",
        limits.TIMEOUT,
        "How long the unit may take to start.",
        name="TimeoutStartUSec",
    ),
    _row("TimeoutStopSec", limits.TIMEOUT, "How long it may take to stop.", name="TimeoutStopUSec"),
    _row("RuntimeMaxSec", limits.RUNTIME, "How long the machine may run.", name="RuntimeMaxUSec"),
    _row(
        "WatchdogSec",
        limits.WATCHDOG,
        "How long systemd-nspawn may be silent.",
        name="WatchdogUSec",
        default="3min",
    ),
    _row("Nice", limits.NICE, "Niceness of all in it, from -20 to 19."),
)

ROWS: Final = (*_CPU, *_MEMORY, *_TASKS, *_IO, *_NETWORK, *_DEVICES, *_OOM, *_REST)
BY_KEY: Final = {row.key: row for row in ROWS}
