# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the test trees are made of, as data: a change here makes the cached trees stale."""

import dataclasses
import hashlib
import json

SUITES = ("trixie", "sid")
"""trixie carries systemd 257, sid a much newer one."""

HOST_PACKAGES = (
    "systemd", "systemd-sysv", "systemd-container", "systemd-resolved", "libnss-mymachines",
    "libnss-systemd", "libpam-systemd", "udev", "kmod", "dbus", "polkitd", "login", "passwd", "util-linux",
    "procps", "less", "iproute2", "iputils-ping", "nftables", "btrfs-progs", "e2fsprogs", "gpg", "gpgv",
    "tar", "bzip2", "xz-utils", "zstd", "make", "python3", "python3-venv", "python3-pip", "python3-systemd",
    "mmdebstrap", "debootstrap", "dnsmasq-base",
)  # fmt: skip

GUEST_PACKAGES = (
    "systemd", "systemd-sysv", "libpam-systemd", "dbus", "dbus-user-session", "iproute2", "login", "passwd",
    "util-linux",
)  # fmt: skip

# What downloads need: trixie's systemd-container depends on it, sid's only suggests it.
SUITE_PACKAGES = {"sid": ("libcurl4t64",)}

VM_PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools")

# Left out when unpacking: about a third of a tree, and all of it slows the copy of a guest down.
EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
)

# mmdebstrap runs a hook as a shell script with the tree as $1.
_COMMON_HOOK = """
set -eu
# systemd-sysctl would set what belongs to the whole machine: only net.* is the host's own.
for unit in console-getty getty@tty1 systemd-networkd-wait-online systemd-sysctl; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit.service"
done
chroot "$1" systemctl enable systemd-networkd.service
# Empty, not "uninitialized": the host gets an id of its own per instance, a guest makes one up, and neither
# takes this for a first boot, which would preset all units again.
: >"$1/etc/machine-id"
rm -f "$1/var/lib/dbus/machine-id" "$1/etc/hostname"
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/cache/debconf/*-old "$1"/var/log/*.log
# Or every first boot would spend its time on services with ConditionNeedsUpdate=.
touch "$1/etc/.updated" "$1/var/.updated"
"""

_HOST_HOOK = """
set -eu
printf '127.0.0.1 localhost\\n127.0.1.1 testhost\\n::1 localhost\\n' >"$1/etc/hosts"
# An unprivileged user, to be refused things.
chroot "$1" useradd --create-home --shell /bin/bash tester
mkdir -p "$1/var/lib/machines" "$1/var/cache/machined-wheels"
"""

# The agent reads lines "ID SCRIPT" from a virtio port, the script in base64, and answers "ID STATUS OUTPUT".
_VM_HOOK = r"""
set -eu
rm "$1/etc/systemd/system/systemd-sysctl.service"
echo testhost >"$1/etc/hostname"
cat >"$1/usr/local/sbin/test-agent" <<'END'
#!/bin/sh
exec 3<>/dev/virtio-ports/machined.test
echo "ready $(cat /proc/sys/kernel/random/boot_id) -" >&3
while read -r id script <&3; do
    printf %s "$script" | base64 -d >/run/test-agent.script
    sh /run/test-agent.script </dev/null >/run/test-agent.output 2>&1 3>&-
    echo "$id $? $(base64 -w0 /run/test-agent.output)" >&3
done
END
chmod 755 "$1/usr/local/sbin/test-agent"
cat >"$1/etc/systemd/system/test-agent.service" <<'END'
[Unit]
Description=Runs the commands of the tests
After=basic.target dbus.socket
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/local/sbin/test-agent
Restart=always
RestartSec=300ms
[Install]
WantedBy=multi-user.target
END
chroot "$1" systemctl enable test-agent.service
"""

# A guest's root logs in without a password: the tests of a login type nothing but the name.
_GUEST_HOOK = """
set -eu
chroot "$1" passwd --quiet --delete root
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """One tree: a Debian suite, packages and shell hooks run on the finished tree."""

    name: str
    suite: str
    packages: tuple[str, ...]
    hooks: tuple[str, ...]
    excluded: tuple[str, ...] = EXCLUDED
    # The archive may be a frozen copy, whose release file has expired (that of sid lasts a week).
    apt_options: tuple[str, ...] = ('Acquire::Check-Valid-Until "false"',)

    def digest(self) -> str:
        """A short hash over everything that decides what the tree looks like."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def host(suite: str) -> Recipe:
    """The machine under test."""
    packages = HOST_PACKAGES + SUITE_PACKAGES.get(suite, ())
    return Recipe(f"{suite}-host", suite, packages, (_COMMON_HOOK, _HOST_HOOK))


def virtual_machine(suite: str) -> Recipe:
    """The machine under test with a kernel of its own; its sysctls and links are its own too."""
    hooks = (_COMMON_HOOK, _HOST_HOOK, _VM_HOOK)
    return Recipe(f"{suite}-vm", suite, (*HOST_PACKAGES, *VM_PACKAGES), hooks)


def guest(suite: str) -> Recipe:
    """What is booted by systemd-nspawn in a host."""
    return Recipe(f"{suite}-guest", suite, GUEST_PACKAGES, (_COMMON_HOOK, _GUEST_HOOK))
