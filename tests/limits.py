# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values of every key of section Service: what PID 1 is told of each, and what is none."""

from __future__ import annotations

import os
from typing import Any, Final

Property = tuple[str, str, Any]
UINT64_MAX: Final = 2**64 - 1
G: Final = 1024**3
V4: Final = 2
V6: Final = 10
ANY6: Final = bytes(16)
MINUTE: Final = 60_000_000
_PAGES: Final = os.sysconf("SC_PHYS_PAGES")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_SIZES: Final = {
    "2G": ("", "t", 2 * G),
    "1.5G": ("", "t", 3 * G // 2),
    "1G 512M": ("", "t", 3 * G // 2),
    "4096": ("", "t", 4096),
    "infinity": ("", "t", UINT64_MAX),
    "20%": ("Scale", "u", 858993459),
    "33.3%": ("Scale", "u", 1430224109),
}
# Of these there is no property that takes a share.
_AT_STARTUP: Final = {
    **_SIZES,
    "20%": ("", "t", _PAGES // 5 * _PAGE),
    "33.3%": ("", "t", _PAGES * 333 // 1000 * _PAGE),
}
_NO_SIZES: Final = ("2X", "-1", "G", "120%", "1M 1G", "", "1.2.3G", "99999999999999999999")
_WATCH: Final = {"on": ("", "s", "on"), "skip": ("", "s", "skip")}
_RATES: Final = {"/ 10M": ("", "a(st)", [["/", 10_000_000]])}
_NO_RATES: Final = ("/", "/ 0", "tmp 5", "/ 5X", "10M")
_CPUS: Final = {
    "0": ("", "ay", b"\x01"),
    "0-3,8": ("", "ay", b"\x0f\x01"),
    "0 2": ("", "ay", b"\x05"),
}
_NO_CPUS: Final = ("x", "3-1", "-1", "0-")
_WEIGHTS: Final = {"1": ("", "t", 1), "10000": ("", "t", 10_000)}
_NO_WEIGHTS: Final = ("0", "10001", "heavy", "-5")
_BOOLEANS: Final = {"yes": ("", "b", True), "off": ("", "b", False)}

SAMPLES: Final[dict[str, tuple[dict[str, Property], tuple[str, ...]]]] = {
    "CPUWeight": ({**_WEIGHTS, "idle": ("", "t", 0)}, _NO_WEIGHTS),
    "StartupCPUWeight": ({**_WEIGHTS, "idle": ("", "t", 0)}, _NO_WEIGHTS),
    "CPUQuota": (
        {
            "200%": ("CPUQuotaPerSecUSec", "t", 2_000_000),
            "33.33%": ("CPUQuotaPerSecUSec", "t", 333_300),
            "5%": ("CPUQuotaPerSecUSec", "t", 50_000),
        },
        ("2", "0%", "-5%", "%", "many%"),
    ),
    "CPUQuotaPeriodSec": (
        {"10ms": ("CPUQuotaPeriodUSec", "t", 10_000), "1": ("CPUQuotaPeriodUSec", "t", 1_000_000)},
        ("2s", "10us", "infinity", "soon"),
    ),
    "AllowedCPUs": (_CPUS, _NO_CPUS),
    "StartupAllowedCPUs": (_CPUS, _NO_CPUS),
    "AllowedMemoryNodes": (_CPUS, _NO_CPUS),
    "StartupAllowedMemoryNodes": (_CPUS, _NO_CPUS),
    "CPUSetPartition": ({"isolated": ("", "s", "isolated")}, ("no", "alone")),
    "CPUAccounting": (_BOOLEANS, ("maybe",)),
    "MemoryMin": ({**_SIZES, "0": ("", "t", 0)}, _NO_SIZES),
    "MemoryLow": ({**_SIZES, "0": ("", "t", 0)}, _NO_SIZES),
    "StartupMemoryLow": (_AT_STARTUP, _NO_SIZES),
    "MemoryHigh": (_SIZES, (*_NO_SIZES, "0", "0%")),
    "StartupMemoryHigh": (_AT_STARTUP, (*_NO_SIZES, "0")),
    "MemoryMax": (_SIZES, (*_NO_SIZES, "0", "0%")),
    "StartupMemoryMax": (_AT_STARTUP, (*_NO_SIZES, "0")),
    "MemorySwapMax": ({**_SIZES, "0": ("", "t", 0)}, _NO_SIZES),
    "StartupMemorySwapMax": (_AT_STARTUP, _NO_SIZES),
    "MemoryZSwapMax": ({**_SIZES, "0": ("", "t", 0)}, _NO_SIZES),
    "StartupMemoryZSwapMax": (_AT_STARTUP, _NO_SIZES),
    "MemoryZSwapWriteback": (_BOOLEANS, ("2",)),
    "MemoryAccounting": (_BOOLEANS, ("2",)),
    "MemoryPressureWatch": (_WATCH, ("often",)),
    "MemoryPressureThresholdSec": (
        {"150ms": ("MemoryPressureThresholdUSec", "t", 150_000)}, ("0", "soon", "-1")
    ),
    "CPUPressureWatch": (_WATCH, ("often",)),
    "CPUPressureThresholdSec": ({"150ms": ("CPUPressureThresholdUSec", "t", 150_000)}, ("0",)),
    "IOPressureWatch": (_WATCH, ("often",)),
    "IOPressureThresholdSec": ({"150ms": ("IOPressureThresholdUSec", "t", 150_000)}, ("0",)),
    "TasksMax": (
        {
            "500": ("", "t", 500),
            "infinity": ("", "t", UINT64_MAX),
            "20%": ("TasksMaxScale", "u", 858993459),
        },
        ("0", "-1", "0%", "101%", "2G", "many"),
    ),
    "TasksAccounting": (_BOOLEANS, ("2",)),
    "IOWeight": (_WEIGHTS, (*_NO_WEIGHTS, "idle")),
    "StartupIOWeight": (_WEIGHTS, _NO_WEIGHTS),
    "IODeviceWeight": (
        {"/dev/null 50": ("", "a(st)", [["/dev/null", 50]])}, ("/dev/null 0", "50", "/dev/null", "null 50")
    ),
    "IOReadBandwidthMax": (_RATES, _NO_RATES),
    "IOWriteBandwidthMax": (_RATES, _NO_RATES),
    "IOReadIOPSMax": ({"/ 5K": ("", "a(st)", [["/", 5000]])}, _NO_RATES),
    "IOWriteIOPSMax": (
        {
            "/ 100": ("", "a(st)", [["/", 100]]),
            '"/var/lib" infinity': ("", "a(st)", [["/var/lib", UINT64_MAX]]),
        },
        _NO_RATES,
    ),
    "IODeviceLatencyTargetSec": (
        {"/ 25ms": ("IODeviceLatencyTargetUSec", "a(st)", [["/", 25_000]])}, ("/ 0", "/ soon", "25ms")
    ),
    "IOAccounting": (_BOOLEANS, ("2",)),
    "IPAccounting": (_BOOLEANS, ("2",)),
    "IPAddressAllow": (
        {
            "10.0.0.0/8": ("", "a(iayu)", [[V4, b"\x0a\0\0\0", 8]]),
            "10.1.2.3/8": ("", "a(iayu)", [[V4, b"\x0a\0\0\0", 8]]),
            "192.168.1.7": ("", "a(iayu)", [[V4, b"\xc0\xa8\x01\x07", 32]]),
            "fd00::/8 172.16.0.0/12": ("", "a(iayu)", [
                [V6, b"\xfd" + bytes(15), 8], [V4, b"\xac\x10\0\0", 12],
            ]),
            "localhost": ("", "a(iayu)", [
                [V4, b"\x7f\0\0\0", 8], [V6, bytes(15) + b"\1", 128],
            ]),
        },
        ("10.0.0.0/33", "example.com", "fe80::1%eth0", "/8"),
    ),
    "IPAddressDeny": (
        {
            "any": ("", "a(iayu)", [[V4, bytes(4), 0], [V6, ANY6, 0]]),
            "link-local multicast": ("", "a(iayu)", [
                [V4, b"\xa9\xfe\0\0", 16], [V6, b"\xfe\x80" + bytes(14), 64],
                [V4, b"\xe0\0\0\0", 4], [V6, b"\xff" + bytes(15), 8],
            ]),
        },
        ("nobody",),
    ),
    "SocketBindAllow": (
        {
            "ipv4:tcp:8000-8010": ("", "a(iiqq)", [[V4, 6, 11, 8000]]),
            "udp:53": ("", "a(iiqq)", [[0, 17, 1, 53]]),
            "443": ("", "a(iiqq)", [[0, 0, 1, 443]]),
            "ipv6": ("", "a(iiqq)", [[V6, 0, 0, 0]]),
        },
        ("0", "70000", "9-8", "sctp:1", "tcp:ipv4:5"),
    ),
    "SocketBindDeny": ({"any": ("", "a(iiqq)", [[0, 0, 0, 0]])}, ("all",)),
    "RestrictNetworkInterfaces": (
        {
            "lo ve-x": ("", "(bas)", [True, ["lo", "ve-x"]]),
            "~lo eth0": ("", "(bas)", [False, ["lo", "eth0"]]),
        },
        ("a/b", "sixteencharacters"),
    ),
    "BindNetworkInterface": ({"lo": ("", "s", "lo")}, ("a/b", "a b")),
    "IPIngressFilterPath": ({"/sys/fs/bpf/in": ("", "as", ["/sys/fs/bpf/in"])}, ("in", "/../in")),
    "IPEgressFilterPath": ({"/sys/fs/bpf/out": ("", "as", ["/sys/fs/bpf/out"])}, ("out",)),
    "BPFProgram": (
        {"egress:/sys/fs/bpf/out": ("", "a(ss)", [["egress", "/sys/fs/bpf/out"]])},
        ("/sys/fs/bpf/out", "egress:out"),
    ),
    "NFTSet": (
        {"cgroup:inet:filter:my_set": ("", "a(iiss)", [[3, 1, "filter", "my_set"]])},
        ("cgroup:inet:filter", "file:inet:a:b", "cgroup:osi:a:b"),
    ),
    "DeviceAllow": (
        {
            "/dev/kvm rw": ("", "a(ss)", [["/dev/kvm", "rw"]]),
            "/dev/kvm": ("", "a(ss)", [["/dev/kvm", "rwm"]]),
            "char-input wr": ("", "a(ss)", [["char-input", "rw"]]),
            "block-* r": ("", "a(ss)", [["block-*", "r"]]),
        },
        ("/dev/kvm x", "kvm", "/etc/passwd rw", "/dev/../etc r", "/dev/kvm r w", "/dev/kvm rr"),
    ),
    "DevicePolicy": ({"strict": ("", "s", "strict"), "auto": ("", "s", "auto")}, ("open",)),
    "ManagedOOMSwap": ({"kill": ("", "s", "kill")}, ("yes",)),
    "ManagedOOMMemoryPressure": ({"kill": ("", "s", "kill"), "auto": ("", "s", "auto")}, ("yes",)),
    "ManagedOOMMemoryPressureLimit": ({"20%": ("", "u", 858993459)}, ("20", "200%")),
    "ManagedOOMMemoryPressureDurationSec": (
        {"20s": ("ManagedOOMMemoryPressureDurationUSec", "t", 20_000_000)}, ("10ms",)
    ),
    "ManagedOOMPreference": ({"avoid": ("", "s", "avoid")}, ("like",)),
    "OOMRules": ({"one two": ("", "as", ["one", "two"])}, ("a/b",)),
    "OOMPolicy": ({"kill": ("", "s", "kill")}, ("wait",)),
    "DisableControllers": ({"cpu io": ("", "as", ["cpu", "io"])}, ("net",)),
    "CoredumpReceive": (_BOOLEANS, ("2",)),
    "TimeoutStartSec": (
        {
            "5min": ("TimeoutStartUSec", "t", 5 * MINUTE),
            "infinity": ("TimeoutStartUSec", "t", UINT64_MAX),
        },
        ("soon",),
    ),
    "TimeoutStopSec": ({"1min 30s": ("TimeoutStopUSec", "t", 3 * MINUTE // 2)}, ("1 parsec",)),
    "RuntimeMaxSec": ({"1d": ("RuntimeMaxUSec", "t", 1440 * MINUTE)}, ("0",)),
    "WatchdogSec": ({"10min": ("WatchdogUSec", "t", 10 * MINUTE)}, ("soon",)),
    "Nice": ({"-5": ("", "i", -5), "19": ("", "i", 19)}, ("20", "-21", "very")),
}  # fmt: skip


def expected(key: str, told: Property) -> Property:
    """The whole of a property that is called like its key, but for an end."""
    name, kind, value = told
    return (name if name and name != "Scale" else key + name), kind, value
