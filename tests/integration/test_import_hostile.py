# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives that want more than a tree, and pools without room: nothing else is touched, nothing is left."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator

import pytest

from tests.integration.driver import Driver
from tests.integration.import_lab import POOL, WORK, Lab, Member, archive, small_tree

pytestmark = [pytest.mark.integration, pytest.mark.either("sid")]

LINK, HARD, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
UP = "../" * 12

# Each wants a file "pwned…" outside of its tree, or another's file changed.
TRICKS = {
    "absolute": [Member("/pwned", "x"), Member("/tmp/pwned", "x")],
    "parents": [Member("../pwned", "x"), Member(f"{UP}tmp/pwned", "x"), Member(f"etc/{UP}tmp/pwned", "x")],
    "inner parents": [Member("a"), Member("a/b"), Member("a/b/../../../pwned", "x")],
    "link to the root": [Member("out", kind=LINK, link="/"), Member("out/pwned", "x")],
    "link to a folder": [Member("out", kind=LINK, link="/tmp"), Member("out/pwned", "x")],
    "link upwards": [
        Member("out", kind=LINK, link=UP), Member("out/pwned", "x"), Member("out/tmp/pwned", "x"),
    ],
    "link to the pool": [Member("out", kind=LINK, link=".."), Member("out/pwned", "x")],
    "chain of links": [
        Member("a", kind=LINK, link="b"), Member("b", kind=LINK, link="/tmp"), Member("a/pwned", "x"),
    ],
    "link instead of a folder": [
        Member("etc", kind=LINK, link="/etc"), Member("etc/pwned", "x"), Member("etc/hostname", "pwned\n"),
    ],
    "file through a link": [Member("f", kind=LINK, link="/tmp/pwned"), Member("f", "x")],
    "hard link to a file": [Member("f", kind=HARD, link="/etc/hostname"), Member("f", "pwned\n")],
    "hard link upwards": [Member("f", kind=HARD, link=f"{UP}etc/hostname"), Member("f", "pwned\n")],
    "hard link through a link": [
        Member("out", kind=LINK, link="/etc"), Member("f", kind=HARD, link="out/hostname"),
        Member("f", "pwned\n"),
    ],
    "device outside": [Member("out", kind=LINK, link="/tmp"), Member("out/pwned", kind=DEVICE)],
    "folder outside": [Member("out", kind=LINK, link="/tmp"), Member("out/pwned")],
    "modes outside": [Member("out", kind=LINK, link="/tmp/imports/mine"), Member("out/")],
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(managed: Driver) -> Iterator[Lab]:
    lab = Lab(managed)
    lab.clear()
    yield lab
    lab.clear()
    lab.host.run(["rm", "-rf", WORK])


def outside(lab: Lab) -> str:
    """What must not change, and what must not be there: everything but trees of the pool."""
    return lab.sh(
        f"find / /tmp /run /dev {POOL} -xdev -path '{POOL}/*/*' -prune -o -name 'pwned*' -print\n"
        "cat /etc/hostname; stat -c '%a %h %i %Y' /etc/hostname /tmp /etc /; stat -c %a mine; ls -A mine"
    )


@pytest.mark.parametrize("trick", TRICKS)
def test_nothing_is_written_outside_of_the_tree(lab: Lab, trick: str) -> None:
    """Whether the archive is taken or refused: systemd-importd decides that."""
    lab.write("mine/file", b"x")
    lab.sh("chmod 700 mine")
    lab.write("trick.tar", archive(*small_tree("trick"), *TRICKS[trick]))
    before = outside(lab)
    assert "pwned" not in before
    done = lab.ctl("import-tar", f"{WORK}/trick.tar", "trick")
    assert done.returncode in (0, 1)
    assert outside(lab) == before
    assert lab.pool() == (["trick"] if done.returncode == 0 else [])
    if done.returncode == 0:
        lab.good("remove", "trick")
    assert outside(lab) == before
    assert lab.pool() == []


def test_it_would_be_noticed(lab: Lab) -> None:
    lab.sh("mkdir -p mine")
    before = outside(lab)
    for path in ("/pwned", "/tmp/pwned", "/run/pwned", f"{POOL}/pwned", "/etc/pwned", f"{WORK}/mine/x"):
        lab.sh(f"touch {path}")
        assert outside(lab) != before
        lab.sh(f"rm {path}")


def test_a_device_node(lab: Lab) -> None:
    """Trees of systems have them: it is one in the tree, with no more rights than it is given there."""
    lab.write("device.tar", archive(*small_tree("x"), Member("dev"), Member("dev/null", kind=DEVICE)))
    lab.good("import-tar", f"{WORK}/device.tar", "trick")
    assert lab.sh(f"stat -c '%F %a %u' {POOL}/trick/dev/null") == "character special file 644 0\n"
    lab.good("remove", "trick")


def test_not_an_archive(lab: Lab) -> None:
    lab.write("noise.tar", os.urandom(2**16))
    lab.write("cut.tar", archive(*small_tree("x"), Member("big", "x" * 10000))[:5000])
    for name in ("noise.tar", "cut.tar"):
        said = lab.bad("import-tar", f"{WORK}/{name}", "broken")
        assert f"Failed importing '{WORK}/{name}' as image 'broken': " in said
        assert lab.pool() == []


def test_a_thousand_odd_files_are_no_thousand_lines(lab: Lab) -> None:
    """tar complains of each member that lies in the future."""
    files = [Member(f"file{number}", "x") for number in range(1000)]
    lab.write("odd.tar", archive(*small_tree("x"), *files))
    lab.sh("mkdir odd; tar -C odd -xf odd.tar; find odd -type f -exec touch -d 2090-01-01 {} +")
    lab.sh("tar -C odd -cf odd.tar .")
    done = lab.good("import-tar", f"{WORK}/odd.tar", "odd")
    # A hundred of importd's lines, one for each tenth of the way, and what we say ourselves.
    assert len(done.stderr.splitlines()) <= 115
    if not lab.driver.modern:
        assert "… and more: 'journalctl -u systemd-importd.service' has all of it." in done.stderr
    lab.good("remove", "odd")


@pytest.fixture
def full(own_managed: Driver) -> Iterator[Lab]:
    """A pool with room for some MiB."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices here")
    own_managed.host.boot()
    lab = Lab(own_managed)
    lab.host.run(["mkdir", WORK])
    lab.sh(f"truncate -s 12M pool; mkfs.ext4 -q pool; mount -o loop pool {POOL}; rmdir {POOL}/lost+found")
    yield lab
    lab.sh(f"umount {POOL}")


def test_no_space(full: Lab) -> None:
    """Every way in."""
    lab = full
    lab.sh("mkdir -p tree/etc; echo ID=x >tree/etc/os-release; head -c 30M /dev/urandom >tree/data")
    lab.sh("mkdir -p www; tar -C tree -cf www/big.tar .; cp tree/data www/big.raw")
    with lab.server() as server:
        url = server.url("files", "big")
        for words in (
            ["import-tar", f"{WORK}/www/big.tar"], ["import-raw", f"{WORK}/www/big.raw"],
            ["pull-tar", "--verify=no", f"{url}.tar"], ["pull-raw", "--verify=no", f"{url}.raw"],
        ):  # fmt: skip
            said = lab.bad(*words, "big")
            assert "there is no space left" in said.splitlines()[-2]
            assert "'machinectl image-status' shows the pool" in said
            assert lab.pool() == []
            assert lab.transfers() == []
    said = lab.bad("import-fs", f"{WORK}/tree", "big")
    assert "there is no space left" in said
    assert lab.pool() == []
    lab.write("in.tar", archive(*small_tree("fits")))
    lab.good("import-tar", f"{WORK}/in.tar")


def test_no_space_for_an_export(full: Lab) -> None:
    lab = full
    lab.sh(f"umount {POOL}; mkdir small; mount -o loop pool small")
    try:
        lab.sh(
            f"mkdir -p {POOL}/big/etc; head -c 30M /dev/urandom >{POOL}/big/data; echo mine >small/out.tar"
        )
        said = lab.bad("--force", "export-tar", "big", f"{WORK}/small/out.tar")
        assert "there is no space left" in said
        assert lab.sh("ls -A small; cat small/out.tar") == "out.tar\nmine\n"
    finally:
        lab.sh(f"umount small; mount -o loop pool {POOL}")
