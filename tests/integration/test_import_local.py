# SPDX-License-Identifier: LGPL-2.1-or-later
"""Imports and exports by our client through systemd-importd: there and back, and what is in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.integration.driver import OURS, Driver, unique_name
from tests.integration.import_lab import POOL, WORK, Lab, archive, small_tree

pytestmark = [pytest.mark.integration, pytest.mark.either("trixie")]


@pytest.fixture(scope="module")
def lab(managed: Driver) -> Iterator[Lab]:
    lab = Lab(managed)
    lab.clear()
    yield lab
    lab.host.run(["rm", "-rf", WORK])


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    yield
    assert lab.transfers() == []
    lab.clear()


def starts(lab: Lab, name: str) -> None:
    """It comes up as a machine, and goes."""
    lab.driver.start(name)
    lab.driver.clear(name)


def test_a_tree_there_and_back(lab: Lab, machine: str) -> None:
    """As a tar and as a directory, with all that is in it; what comes out starts."""
    other, third = unique_name(), unique_name()
    before = lab.look(f"{POOL}/{machine}")
    assert len(before) > 1000
    lab.good("export-tar", machine, f"{WORK}/out.tar")
    lab.good("import-tar", f"{WORK}/out.tar", other)
    kept = lab.look(f"{POOL}/{other}")
    if lab.driver.modern:
        # 262 forgets that a folder is set-group-ID when it has an ACL.
        before = [line.replace("0o42", "0o40") if "posix_acl" in line else line for line in before]
    assert kept == before
    lab.good("import-fs", f"{POOL}/{other}", third)
    assert lab.look(f"{POOL}/{third}") == before
    try:
        starts(lab, other)
    finally:
        lab.driver.remove(other)
        lab.driver.remove(third)


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2", "zstd"])
def test_packed(lab: Lab, kind: str) -> None:
    """By the name of the file and by --format, and unpacked again."""
    suffix = {"gzip": "gz", "xz": "xz", "bzip2": "bz2", "zstd": "zst"}[kind]
    lab.write("in.tar", archive(*small_tree("packed")))
    lab.good("import-tar", f"{WORK}/in.tar", "small")
    if kind == "zstd" and not lab.driver.modern:
        # Stock's client writes a tar that is not packed into such a file.
        assert "cannot compress so" in lab.bad("export-tar", "small", f"{WORK}/out.tar.zst")
        assert lab.sh("ls -A") == "in.tar\n"
        return
    lab.good("export-tar", "small", f"{WORK}/out.tar.{suffix}")
    lab.good(f"--format={kind}", "export-tar", "small", f"{WORK}/other")
    for file in (f"out.tar.{suffix}", "other"):
        assert "etc/os-release" in lab.sh(f"{kind} -dc <{file} | tar -t")
    lab.good("import-tar", f"{WORK}/out.tar.{suffix}")
    assert lab.look(f"{POOL}/out") == lab.look(f"{POOL}/small")


def test_zstd_on_every_host(lab: Lab) -> None:
    lab.write("in.tar", archive(*small_tree("packed")))
    lab.sh("zstd -q in.tar")
    if lab.driver.modern:
        lab.good("import-tar", f"{WORK}/in.tar.zst")
    else:
        said = lab.bad("import-tar", f"{WORK}/in.tar.zst")
        assert "it is compressed in a way that systemd-importd of this host does not know" in said
        assert "zstd -dc FILE | machinectl import-tar - NAME" in said
        assert lab.pool() == []
        # The way it names.
        lab.sh(f"zstd -dc in.tar.zst | {OURS} import-tar - in")
    assert lab.sh(f"cat {POOL}/in/etc/os-release") == "ID=packed\n"


def test_a_disk_there_and_back(lab: Lab) -> None:
    data = os.urandom(2**20) + bytes(2**20)
    lab.write("disk.raw", data)
    lab.good("import-raw", f"{WORK}/disk.raw")
    assert lab.path(f"{POOL}/disk.raw").read_bytes() == data
    lab.good("export-raw", "disk", f"{WORK}/out.raw")
    assert lab.path(f"{WORK}/out.raw").read_bytes() == data
    lab.good("export-raw", "disk", f"{WORK}/out.raw.gz")
    lab.good("import-raw", f"{WORK}/out.raw.gz", "again")
    assert lab.path(f"{POOL}/again.raw").read_bytes() == data


def test_standard_input_and_output(lab: Lab) -> None:
    """Pipes and redirections, and no name where none can be told."""
    lab.write("in.tar", archive(*small_tree("piped")))
    lab.sh(f"{OURS} import-tar - one <in.tar")
    lab.sh(f"cat in.tar | {OURS} import-tar - two")
    lab.sh(f"{OURS} export-tar one >a.tar; {OURS} export-tar two - | cat >b.tar")
    assert lab.sh("tar -tf a.tar; tar -tf b.tar").count("./etc/os-release\n") == 2
    lab.sh(f"{OURS} export-tar one | {OURS} import-tar - three")
    assert lab.look(f"{POOL}/three") == lab.look(f"{POOL}/one")
    assert "Need either path or local name." in lab.bad("import-tar", "-")
    assert "both go to standard output" in lab.bad("--json", "export-tar", "one")
    # There is /dev/null.
    assert "neither a file nor a pipe" in lab.bad("import-tar", "-", "four")
    shown = lab.host.run(["script", "-qec", f"{OURS} export-tar one", "/dev/null"], check=False).stdout
    assert "Refusing to write an image to the terminal." in shown
    shown = lab.host.run(["script", "-qec", f"{OURS} import-tar - five", "/dev/null"], check=False).stdout
    assert "it is a terminal" in shown
    assert sorted(lab.pool()) == ["one", "three", "two"]


def test_files_that_are_there(lab: Lab) -> None:
    """They are kept, and replaced with --force only when the new one is whole."""
    lab.write("in.tar", archive(*small_tree("x")))
    lab.good("import-tar", f"{WORK}/in.tar", "small")
    lab.sh("echo mine >out.tar; chmod 600 out.tar; chown daemon out.tar; ln -s out.tar link.tar; : >empty")
    said = lab.bad("export-tar", "small", f"{WORK}/out.tar")
    assert "that file is there already" in said
    assert "--force replaces it." in said
    assert lab.sh("cat out.tar") == "mine\n"
    lab.bad("--force", "export-tar", "no-such-image", f"{WORK}/out.tar")
    lab.bad("export-tar", "no-such-image", f"{WORK}/new.tar")
    assert lab.sh("cat out.tar") == "mine\n"
    lab.good("export-tar", "small", f"{WORK}/empty")
    lab.good("--force", "export-tar", "small", f"{WORK}/link.tar")
    assert lab.sh("stat -c '%a %U' out.tar; readlink link.tar") == "600 daemon\nout.tar\n"
    assert "./etc/os-release" in lab.sh("tar -tf out.tar")
    assert lab.sh("ls -A") == "empty\nin.tar\nlink.tar\nout.tar\n"


def test_a_directory_with_something_mounted_in_it(lab: Lab) -> None:
    """importd leaves out what is mounted, and what it is mounted on: nothing is missing then."""
    lab.sh("mkdir -p tree/etc tree/proc tree/mnt; echo ID=x >tree/etc/os-release")
    lab.sh("mount -t tmpfs tmpfs tree/mnt; mkdir tree/mnt/deep; mount --bind tree/etc tree/proc")
    try:
        said = lab.good("import-fs", f"{WORK}/tree", "mounted").stderr
    finally:
        lab.sh("umount tree/mnt tree/proc")
    assert "not whole" not in said
    assert lab.sh(f"cd {POOL}/mounted; find . | sort") == ".\n./etc\n./etc/os-release\n"


def test_what_cannot_be(lab: Lab) -> None:
    lab.write("in.tar", archive(*small_tree("x")))
    lab.write("disk.raw", bytes(2**20))
    lab.good("import-tar", f"{WORK}/in.tar", "small")
    lab.good("import-raw", f"{WORK}/disk.raw")
    for words, reason in (
        (["import-tar", f"{WORK}/nothing.tar"], "No such file or directory"),
        (["import-tar", WORK, "x"], "'import-fs' takes those"),
        (["import-fs", f"{WORK}/in.tar", "x"], "Failed to open directory"),
        (["import-tar", f"{WORK}/in.tar", "a/b"], "not a suitable image name"),
        (["import-tar", f"{WORK}/in.tar", ".#x"], "not a suitable image name"),
        (["import-tar", f"{WORK}/in.tar", "small"], "image 'small' exists already"),
        (["import-fs", WORK, "small"], "image 'small' exists already"),
        (["import-raw", f"{WORK}/disk.raw", "small"], "image 'small' exists already"),
        (["export-tar", "nothing", f"{WORK}/out"], "there is no image 'nothing'"),
        (["export-raw", "small", f"{WORK}/out"], "it is a directory tree"),
        (["export-tar", "disk", f"{WORK}/out"], "it is a disk image"),
        (["export-tar", "small", f"{WORK}/no/such/folder"], "No such file or directory"),
        (["export-tar", "small", WORK], "it is a directory"),
        (["pull-tar", "ftp://host/x.tar"], "not valid"),
        (["pull-tar", "http:///x.tar"], "not valid"),
        (["pull-tar", "http://127.0.0.1:1/"], "no name for an image"),
    ):
        assert reason in lab.bad(*words), words
        assert sorted(lab.pool()) == ["disk.raw", "small"], words
    assert lab.sh("ls -A") == "disk.raw\nin.tar\n"
    done = lab.ctl("--no-ask-password", "import-tar", f"{WORK}/in.tar", "x", user="tester")
    assert done.returncode == 1
    assert "try 'sudo machinectl import-tar …'" in done.stderr


def test_a_machine_that_runs_is_not_replaced(lab: Lab, machine: str) -> None:
    """Stock's takes the files of it away."""
    lab.write("in.tar", archive(*small_tree("x")))
    lab.driver.start(machine)
    said = lab.bad("--force", "import-tar", f"{WORK}/in.tar", machine)
    assert f"the machine '{machine}' runs" in said
    assert lab.driver.guest(machine, "ls", "/usr/bin/env").returncode == 0
    # Its image can be exported meanwhile.
    # (Frozen: tar fails when a file changes while it is read, and the guest writes its journal.)
    lab.sh(f"systemctl freeze machine-{machine}.service")
    try:
        lab.good("export-tar", machine, f"{WORK}/live.tar")
    finally:
        lab.sh(f"systemctl thaw machine-{machine}.service")


def test_an_image_of_a_name_no_machine_has(lab: Lab) -> None:
    lab.write("in.tar", archive(*small_tree("x")))
    done = lab.good("import-tar", f"{WORK}/in.tar", "not_startable")
    assert "A machine cannot have the name 'not_startable'" in done.stderr
    assert "not_startable" in lab.images()


def test_in_a_log(lab: Lab) -> None:
    """One line for the beginning and one for the end, and nothing that draws."""
    lab.write("in.tar", archive(*small_tree("x")))
    first, *others = lab.good("import-tar", f"{WORK}/in.tar").stderr.splitlines()
    assert first.startswith("Transfer ")
    assert f"importing '{WORK}/in.tar' as image 'in'" in first
    assert others[-1].startswith(f"Imported '{WORK}/in.tar' as image 'in' (10K in ")
    assert len(others) < 15
    done = lab.good("--json", "export-tar", "in", f"{WORK}/out.tar")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["local"], last["path"], last["result"]) == ("in", f"{WORK}/out.tar", "done")
