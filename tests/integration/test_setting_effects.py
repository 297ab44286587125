# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine with a setting is like, seen from inside and by the kernel: rows S17-S41 of the features.

Machines run a command here, which is up at once, unless it is the system in them that is told something.
"""

from __future__ import annotations

import json

import pytest

from tests.integration.configured import COMMAND, POOL, Configured
from tests.integration.driver import Driver

pytestmark = pytest.mark.integration


def test_the_process(box: Configured) -> None:
    """S20, S22, S32, S33, S35."""
    box.start(
        f"{COMMAND}[Exec]\nEnvironment=FOO=bar 'TWO=a b'\nWorkingDirectory=/usr\n"
        "Capability=CAP_NET_RAW CAP_SYS_TIME\nDropCapability=CAP_MKNOD CAP_SYS_CHROOT\nNoNewPrivileges=yes\n"
        "LimitNOFILE=1000:2000\nLimitCORE=0\nLimitSTACK=1M:2M\nLimitMEMLOCK=64K\nOOMScoreAdjust=321\nCPUAffinity=0\n"
        "SystemCallFilter=~@clock sync\nHostname=other.example\n"
    )
    environ = box.proc("environ").split("\0")
    assert {"FOO=bar", "TWO=a b", "container=systemd-nspawn"} <= set(environ)
    assert box.managed.host.run(["readlink", f"/proc/{box.payload()}/cwd"]).stdout.strip() == "/usr"
    bounding = int(box.status("CapBnd"), 16)
    assert bounding & (1 << 25), "CAP_SYS_TIME"
    assert not bounding & (1 << 27 | 1 << 18), "CAP_MKNOD, CAP_SYS_CHROOT"
    assert box.status("NoNewPrivs") == "1"
    limits = {line[:25].strip(): line[25:].split()[:2] for line in box.proc("limits").splitlines()}
    assert limits["Max open files"] == ["1000", "2000"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max stack size"] == ["1048576", "2097152"]
    assert limits["Max locked memory"] == ["65536", "65536"]
    assert box.proc("oom_score_adj").strip() == "321"
    assert box.status("Cpus_allowed_list") == "0"
    assert box.status("Seccomp") == "2"
    assert box.inside("hostname") == "other.example"
    assert box.proc("cmdline").split("\0")[:2] == ["sleep", "infinity"]


def test_filtered_system_calls(box: Configured) -> None:
    """S33: what is not let through is refused, and the command can tell."""
    script = "sync && touch /tmp/synced; mkdir /tmp/a && touch /tmp/made; exec sleep infinity"
    box.start(
        f"[Exec]\nBoot=no\nProcessTwo=yes\nParameters=sh -c '{script}'\nPrivateUsers=no\n"
        "SystemCallFilter=~mkdir mkdirat\n[Network]\nPrivate=yes\n"
    )
    until = f"until [ -e /proc/{box.leader}/root/tmp/synced ]; do sleep 0.02; done"
    box.managed.host.run(["timeout", "20", "sh", "-c", until])
    gone = f'until [ "$(cat /proc/{box.payload()}/comm)" = sleep ]; do sleep 0.02; done'
    box.managed.host.run(["timeout", "20", "sh", "-c", gone])
    assert "made" not in box.inside("ls", "/tmp")


def test_a_user(box: Configured) -> None:
    """S22."""
    box.start(f"{COMMAND}[Exec]\nUser=daemon\n")
    assert box.status("Uid").split()[0] == "1"


def test_capabilities_of_any_user(box: Configured) -> None:
    """S32."""
    box.start(f"{COMMAND}[Exec]\nUser=daemon\nAmbientCapability=CAP_NET_BIND_SERVICE\n")
    assert int(box.status("CapAmb"), 16) == 1 << 10


def test_the_personality(box: Configured) -> None:
    """S35."""
    box.start(f"{COMMAND}[Exec]\nPersonality=x86\n")
    assert box.proc("personality").strip().endswith("8")


def test_writes_that_do_not_wait(box: Configured) -> None:
    """S25: there is a filter more, and sync(2) does nothing."""
    box.start(COMMAND)
    before = int(box.status("Seccomp_filters"))
    box.stop()
    box.start(f"{COMMAND}[Exec]\nSuppressSync=yes\n")
    assert int(box.status("Seccomp_filters")) > before


def test_files(box: Configured) -> None:
    """S38, S39: each way to have something of the host inside, or not."""
    host = box.managed.host
    make = "rm -rf /run/t; mkdir -p /run/t/a /run/t/low /run/t/up; echo a >/run/t/a/f; echo l >/run/t/low/l"
    host.run(["sh", "-c", make])
    try:
        box.start(
            f"{COMMAND}[Files]\nBind=/run/t/a:/mnt\nBindReadOnly=/run/t/a:/opt\nTemporaryFileSystem=/media:mode=700\n"
            "Inaccessible=/etc/passwd\nOverlay=/run/t/low:/run/t/up:/srv\nOverlayReadOnly=/run/t/low:/run/t/a:/home\n"
        )
        seen = box.inside("cat", "/mnt/f", "/opt/f", "/srv/l", "/home/l", "/home/f")
        assert seen.split() == ["a", "a", "l", "l", "a"]
        box.inside("sh", "-c", "echo new >/mnt/new; echo up >/srv/up")
        assert host.run(["cat", "/run/t/a/new", "/run/t/up/up"]).stdout.split() == ["new", "up"]
        for place in ("/opt", "/home"):
            assert "Read-only file system" in box.inside("touch", f"{place}/x", check=False)
        assert box.inside("stat", "--format=%a", "/media") == "700"
        assert box.inside("findmnt", "--noheadings", "--output=FSTYPE", "/media") == "tmpfs"
        assert box.inside("stat", "--format=%a %s", "/etc/passwd") == "0 0"
    finally:
        box.stop()
        host.run(["rm", "-rf", "/run/t"])


def test_an_unwritable_tree(box: Configured) -> None:
    """S17."""
    box.start(f"{COMMAND}[Files]\nReadOnly=yes\n")
    assert "Read-only file system" in box.inside("touch", "/etc/x", check=False)


@pytest.mark.parametrize(("mode", "kept"), [("overlay", "/etc/x"), ("state", "/var/x")])
def test_what_is_forgotten(box: Configured, mode: str, kept: str) -> None:
    """S17."""
    box.start(f"{COMMAND}[Files]\nVolatile={mode}\n")
    box.inside("touch", kept)
    assert box.inside("ls", kept) == kept
    box.stop()
    assert box.managed.host.run(["ls", f"{POOL}/{box.name}{kept}"], check=False).returncode != 0


def test_all_is_forgotten(box: Configured) -> None:
    """S18, from the file."""
    box.start(f"{COMMAND}[Exec]\nEphemeral=yes\n")
    box.inside("touch", "/etc/x")
    box.stop()
    assert box.managed.host.run(["ls", f"{POOL}/{box.name}/etc/x"], check=False).returncode != 0


def test_users_of_the_machine(box: Configured) -> None:
    """S29: picked, said, the host's own."""
    text = COMMAND.replace("PrivateUsers=no\n", "")
    box.start(text)
    first = box.proc("uid_map").split()
    assert first[0] == "0"
    assert int(first[1]) >= 0x80000
    assert first[2] == "65536"
    box.stop()
    box.start(text)
    assert box.proc("uid_map").split() == first, "the same the next time"
    box.stop()
    box.start(f"{text}[Exec]\nPrivateUsers=1310720:65536\n[Files]\nPrivateUsersOwnership=map\n")
    assert box.proc("uid_map").split() == ["0", "1310720", "65536"]
    assert box.inside("stat", "--format=%u", "/usr") == "0"
    assert box.managed.host.run(["stat", "--format=%u", f"{POOL}/{box.name}/usr"]).stdout.strip() == "0"
    box.stop()
    box.start(f"{text}[Exec]\nPrivateUsers=identity\n")
    assert box.proc("uid_map").split() == ["0", "0", "65536"]
    box.stop()
    box.start(f"{text}[Exec]\nPrivateUsers=no\n")
    assert box.proc("uid_map").split()[2] == "4294967295"


