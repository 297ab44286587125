# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from pathlib import Path

import pytest

from machined.model import builders
from machined.model.builders.plan import TREE, Plan, Wishes
from machined.model.errors import MachineError, Problem

NOTHING = Wishes()


def plan(source: str, wishes: Wishes = NOTHING) -> Plan:
    return builders.resolve(source, wishes)[1]


def command(source: str, wishes: Wishes = NOTHING) -> list[str]:
    return list(plan(source, wishes).command)


def refusal(source: str) -> str:
    with pytest.raises(MachineError) as caught:
        plan(source)
    assert caught.value.problem is Problem.INVALID_ARGS
    return caught.value.text


def test_debootstrap() -> None:
    assert command("debootstrap:trixie") == [
        "debootstrap", "--force-check-gpg", "--include=systemd-sysv,dbus,libpam-systemd", "trixie", TREE,
    ]  # fmt: skip
    source = (
        "debootstrap:jammy,mirror=http://archive.ubuntu.com/ubuntu,components=main:universe,arch=arm64,"
        "variant=minbase,include=vim:dbus:g++,keyring=/usr/share/keyrings/ubuntu.gpg"
    )
    assert command(source) == [
        "debootstrap", "--force-check-gpg", "--arch=arm64", "--variant=minbase",
        "--keyring=/usr/share/keyrings/ubuntu.gpg", "--components=main,universe",
        "--include=systemd-sysv,dbus,libpam-systemd,vim,g++", "jammy", TREE,
        "http://archive.ubuntu.com/ubuntu",
    ]  # fmt: skip
    bare = plan("debootstrap:sid,login=no,verify=no,mirror=/srv/mirror")
    assert list(bare.command) == ["debootstrap", "--no-check-gpg", "sid", TREE, "file:///srv/mirror"]
    assert not any("systemd-networkd" in word for step in bare.afterwards for word in step)


def test_mmdebstrap() -> None:
    assert command("mmdebstrap:stable,login=no,arch=arm64") == [
        "mmdebstrap", "--mode=root", "--format=directory", "--architectures=arm64", "--components=main",
        "stable", TREE,
    ]  # fmt: skip
    words = command("mmdebstrap:sid,mirror=/srv/mirror,verify=no,components=main:contrib")
    assert words[-1] == "deb [trusted=yes] copy:///srv/mirror sid main contrib"
    assert "has to be named by 'mirror='" in refusal("mmdebstrap:sid,verify=no")


def test_what_the_first_boot_needs_comes_along() -> None:
    wishes = Wishes(locale="de_DE.UTF-8@euro", timezone="Europe/Berlin")
    made = plan("debootstrap:trixie", wishes)
    assert "--include=systemd-sysv,dbus,libpam-systemd,locales,tzdata" in made.command
    assert made.afterwards[0] == (
        "chroot", TREE, "localedef", "-i", "de_DE@euro", "-f", "UTF-8", "de_DE.UTF-8@euro",
    )  # fmt: skip
    assert "locales" not in " ".join(command("debootstrap:trixie", Wishes(locale="C.UTF-8")))
    assert "glibc-langpack-de" in command("dnf:42", wishes)
    assert "tzdata" in command("pacstrap:", wishes)


def test_pacstrap() -> None:
    assert command("pacstrap:") == ["pacstrap", "-K", "-c", TREE, "base"]
    assert command("pacstrap:base:openssh,include=vim,config=/etc/pacman-x.conf") == [
        "pacstrap", "-K", "-c", "-C", "/etc/pacman-x.conf", TREE, "base", "openssh", "vim",
    ]  # fmt: skip


def test_dnf() -> None:
    words = command("dnf:37")
    assert words[:6] == [
        "dnf", "--assumeyes", "--releasever=37", "--best", f"--installroot={TREE}",
        "--setopt=install_weak_deps=False",
    ]  # fmt: skip
    assert {"--repo=fedora", "--repo=updates", "--setopt=fedora.gpgcheck=1"} <= set(words)
    assert words[words.index("install") + 1 :][:2] == ["fedora-release", "glibc-langpack-en"]
    words = command("dnf:9,distribution=almalinux,mirror=https://repo.example/9,verify=no,arch=aarch64")
    assert {"--repofrompath=baseos,https://repo.example/9", "--repo=baseos", "--nogpgcheck"} <= set(words)
    assert {"almalinux-release", "passwd", "--forcearch=aarch64"} <= set(words)
    assert "knows no distribution 'suse', known are fedora," in refusal("dnf:15,distribution=suse")


