# SPDX-License-Identifier: LGPL-2.1-or-later
"""New machines: made by the real tools of Debian and by recorded fakes of others', and never by half."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host import layer, mirror
from tests.host.boot import Host
from tests.integration.driver import OURS, Driver, unique_name
from tests.integration.terminals import Terminal

pytestmark = [pytest.mark.integration, pytest.mark.either("sid")]

POOL = "/var/lib/machines"
CREDENTIALS = "/etc/machined/credentials"
PASSWORD = "correct horse, battery"
SECRET = ("--root-password-file=/root/password",)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ someone@somewhere"

# A tool that begins a machine, mounts something in it, leaves processes behind, and does not come to an end.
ENDLESS = """#!/bin/sh
for last; do :; done
for word; do case "$word" in --installroot=*) tree=${word#*=} ;; esac; done
mkdir -p "$tree/usr/lib" "$tree/mnt"
mount -t tmpfs marker-of-the-test "$tree/mnt"
echo half >"$tree/usr/lib/os-release"
setsid sleep 987654 &
sleep 987654 &
echo "it has begun"
wait
"""

# A tool that records how it was called, and makes the least that counts as a system.
RECORDER = """#!/bin/sh
printf '%s\\n' "${0##*/}" "$@" >/run/recorded
tree=
for word; do
    case "$word" in --installroot=*) tree=${word#*=} ;; esac
    [ -n "$tree" ] || { [ -d "$word" ] && tree=$word; }
done
cp -a /srv/tiny/. "$tree"
"""

TINY = """
set -e
mkdir -p /srv/tiny/usr/lib/systemd/system /srv/tiny/usr/bin /srv/tiny/etc
cd /srv/tiny
echo ID=tiny >usr/lib/os-release
for program in lib/systemd/systemd bin/dbus-daemon bin/agetty bin/login; do
    echo '#!/bin/sh' >usr/$program
    chmod 755 usr/$program
done
touch usr/lib/systemd/system/dbus.service usr/lib/systemd/system/container-getty@.service
echo root:x:0:0:root:/root:/bin/sh >etc/passwd
echo testhost >etc/hostname
"""


@pytest.fixture(scope="module")
def maker(suite: str) -> Iterator[Driver]:
    """A host with an archive of packages in it."""
    places = {layer.WHEELS: layer.wheels(suite), mirror.INSIDE: mirror.ensure(suite)}
    with Host(suite, layer=layer.with_machined(suite), read_only=places) as host:
        host.boot()
        host.run(["sh", "-c", TINY])
        host.path("/root/key.pub").write_text(f"{KEY}\n", encoding="ascii")
        host.path("/root/password").write_text(f"{PASSWORD}\n", encoding="ascii")
        host.path("/root/password").chmod(0o600)
        yield Driver(host)


@pytest.fixture
def name(maker: Driver) -> Iterator[str]:
    """A name for a machine, of which nothing may be left but what the test has made on purpose."""
    name = unique_name()
    before = maker.host.snapshot()
    yield name
    maker.clear(name)
    maker.host.run(["rm", "-rf", f"{POOL}/{name}", f"{CREDENTIALS}/{name}"])
    assert maker.host.left_behind(before) == []


def put_tool(maker: Driver, name: str, script: str) -> None:
    path = maker.host.path(f"/usr/local/bin/{name}")
    path.write_text(script, encoding="utf-8")
    path.chmod(0o755)


def nothing_of(maker: Driver, name: str) -> None:
    """Nothing was made, nothing runs, nothing is mounted."""
    host = maker.host
    assert sorted(os.listdir(host.path(POOL))) == [], "something is left in the pool"
    assert not host.path(f"{CREDENTIALS}/{name}").exists()
    assert host.run(["pgrep", "-fx", "sleep 987654"], check=False).stdout == ""
    assert (
        "marker-of-the-test"
        not in host.run(["sh", "-c", "cat /proc/[0-9]*/mountinfo 2>/dev/null; true"]).stdout
    )
    units = host.run(["systemctl", "list-units", "--all", "--no-legend", "machined-create-*"]).stdout
    assert units == ""
    assert name not in maker.ctl("list-images", "--no-legend").stdout


def source(maker: Driver, tool: str) -> str:
    return f"{tool}:{maker.host.suite},mirror={mirror.INSIDE},verify=no,variant=minbase"


@pytest.mark.parametrize("tool", ["mmdebstrap", "debootstrap"])
def test_debian_is_made_and_logged_in_to(maker: Driver, name: str, tool: str) -> None:
    made = maker.ctl(
        "create", name, f"--from={source(maker, tool)}", "--root-password-file=/root/password",
        "--hostname=inside", "--locale=C.UTF-8", "--timezone=Europe/Berlin", "--ssh-key=/root/key.pub",
        timeout=400,
    )  # fmt: skip
    assert "nstalling" in made.stderr, "the tool's output is not passed on"
    assert name in maker.ctl("list-images", "--no-legend").stdout
    found = {
        row["what"]: row["state"] for row in json.loads(maker.ctl("check-image", name, "--json").stdout)
    }
    assert found.pop("sshd") == "warn"  # nobody asked for one
    assert set(found.values()) == {"ok"}, found
    tree = maker.host.path(f"{POOL}/{name}")
    assert os.readlink(tree / "etc/localtime") == "../usr/share/zoneinfo/Europe/Berlin"
    maker.start(name)
    assert maker.host.run(["systemctl", "-M", name, "is-system-running"]).stdout.strip() == "running"
    with Terminal(maker, [OURS, "login", name]) as terminal:
        terminal.expect("inside login: ")
        terminal.type("root\n")
        terminal.expect("Password: ")
        terminal.type(f"{PASSWORD}\n")
        terminal.expect("root@inside:")
        terminal.type("echo $LANG $(cat ~/.ssh/authorized_keys)\n")
        terminal.expect(f"C.UTF-8 {KEY}")
    everything = maker.host.run(["journalctl", "--no-pager", "--output=export"]).stdout
    assert PASSWORD not in everything
    assert "$6$" not in everything


def test_from_a_template(maker: Driver, name: str) -> None:
    """A clone is set up as well, be it a tree of its own or, as on most file systems, a layer."""
    base = f"{name}-base"
    guest = maker.host.add_guest(base)
    (guest / "etc/hostname").write_text("base\n", encoding="ascii")
    try:
        made = maker.ctl("create", name, f"--template={base}", *SECRET, "--hostname=inside", "--start")
        assert made.returncode == 0
        assert maker.wait(name, "running") == "running"
        assert maker.guest(name, "hostname").stdout.strip() == "inside"
        shadow = maker.guest(name, "cat", "/etc/shadow").stdout
        assert re.search(r"^root:\$6\$", shadow, re.MULTILINE)
        assert (guest / "etc/hostname").read_text(encoding="ascii") == "base\n"
        assert "$6$" not in (guest / "etc/shadow").read_text(encoding="ascii")
        maker.clear(name)
        assert maker.ctl("check-image", name).returncode == 0
        maker.ctl("remove", name)
    finally:
        maker.clear(name)
        maker.host.run(["chattr", "-R", "-i", f"{POOL}/{base}"], check=False)
        maker.host.run(["rm", "-rf", f"{POOL}/{base}", f"{POOL}/{name}.mstack"])


def test_a_template_that_cannot_be_set_up(maker: Driver, name: str) -> None:
    """There never was one without its settings; and what was there before is still there."""
    base = f"{name}-base"
    maker.host.run(["cp", "-a", "/srv/tiny", f"{POOL}/{base}"])
    settings = maker.host.path(f"/etc/systemd/nspawn/{name}.nspawn")
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("[Exec]\n", encoding="ascii")
    try:
        words = ("--hostname=inside", "--timezone=Mars/Olympus")
        done = maker.ctl("create", name, f"--template={base}", *words, check=False)
        assert done.returncode == 1
        assert "knows no time zone" in done.stderr
        assert settings.exists()
    finally:
        settings.unlink()
        maker.host.run(["sh", "-c", f"chattr -i {POOL}/{base}; rm -rf {POOL}/{base}"])
    nothing_of(maker, name)


def test_credentials_are_root_s_alone(maker: Driver, name: str) -> None:
    given = ("--root-password-file=/root/password", "--hostname=inside")
    maker.ctl("create", name, "--from=dir:/srv/tiny", *given)
    directory = maker.host.path(f"{CREDENTIALS}/{name}")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    files = {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}
    assert files.pop("passwd.hashed-password.root").startswith("$6$rounds=")
    assert files == {"system.hostname": "inside", "firstboot.hostname": "inside"}
    shadow = maker.host.path(f"{POOL}/{name}/etc/shadow")
    assert shadow.read_text(encoding="ascii").startswith("root:$6$rounds=")
    assert shadow.stat().st_mode & 0o777 == 0o600


def test_old_credentials_are_not_those_of_a_new_machine(maker: Driver, name: str) -> None:
    maker.ctl("create", name, "--from=dir:/srv/tiny", "--root-password-file=/root/password")
    maker.host.run(["rm", "-rf", f"{POOL}/{name}"])
    maker.ctl("create", name, "--from=dir:/srv/tiny")
    assert not maker.host.path(f"{CREDENTIALS}/{name}").exists()


def test_an_archive_of_a_system(maker: Driver, name: str) -> None:
    """As a stage3 is: numeric owners, links, devices, file capabilities, compressed."""
    archive = f"/root/{name}.tar.zst"
    command = ["tar", "--create", "--zstd", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C"]
    guest = maker.host.add_guest("donor")
    try:
        (guest / "etc/machine-id").write_text("0" * 31 + "1\n", encoding="ascii")
        os.setxattr(guest / "etc/passwd", "user.test", b"kept")
        maker.host.run([*command, f"{POOL}/donor", f"--file={archive}", "."])
    finally:
        maker.host.run(["rm", "-rf", f"{POOL}/donor"])
    try:
        maker.ctl("create", name, f"--from=tar:{archive}", "--start")
    finally:
        maker.host.run(["rm", archive])
    tree = maker.host.path(f"{POOL}/{name}")
    assert os.getxattr(tree / "etc/passwd", "user.test") == b"kept"
    assert maker.wait(name, "running") == "running"
    identity = maker.guest(name, "cat", "/etc/machine-id").stdout.strip()
    assert re.fullmatch("[0-9a-f]{32}", identity)
    assert identity != "0" * 31 + "1"


def hostile_archive() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:

        def add(path: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            member = tarfile.TarInfo(path)
            member.type, member.linkname, member.mode = kind, target, 0o755
            member.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"evil") if member.size else None)

        add("usr", tarfile.DIRTYPE)
        add("away", tarfile.SYMTYPE, "/root")
        add("away/by-a-link", tarfile.REGTYPE)
        add("up", tarfile.SYMTYPE, "../../../../../root")
        add("up/by-a-relative-link", tarfile.REGTYPE)
        add("/root/by-an-absolute-name")
        add("../../../../../root/by-dots")
        add("password", tarfile.LNKTYPE, "/etc/shadow")
        add("password2", tarfile.LNKTYPE, "../../../../../etc/shadow")
    return data.getvalue()


def test_a_hostile_archive_stays_in_its_tree(maker: Driver, name: str) -> None:
    maker.host.path("/root/evil.tar").write_bytes(hostile_archive())
    before = sorted(os.listdir(maker.host.path("/root")))
    links = maker.host.path("/etc/shadow").stat().st_nlink
    done = maker.ctl("create", name, "--from=tar:/root/evil.tar", "--check=no", check=False)
    assert done.returncode == 1  # tar has complained
    assert "tar ended with exit status 2" in done.stderr
    assert sorted(os.listdir(maker.host.path("/root"))) == before
    assert maker.host.path("/etc/shadow").stat().st_nlink == links
    nothing_of(maker, name)


def test_what_is_set_up_stays_in_its_tree(maker: Driver, name: str) -> None:
    """A tree whose /etc and /root lead out of it."""
    maker.host.run(
        ["sh", "-ec", "cp -a /srv/tiny /srv/evil; cd /srv/evil; rm -r etc; ln -s /etc etc; ln -s /tmp root"]
    )
    before = maker.host.path("/etc/shadow").read_bytes(), maker.host.path("/etc/machine-id").read_bytes()
    given = ("--root-password-file=/root/password", "--hostname=evil", "--ssh-key=/root/key.pub")
    done = maker.ctl("create", name, "--from=dir:/srv/evil", "--check=no", *given, check=False)
    assert done.returncode == 1
    assert (
        maker.host.path("/etc/shadow").read_bytes(),
        maker.host.path("/etc/machine-id").read_bytes(),
    ) == before
    assert not maker.host.path("/tmp/.ssh").exists()
    nothing_of(maker, name)


def test_arch_and_fedora(maker: Driver, name: str) -> None:
    for tool in ("pacstrap", "dnf"):
        put_tool(maker, tool, RECORDER)
    recorded = maker.host.path("/run/recorded")
    maker.ctl("create", name, "--from=pacstrap:,include=vim:openssh", "--timezone=UTC", check=False)
    words = recorded.read_text(encoding="utf-8").split("\n")[:-1]
    tree = words.pop(3)
    assert words == ["pacstrap", "-K", "-c", "base", "vim", "openssh", "tzdata"]
    assert re.fullmatch(r"/var/lib/machines/\.#machined-[0-9a-f]{16}/tree", tree)
    nothing_of(maker, name)  # the tiny tree has no time zones
    what = "dnf:42,repos=fedora:updates,include=vim-minimal,keyring=/root/fedora.gpg"
    maker.ctl("create", name, f"--from={what}", "--locale=de_DE.UTF-8")
    words = recorded.read_text(encoding="utf-8").split("\n")[:-1]
    for word in (
        "--releasever=42", "--best", "--setopt=install_weak_deps=False", "--repo=fedora", "--repo=updates",
        "--setopt=fedora.gpgkey=file:///root/fedora.gpg", "install", "fedora-release", "glibc-langpack-de",
        "systemd", "dbus", "vim-minimal",
    ):  # fmt: skip
        assert word in words, words
    assert not maker.host.path(f"{POOL}/{name}/etc/hostname").exists(), "it is called as its host"
    assert "LANG=de_DE.UTF-8" in maker.host.path(f"{POOL}/{name}/etc/locale.conf").read_text(
        encoding="ascii"
    )


def test_bad_input_changes_nothing(maker: Driver, name: str) -> None:
    host = maker.host
    host.run(
        [
            "sh",
            "-c",
            f"mkdir -p {POOL}/there; ln -sfn /srv/tiny /srv/link; ln -sf /bin/true /usr/local/bin/tar",
        ]
    )
    try:
        for words, said in (
            (["a_b", "--from=dir:/srv/tiny"], "is not valid"),
            ([name], "give one of --from"),
            ([name, "--from=dir:/srv/tiny", "--template=there"], "give one of --from"),
            (["there", "--from=dir:/srv/tiny"], "There is an image 'there' already"),
            ([f"{name}.raw", "--from=dir:/srv/tiny"], "ends in '.raw'"),
            ([f"{name}.v", "--template=there"], "ends in '.v'"),
            ([name, "--from=nix:x"], "No builder 'nix', known are debootstrap:"),
            ([name, "--from=debootstrap"], "No builder"),
            ([name, "--from=debootstrap:"], "needs a suite"),
            ([name, "--from=debootstrap:--foreign"], "is not a suite"),
            ([name, "--from=debootstrap:trixie,mirror=--x"], "is not a URL"),
            ([name, "--from=debootstrap:trixie,colour=red"], "does not know 'colour=red'"),
            ([name, "--from=debootstrap:trixie,arch=a,arch=b"], "given twice"),
            ([name, "--from=mmdebstrap:trixie,include=a;reboot"], "is not packages"),
            ([name, "--from=tar:relative.tar"], "needs an absolute path"),
            ([name, "--from=tar:/srv/none.tar"], "Cannot read '/srv/none.tar'"),
            ([name, "--from=tar:/srv"], "is not a file"),
            ([name, "--from=dir:/srv/../etc"], "needs an absolute path"),
            ([name, "--from=dir:/srv/link"], "links are not followed"),
            ([name, "--from=dir:/root/key.pub"], "is not a directory"),
            ([name, "--from=dir:/"], "inside of it"),
            ([name, "--from=dir:/srv/tiny", "--hostname=a b"], "not a host name"),
            ([name, "--from=dir:/srv/tiny", "--locale=../etc"], "not a locale"),
            ([name, "--from=dir:/srv/tiny", "--timezone=/etc/passwd"], "not a time zone"),
            ([name, "--from=dir:/srv/tiny", "--timezone=Mars/Olympus"], "knows no time zone"),
            ([name, "--from=dir:/srv/tiny", "--ssh-key=/root/password"], "not a public SSH key"),
            ([name, "--from=dir:/srv/tiny", "--root-password-file=/dev/null"], "is empty"),
            ([name, "--from=dir:/srv/tiny", "--root-password"], "no terminal"),
            ([name, "--from=dir:/srv/tiny", "--check=maybe"], "boolean"),
        ):  # fmt: skip
            done = maker.ctl("create", *words, check=False)
            assert done.returncode == 1, words
            assert said in done.stderr, (words, done.stderr)
    finally:
        host.run(["rm", "-r", f"{POOL}/there", "/srv/link", "/usr/local/bin/tar"])
    nothing_of(maker, name)


def test_a_program_that_is_missing(maker: Driver, name: str) -> None:
    for tool in ("pacstrap", "dnf"):
        maker.host.path(f"/usr/local/bin/{tool}").unlink(missing_ok=True)
    done = maker.ctl("create", name, "--from=pacstrap:", check=False)
    assert done.returncode == 1
    assert (
        "the program 'pacstrap', which this host does not have: install the package 'arch-install-scripts'"
        in (done.stderr)
    )
    nothing_of(maker, name)


def test_a_tool_that_fails(maker: Driver, name: str) -> None:
    script = """#!/bin/sh
for n in $(seq 40); do echo line $n; done
echo 'Error: unknown repo: fedora' >&2
exit 3
"""
    put_tool(maker, "dnf", script)
    done = maker.ctl("--quiet", "create", name, "--from=dnf:42", check=False)
    assert done.returncode == 1
    assert f"Machine '{name}' was not made: dnf ended with exit status 3. It said last:" in done.stderr
    assert "line 40\n  Error: unknown repo: fedora\n" in done.stderr
    assert "/etc/yum.repos.d" in done.stderr
    assert "line 1\n" not in done.stderr
    nothing_of(maker, name)


def test_what_cannot_boot_is_not_made(maker: Driver, name: str) -> None:
    maker.host.run(["mkdir", "-p", "/srv/empty"])
    done = maker.ctl("create", name, "--from=dir:/srv/empty", check=False)
    assert done.returncode == 1
    assert "os-release: It has neither" in done.stderr
    assert "init: Nothing in it can boot" in done.stderr
    nothing_of(maker, name)
    maker.ctl("create", name, "--from=dir:/srv/empty", "--check=no")
    checked = maker.ctl("check-image", name, check=False)
    assert checked.returncode == 1
    assert "missing" in checked.stdout


@contextmanager
def begun(maker: Driver, name: str) -> Iterator[subprocess.Popen[str]]:
    """A machine that is being made for ever, and has got somewhere."""
    put_tool(maker, "dnf", ENDLESS)
    with maker.background([OURS, "create", name, "--from=dnf:42"]) as client:
        assert client.stderr is not None
        assert client.stderr.readline() == "it has begun\n"
        assert name not in maker.ctl("list-images", "--no-legend").stdout
        yield client


def test_ctrl_c(maker: Driver, name: str) -> None:
    with begun(maker, name) as client:
        mine = maker.host.run(["pgrep", "-fx", f".*machinectl create {name} .*"]).stdout.split()
        maker.host.run(["kill", "-INT", *mine])
        _, err = client.communicate(timeout=60)
    assert client.returncode == 130
    assert f"Machine '{name}' was not made: The job was canceled." in err
    nothing_of(maker, name)


def test_the_tool_is_killed(maker: Driver, name: str) -> None:
    with begun(maker, name) as client:
        maker.host.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", f"machined-create-{name}"])
        _, err = client.communicate(timeout=60)
    assert client.returncode == 1
    assert "dnf was killed by signal 9" in err
    nothing_of(maker, name)


def test_the_daemon_is_killed(maker: Driver, name: str) -> None:
    with begun(maker, name) as client:
        maker.host.run(["kill", "-KILL", str(maker.daemon_pid())])
        _, err = client.communicate(timeout=60)
    assert client.returncode == 1
    assert "manager ended while it made" in err
    maker.ctl("list")  # by which the bus starts the next one
    swept = f"for i in $(seq 200); do [ -e {POOL}/.#machined-* ] || exit 0; sleep 0.1; done; exit 1"
    maker.host.run(["bash", "-c", swept])
    nothing_of(maker, name)


def test_others_may_not(maker: Driver, name: str) -> None:
    for words in (["create", name, "--from=dir:/srv/tiny"], ["create", name, "--from=tar:/root/none"]):
        done = maker.ctl("--no-ask-password", *words, check=False, user="tester")
        assert done.returncode == 1
        assert "administrator rights" in done.stderr
    nothing_of(maker, name)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_on_file_systems_of_their_own(maker: Driver, name: str, kind: str) -> None:
    """A full one leaves nothing; on btrfs a machine is a subvolume."""
    if not os.path.exists("/dev/loop-control") or f"\t{kind}\n" not in Path("/proc/filesystems").read_text(
        "ascii"
    ):
        pytest.skip(f"no loop devices or no {kind} here")
    size = {"ext4": "16M", "btrfs": "128M"}[kind]
    script = f"""
        truncate -s {size} /root/disk
        mkfs.{kind} -q /root/disk
        mount -o loop /root/disk {POOL}
        rm -rf {POOL}/lost+found
    """
    maker.host.run(["sh", "-ec", script])
    try:
        if kind == "btrfs":
            for what in ("dir:/srv/tiny", "tar:/root/tiny.tar"):
                maker.host.run(["tar", "-C", "/srv/tiny", "-cf", "/root/tiny.tar", "."])
                maker.ctl("create", name, f"--from={what}")
                assert "subvolume" in maker.ctl("list-images", "--no-legend").stdout
                maker.ctl("remove", name)
        for what in ("dir:/usr", f"mmdebstrap:{maker.host.suite},mirror={mirror.INSIDE},verify=no"):
            done = maker.ctl("create", name, f"--from={what}", check=False)
            assert done.returncode == 1
            room = ("No space left on device", "There is not enough room in /var/lib/machines")
            assert any(words in done.stderr for words in room), done.stderr
            nothing_of(maker, name)
    finally:
        maker.host.run(["sh", "-c", f"umount {POOL}; rm -f /root/disk"])