def test_owners_that_are_changed_and_changed_back(box: Configured, managed: Driver) -> None:
    """S30."""
    text = COMMAND.replace("PrivateUsers=no\n", "")
    usr = ["stat", "--format=%u", f"{POOL}/{box.name}/usr"]
    box.start(f"{text}[Exec]\nPrivateUsers=1310720:65536\n[Files]\nPrivateUsersOwnership=chown\n")
    assert managed.host.run(usr).stdout.strip() == "1310720"
    box.stop()
    box.start(f"{text}[Exec]\nPrivateUsers=0:65536\n[Files]\nPrivateUsersOwnership=chown\n")
    assert managed.host.run(usr).stdout.strip() == "0"


def test_who_a_system_is(box: Configured) -> None:
    """S26, S36, S41, S27: told to the init, and seen by what it runs."""
    managed = box.managed
    managed.host.run(["sh", "-c", "umask 077; echo -n secret >/etc/t-credential"])
    # What an earlier boot of the tree wrote there would go before what is told.
    managed.host.run(["truncate", "--size=0", f"{POOL}/{box.name}/etc/machine-id"])
    box.start(
        "[Exec]\nMachineID=11112222333344445555666677778888\nHostname=inside\nLinkJournal=no\nTimezone=copy\n"
        "Environment=SYSTEMD_LOG_LEVEL=info\nLoadCredential=mine:/etc/t-credential\nSetCredential=other:value\n"
        "Slice=machine-t.slice\nKillSignal=SIGRTMIN+4\nNotifyReady=yes\nTemporaryFileSystemOnTmp=no\n"
    )
    managed.wait(box.name, "running")
    try:
        assert managed.guest(box.name, "cat", "/proc/sys/kernel/hostname").stdout.strip() == "inside"
        ids = managed.guest(box.name, "systemd-id128", "machine-id").stdout.strip()
        assert ids == "11112222333344445555666677778888"
        read = "cat /run/host/credentials/mine /run/host/credentials/other"
        assert managed.guest(box.name, "sh", "-c", read).stdout == "secretvalue"
        assert "secret" not in managed.host.run(["ps", "-ef"]).stdout.replace("secretvalue", "")
        unit = f"machine-{box.name}.service"
        assert managed.unit_property(unit, "Slice") == "machine-t.slice"
        assert "SYSTEMD_NSPAWN_TMPFS_TMP=no" in managed.unit_property(unit, "Environment")
        assert not managed.host.path(f"/var/log/journal/{ids}").exists()
    finally:
        managed.ctl("poweroff", box.name)
        managed.wait(box.name, "stopped")
        managed.host.run(["rm", "-f", "/etc/t-credential"])
        managed.host.run(["systemctl", "stop", "machine-t.slice"])