def test_archives_and_directories() -> None:
    made = plan("tar:/srv/stage 3, amd64.tar.xz")
    assert "--file=/srv/stage 3, amd64.tar.xz" in made.command
    assert made.confined
    assert made.reads == "/srv/stage 3, amd64.tar.xz"
    assert not made.installs
    assert plan("dir:/srv/tree/").copies == "/srv/tree"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "No builder ''"),
        ("debootstrap", "No builder 'debootstrap', known are debootstrap:SUITE"),
        ("\x1b[2J:x", "No builder '?[2J'"),
        ("debootstrap:", "needs a suite"),
        ("debootstrap:-x", "'-x' is not a suite"),
        ("debootstrap:trixie\n", "control characters"),
        ("debootstrap:../../x", "is not a suite"),
        ("debootstrap:" + "x" * 5000, "too long"),
        ("debootstrap:trixie,", "does not know ''"),
        ("debootstrap:trixie,mirror", "does not know 'mirror'"),
        ("debootstrap:trixie,mirror=http://a b", "is not a URL or an absolute path"),
        ("debootstrap:trixie,mirror=deb http://a x main", "is not a URL"),
        ("mmdebstrap:trixie,mirror=http://a/[trusted=yes]", "is not a URL"),
        ("debootstrap:trixie,keyring=../x", "is not an absolute path"),
        ("debootstrap:trixie,include=a::b", "is not packages"),
        ("debootstrap:trixie,include=-a", "is not packages"),
        ("debootstrap:trixie,verify=maybe", "is not 'yes' or 'no'"),
        ("pacstrap:base,mirror=http://x", "does not know 'mirror=http://x'"),
        ("tar:host:file", "needs an absolute path"),
        ("dir:", "needs an absolute path"),
        ("dir:/a//b", "needs an absolute path"),
    ],
)
def test_bad_sources(source: str, said: str) -> None:
    assert said in refusal(source)


def test_no_builder_lets_an_option_in() -> None:
    """Whatever is written, each word of a command that is not the program's is one the builder wrote."""
    for name in builders.BUILDERS:
        for text in ("--foreign", "x,include=--force", "x,mirror=--x", "x,arch=-x", "x,variant=--", "-"):
            with pytest.raises(MachineError):
                plan(f"{name}:{text}")


def test_what_the_host_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "SEARCH_PATH", str(tmp_path))

    def check(source: str) -> MachineError:
        with pytest.raises(MachineError) as caught:
            builders.check_host(*builders.resolve(source, NOTHING))
        return caught.value

    assert (
        "needs the program 'dnf', which this host does not have: install the package 'dnf'"
        in check("dnf:1").text
    )
    (tmp_path / "tar").touch(mode=0o755)
    assert check(f"tar:{tmp_path}/none").problem is Problem.FILE_NOT_FOUND
    assert "is not a file" in check(f"tar:{tmp_path}").text
    (tmp_path / "link").symlink_to("/")
    assert "links are not followed" in check(f"dir:{tmp_path}/link").text
    builders.check_host(*builders.resolve(f"dir:{tmp_path}", NOTHING))


@pytest.mark.parametrize(
    ("builder", "line", "said"),
    [
        ("debootstrap", "E: Release signed by unknown key (key id 648ACFD622F3D138)", "removed-keys.gpg"),
        ("mmdebstrap", "W: GPG error: http://x trixie: NO_PUBKEY 0123", "keyring="),
        ("debootstrap", "E: No such script: /usr/share/debootstrap/scripts/foo", "code name"),
        ("mmdebstrap", "E: You don't have enough free space in /x", "machinectl clean"),
        ("dnf", "Error: Unknown repo: 'fedora'", "/etc/yum.repos.d"),
        ("pacstrap", "error: keyring is not writable", "pacman-key --init"),
        ("tar", "tar: This does not look like a tar archive", "no archive"),
    ],
)
def test_hints(builder: str, line: str, said: str) -> None:
    assert said in builders.BUILDERS[builder].hint(["something", line])
    assert builders.BUILDERS[builder].hint(["all is well"]) == ""