def test_the_host_is_shared(box: Configured) -> None:
    """The switches that systemd-nspawn has in its environment alone."""
    own = ["readlink", "/proc/1/ns/ipc", "/proc/1/ns/uts"]
    theirs = box.managed.host.run(own).stdout.split()
    box.start(f"{COMMAND}[Exec]\nShareNamespaceIPC=yes\nAPIFileSystemsWritable=yes\nSeccomp=no\nHostname=\n")
    links = box.managed.host.run(
        ["readlink", f"/proc/{box.payload()}/ns/ipc", f"/proc/{box.payload()}/ns/uts"]
    ).stdout.split()
    assert links[0] == theirs[0]
    assert links[1] != theirs[1]
    assert box.status("Seccomp") == "0"
    assert "ro" not in box.inside("findmnt", "--noheadings", "--output=VFS-OPTIONS", "/sys").split(",")


def test_a_disk_image(box: Configured) -> None:
    """S15. (No kernel of a build machine has dm-verity: that hashes are looked at shows in the refusal.)"""
    host, disk = box.managed.host, Configured(box.managed, f"{box.name}-disk")
    path = f"{POOL}/{disk.name}.raw"
    host.run(["truncate", "--size=600M", path])
    host.run(["mkfs.ext4", "-q", "-d", f"{POOL}/{box.name}", path], timeout=120)
    try:
        disk.start(COMMAND)
        assert disk.inside("findmnt", "--noheadings", "--output=FSTYPE", "/") == "ext4"
        device = disk.inside("findmnt", "--noheadings", "--output=MAJ:MIN", "/").strip()
        assert device.startswith("7:")  # a loop device
        disk.stop()
        host.run(["truncate", "--size=1M", "/srv/t-hashes"])
        words = [f"--set=RootHash={'ab' * 32}", "--set=VerityData=/srv/t-hashes"]
        assert box.managed.ctl("start", disk.name, *words, check=False).returncode == 1
    finally:
        disk.stop()
        disk.file.unlink(missing_ok=True)
        host.run(["rm", "-f", path, "/srv/t-hashes"])


def test_a_bundle(box: Configured) -> None:
    """S16: a tree, and what runs in it, as runtimes of OCI have them."""
    host, bundle = box.managed.host, "/srv/t-bundle"
    host.run(["mkdir", bundle])
    host.run(["mv", f"{POOL}/{box.name}", f"{bundle}/rootfs"])
    process = {
        "user": {"uid": 0, "gid": 0}, "cwd": "/usr", "env": ["PATH=/usr/bin", "SAID=yes"],
        "args": ["sleep", "infinity"],
    }  # fmt: skip
    config = {
        "ociVersion": "1.0.0", "process": process, "root": {"path": "rootfs"}, "hostname": "bundled",
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }  # fmt: skip
    host.path(f"{bundle}/config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        box.start(f"[Image]\nOCIBundle={bundle}\n")
        begun = f"until [ $(cat /proc/{box.leader}/comm) = sleep ]; do sleep 0.01; done"
        host.run(["timeout", "20", "sh", "-c", begun])
        assert box.inside("cat", "/proc/sys/kernel/hostname") == "bundled"
        assert "SAID=yes" in box.proc("environ", box.leader).split("\0")
        box.stop()
        done = box.managed.ctl("start", box.name, "--set=Ephemeral=yes", check=False)
        assert done.returncode == 1
        assert bundle in done.stderr
    finally:
        box.stop()
        host.run(["mv", f"{bundle}/rootfs", f"{POOL}/{box.name}"])
        host.run(["rm", "-r", bundle])


def test_the_host_is_out_of_reach(box: Configured) -> None:
    """S89, S90: what is the whole machine's is not a guest's to change; its root is nobody of the host's."""
    box.start(COMMAND.replace("PrivateUsers=no\n", ""))
    assert int(box.proc("uid_map").split()[1]) >= 0x80000
    for script in (
        "echo 0 >/proc/sys/kernel/sysrq",
        "echo b >/proc/sysrq-trigger",
        "mount -o remount,rw /sys && echo 0 >/sys/kernel/mm/ksm/run",
        "date --set=@0",
        "mknod /tmp/disk b 8 0 && : </tmp/disk",
        "ip link set dev lo netns 1 && ip link add dummy9 type dummy && ip link set dummy9 netns 1",
        "mount -t debugfs none /mnt",
    ):
        assert not box.inside("sh", "-ec", script, check=False).startswith("0"), script


def test_a_tree_anywhere(box: Configured) -> None:
    """S6, S14: no image with the machine's name, and none is needed."""
    managed, tree = box.managed, "/srv/t-tree"
    managed.host.run(["mv", f"{POOL}/{box.name}", tree])
    try:
        box.start(f"[Image]\nDirectory={tree}\n")
        managed.wait(box.name, "running")
        root = managed.stock("show", box.name, "--property=RootDirectory", "--value").stdout
        assert root.strip() == tree
        box.stop()
        # Known, and not running: to whoever asks for it.
        known = [row[0] for row in json.loads(managed.call("ListAll", "a{sv}", "0").stdout)["data"][0]]
        assert box.name in known
        assert managed.ctl("wait", box.name, "--for=stopped").returncode == 0
        assert "State: stopped" in managed.ctl("status", box.name, check=False).stdout
        assert f"--directory={tree}" in managed.ctl("explain", box.name).stdout
        assert managed.ctl("check", box.name).returncode == 0
        managed.ctl("enable", box.name)
        managed.ctl("disable", box.name)
        box.file.unlink()
        assert managed.ctl("wait", box.name, "--for=stopped", check=False).returncode == 1
        managed.ctl("start", box.name, f"--set=Directory={tree}")
        managed.wait(box.name, "running")
        box.stop()
        wrong = box.managed.ctl("start", box.name, "--set=Directory=/srv/nothing", check=False)
        assert wrong.returncode == 1
    finally:
        box.stop()
        managed.host.run(["mv", tree, f"{POOL}/{box.name}"])


def test_nothing_begins_with_mistakes(box: Configured) -> None:
    """Each with file and line, and what would be valid."""
    for text, said in {
        "[Exec]\nBoot=perhaps\n": f"{box.name}.conf:2: [Exec] Boot=perhaps is not valid: must be 'yes'",
        "[Exec]\nBot=yes\n": f"{box.name}.conf:2: [Exec] has no key 'Bot'; did you mean 'Boot'?",
        "[Exce]\nBoot=yes\n": f"{box.name}.conf: unknown section [Exce]",
        "[Network]\nPrivate=no\nPort=80\n": f"{box.name}.conf:3: [Network] Port=tcp:80:80 leads to",
        "[Network\n": f"{box.name}.conf:1: '[Network' is no section header",
    }.items():
        box.file.parent.mkdir(parents=True, exist_ok=True)
        box.file.write_text(text, encoding="utf-8")
        done = box.managed.ctl("start", box.name, check=False)
        assert done.returncode == 1
        assert said in done.stderr
        assert box.managed.state(box.name) == "stopped"
