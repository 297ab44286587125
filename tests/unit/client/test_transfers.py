# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd-importd is asked for, and what becomes of its answers. It is played by a peer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from machinectl import transfer_verify

from .conftest import Client
from .fakebus import DBUS_ERROR, MACHINE1, MANAGER, FakeError, Leaving, Peer

NAME = "org.freedesktop.import1"
PATH = "/org/freedesktop/import1"
IMPORT = f"{NAME}.Manager"
TRANSFER = f"{NAME}.Transfer"
ROOT = Path(__file__).resolve().parents[3]
URL = "http://host/web.tar"


class Importd(Peer):
    """Plays one transfer, number 7: says some lines, and ends it as `result` tells."""

    def __init__(self, address: str) -> None:
        super().__init__(address, NAME)
        self.result = "done"
        self.lines: list[tuple[int, str]] = []
        self.written = b""
        self.path = f"{PATH}/transfer/_7"

    def serves(self, *members: str) -> None:
        for member in members:
            self.on(IMPORT, member, self.transfer)

    def transfer(self, *arguments: Any) -> tuple[str, tuple[Any, ...]]:
        for argument in arguments:
            if hasattr(argument, "to_raw_fd"):
                fd = argument.to_raw_fd()
                if self.written:
                    os.write(fd, self.written)
                os.close(fd)
        # Another's transfer, which is none of ours.
        self.emit(f"{PATH}/transfer/_6", TRANSFER, "LogMessage", "us", 30, "Not ours.")
        self.emit(PATH, IMPORT, "TransferRemoved", "uos", 6, f"{PATH}/transfer/_6", "failed")
        for priority, line in self.lines:
            self.emit(self.path, TRANSFER, "LogMessage", "us", priority | 24, line)
        self.emit(self.path, TRANSFER, "ProgressUpdate", "d", 0.5)
        self.end()
        return "uo", (7, self.path)

    def unknown(self, *arguments: Any) -> None:
        for argument in arguments:
            if hasattr(argument, "to_raw_fd"):
                os.close(argument.to_raw_fd())
        raise FakeError(DBUS_ERROR + "UnknownMethod", "Unknown method")

    def asked(self) -> list[tuple[str, tuple[Any, ...]]]:
        """The calls, without descriptors."""
        return [
            (member, tuple(a for a in given if not hasattr(a, "fileno"))) for member, given in self.calls
        ]

    def end(self) -> None:
        if self.result:
            self.emit(PATH, IMPORT, "TransferRemoved", "uos", 7, self.path, self.result)


@pytest.fixture
def importd(system_bus: str) -> Iterator[Importd]:
    with Importd(system_bus) as peer:
        yield peer


def test_a_download(importd: Importd, client: Client) -> None:
    importd.serves("PullTarEx")
    importd.lines = [(6, "Something.")]
    status, out, err = client("pull-tar", URL)
    assert (status, out) == (0, "")
    assert err.splitlines()[0] == f"Transfer 7: pulling '{URL}' as image 'web' (Ctrl-C cancels it)"
    assert "Something.\n" in err
    assert "Not ours." not in err
    assert err.splitlines()[-1].startswith(f"Pulled '{URL}' as image 'web' (in ")
    assert importd.calls == [("PullTarEx", (URL, "web", "machine", "signature", 4))]


def test_what_is_asked_for(importd: Importd, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "web.raw.xz"
    file.write_bytes(b"data")
    importd.serves("PullRawEx", "PullOci", "ImportRawEx", "ImportTarEx", "ImportFileSystemEx", "ExportTarEx")
    for words in (
        ["--force", "--read-only", "--verify=no", "pull-raw", "http://host/a.raw?x", "b.raw"],
        ["pull-tar", URL, "-"], ["--read-only", "pull-oci", "host/a/web:13"], ["import-raw", str(file)],
        ["--force", "import-tar", str(file), "other"], ["import-fs", str(tmp_path), "tree"],
        ["export-tar", "web", str(tmp_path / "out.xz")],
        ["--format=gzip", "export-tar", "web", str(tmp_path / "out")],
    ):  # fmt: skip
        importd.serves("PullTarEx")
        assert client("-q", *words) == (0, "", ""), words
    assert importd.asked() == [
        ("PullRawEx", ("http://host/a.raw?x", "b", "machine", "no", 7)),
        ("PullTarEx", (URL, "", "machine", "signature", 4)),
        ("PullOci", ("host/a/web:13", "web", "machine", 2)),
        ("ImportRawEx", ("web", "machine", 0)), ("ImportTarEx", ("other", "machine", 1)),
        ("ImportFileSystemEx", ("tree", "machine", 0)),
        ("ExportTarEx", ("web", "machine", "xz", 0)), ("ExportTarEx", ("web", "machine", "gzip", 0)),
    ]  # fmt: skip


def test_before_systemd_256(importd: Importd, client: Client, tmp_path: Path) -> None:
    """Without the methods that take flags."""
    (tmp_path / "web.tar").write_bytes(b"data")
    importd.serves("PullTar", "ImportTar", "ExportRaw")
    for member in ("ImportTarEx", "ExportRawEx"):
        importd.on(IMPORT, member, importd.unknown)
    assert client("-q", "--force", "pull-tar", URL).status == 0
    assert client("-q", "--read-only", "import-tar", str(tmp_path / "web.tar")).status == 0
    assert client("-q", "export-raw", "web", str(tmp_path / "out")).status == 0
    assert importd.asked()[1::2] == [
        ("PullTar", (URL, "web", "signature", True)), ("ImportTar", ("web", False, True)),
        ("ExportRaw", ("web", "")),
    ]  # fmt: skip
    assert "too old" in client("--read-only", "pull-tar", URL).err
    assert "since systemd 260" in client("pull-oci", "web").err
    importd.answer(
        IMPORT, "ListTransfers", "a(usssdo)", [(3, "pull-tar", URL, "web", 0.5, f"{PATH}/transfer/_3")]
    )
    assert client("list-transfers", "--no-legend").out == f"3 50% pull-tar machine web {URL}\n"


def test_failures(importd: Importd, client: Client) -> None:
    importd.serves("PullTarEx")
    importd.result, importd.lines = "failed", [(3, "Image 'web' already exists.")]
    status, out, err = client("--quiet", "pull-tar", URL)
    assert (status, out) == (1, "")
    assert err == (
        f"Failed pulling '{URL}' as image 'web': image 'web' exists already.\n"
        "--force replaces it, another NAME leaves it alone.\n"
    )
    importd.result, importd.lines = "canceled", []
    assert client("-q", "pull-tar", URL).err.startswith(f"Cancelled pulling '{URL}' as image 'web'.\n")


@pytest.mark.parametrize(
    ("error", "text", "hint"),
    [
        (f"{NAME}.TransferInProgress", "in progress", "'machinectl list-transfers' shows it."),
        (f"{DBUS_ERROR}AccessDenied", "Access denied", "try 'sudo machinectl pull-tar …'"),
        (f"{DBUS_ERROR}InvalidArgs", "Bad name", ""),
    ],
)
def test_refusals(importd: Importd, client: Client, error: str, text: str, hint: str) -> None:
    importd.fail(IMPORT, "PullTarEx", error, text)
    status, _, err = client("pull-tar", URL)
    assert status == 1
    assert err.startswith(f"Could not begin pulling '{URL}' as image 'web': {text}")
    assert hint in err


def test_importd_is_not_there(system_bus: str, client: Client) -> None:
    for words in (["pull-tar", URL], ["list-transfers"], ["cancel-transfer", "1"]):
        status, _, err = client(*words)
        assert status == 1
        assert "the import service (systemd-importd) is not there" in err
        assert "'systemd-container'" in err


def test_importd_leaves(importd: Importd, client: Client) -> None:

    def leave(*_: object) -> None:
        raise Leaving

    importd.on(IMPORT, "PullTarEx", leave)
    err = client("pull-tar", URL).err
    assert err.startswith("Could not begin pulling")


def interrupted(importd: Importd, result: str) -> None:
    """^C comes with the beginning of a transfer, which ends with this when it is to be cancelled."""
    importd.result = ""

    def begin(*arguments: Any) -> tuple[str, tuple[Any, ...]]:
        answer = importd.transfer(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return answer

    def cancel() -> None:
        importd.result = result
        importd.end()

    importd.on(IMPORT, "PullTarEx", begin)
    importd.on(TRANSFER, "Cancel", cancel)


def test_an_interruption(importd: Importd, client: Client) -> None:
    """The first asks importd to end it; the end is waited for."""
    interrupted(importd, "canceled")
    before = signal.getsignal(signal.SIGINT)
    status, _, err = client("pull-tar", URL)
    assert status == 1
    assert err.endswith(f"Cancelled pulling '{URL}' as image 'web'.\nNothing of it remains.\n")
    assert importd.members() == ["PullTarEx", "Cancel"]
    assert signal.getsignal(signal.SIGINT) is before


def test_it_was_done_before_it_could_be_cancelled(importd: Importd, client: Client) -> None:
    interrupted(importd, "done")
    assert client("pull-tar", URL).status == 0


def test_a_machine_that_runs_is_not_replaced(importd: Importd, manager: Peer, client: Client) -> None:
    importd.serves("PullTarEx")
    manager.answer(MANAGER, "GetMachine", "o", "/org/freedesktop/machine1/machine/web")
    assert client("-q", "pull-tar", URL).status == 0
    status, _, err = client("--force", "pull-tar", URL)
    assert status == 1
    assert "the machine 'web' runs, and would lose its files" in err
    assert len(importd.calls) == 1
    manager.fail(MANAGER, "GetMachine", f"{MACHINE1}.NoSuchMachine", "no")
    assert client("-q", "--force", "pull-tar", URL).status == 0


def test_an_export_that_fails_leaves_nothing(importd: Importd, client: Client, tmp_path: Path) -> None:
    importd.serves("ExportTarEx")
    importd.written = b"half"
    importd.result = "failed"
    out = tmp_path / "out.tar"
    assert client("export-tar", "web", str(out)).status == 1
    assert list(tmp_path.iterdir()) == []
    importd.result = "done"
    assert client("-q", "export-tar", "web", str(out)).status == 0
    assert out.read_bytes() == b"half"
    assert "that file is there already" in client("export-tar", "web", str(out)).err
    importd.written = b"whole"
    assert client("-q", "--force", "export-tar", "web", str(out)).status == 0
    assert out.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("where", ["--host=far", "--machine=box"])
def test_files_do_not_go_elsewhere(no_bus: None, client: Client, where: str) -> None:
    for words in (["import-tar", "x.tar"], ["import-fs", "x"], ["export-raw", "x", "y"]):
        status, _, err = client(where, *words)
        assert status == 1
        assert "works with files of the host it runs on" in err


def test_a_list(importd: Importd, client: Client) -> None:
    rows = [
        (12, "pull-tar", URL, "web", "machine", 0.29, f"{PATH}/transfer/_12"),
        (3, "import-raw", "", "disk", "machine", -1.7e308, f"{PATH}/transfer/_3"),
    ]
    importd.answer(IMPORT, "ListTransfersEx", "a(ussssdo)", rows)
    assert client("list-transfers").out.splitlines() == [
        "ID PROGRESS TYPE       CLASS   LOCAL REMOTE",
        " 3        - import-raw machine disk  -",
        f"12      29% pull-tar   machine web   {URL}",
        "",
        "2 transfers listed.",
    ]
    assert client("-o", "json", "list-transfers").out == (
        '[{"id":3,"progress":null,"type":"import-raw","class":"machine","local":"disk","remote":null},'
        f'{{"id":12,"progress":29,"type":"pull-tar","class":"machine","local":"web","remote":"{URL}"}}]\n'
    )
    importd.answer(IMPORT, "ListTransfersEx", "a(ussssdo)", [])
    assert client("list-transfers").out == "No transfers.\n"
    assert client("--json", "list-transfers").out == "[]\n"


def test_cancelling(importd: Importd, client: Client) -> None:
    importd.on(IMPORT, "CancelTransfer", lambda number: None)
    assert client("cancel-transfer", "3", "4") == (0, "", "")
    assert importd.calls == [("CancelTransfer", (3,)), ("CancelTransfer", (4,))]
    assert client("cancel-transfer", "5", "x").status == 1
    assert len(importd.calls) == 2
    importd.fail(IMPORT, "CancelTransfer", f"{NAME}.NoSuchTransfer", "No transfer by id 9")
    assert client("cancel-transfer", "9").err == (
        "Could not cancel transfer 9: No transfer by id 9\n"
        "'machinectl list-transfers' shows those there are.\n"
    )


def missing(source: Path, copy: Path, since: float) -> str:
    fd = os.open(source, os.O_RDONLY)
    try:
        return transfer_verify.compare(fd, str(copy), since).missing
    finally:
        os.close(fd)


def test_is_a_copy_whole(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    for top in (source, copy):
        (top / "a/b").mkdir(parents=True)
        (top / "a/b/file").write_text("0123456789")
        (top / "link").symlink_to("/nowhere")
    (source / "socket").touch()
    (copy / "socket").touch()
    later = (source / "socket").stat().st_ctime + 10
    assert missing(source, copy, later) == ""
    (copy / "a/b/file").write_text("01234")
    assert missing(source, copy, later) == "a/b/file"
    # It changed while it was copied: nobody knows what it should be.
    assert missing(source, copy, later - 20) == ""
    (copy / "a/b/file").write_text("0123456789ab")
    (copy / "link").unlink()
    assert missing(source, copy, later) == "link"
    with pytest.raises(OSError):
        missing(source, tmp_path / "nothing", later)


# systemd-importd copies neither what is mounted below a directory nor what it is mounted on.
MOUNTED = """
import os, subprocess, sys
from machinectl import transfer_verify
top = sys.argv[1]
for name in ("bind mount", "tmpfs"):
    os.mkdir(f"{top}/source/{name}")
subprocess.run(["mount", "--bind", f"{top}/outside", f"{top}/source/bind mount"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", f"{top}/source/tmpfs"], check=True)
os.mkdir(f"{top}/source/tmpfs/deep")
subprocess.run(["mount", "--bind", f"{top}/outside/file", f"{top}/source/file"], check=True)
fd = os.open(f"{top}/source", os.O_RDONLY)
for name in ("file", "nothing"):
    print(transfer_verify.compare(fd, f"{top}/copy", float(sys.argv[2])))
    os.path.exists(f"{top}/copy/file") and os.unlink(f"{top}/copy/file")
"""


def test_what_is_mounted_in_a_tree_is_not_missed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts take root")
    for name in ("source", "copy", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("0123456789")
    later = (tmp_path / "outside/file").stat().st_ctime + 10
    program = ["unshare", "--mount", "--propagation=private", sys.executable, "-c", MOUNTED]
    done = subprocess.run(
        [*program, str(tmp_path), str(later)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    # A file with another mounted over it is copied as that.
    assert done.stdout.splitlines() == [
        "Verdict(missing='', subvolumes=[])", "Verdict(missing='file', subvolumes=[])",
    ], done.stderr  # fmt: skip


def test_subvolumes_that_importd_leaves_out_are_named(
    importd: Importd, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played by a directory that is told to be on another device."""
    real = os.stat

    def stat(path: Any, *args: Any, **more: Any) -> os.stat_result:
        found = real(path, *args, **more)
        other = found.st_ino == inside.st_ino
        return os.stat_result((*found[:2], -1, *found[3:]), {"st_ctime": 0.0}) if other else found

    (tmp_path / "pool/tree").mkdir(parents=True)
    (tmp_path / "source/inside/deep").mkdir(parents=True)
    inside = (tmp_path / "source/inside").stat()
    monkeypatch.setattr(transfer_verify, "POOL", str(tmp_path / "pool"))
    monkeypatch.setattr(os, "stat", stat)
    importd.serves("ImportFileSystemEx")
    status, _, err = client("import-fs", str(tmp_path / "source"), "tree")
    assert status == 0
    assert "Not in the image: 'inside', a subvolume of its own" in err


def test_an_export_does_not_replace_what_came_meanwhile(
    importd: Importd, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "web.tar"

    def meanwhile(*arguments: Any) -> tuple[str, tuple[Any, ...]]:
        target.write_text("another's")
        return importd.transfer(*arguments)

    importd.written = b"ours"
    importd.on(IMPORT, "ExportTarEx", meanwhile)
    there = f"Cannot export to '{target}': that file is there already."
    for empty in (False, True):  # one of no size may be replaced while it is that
        if empty:
            target.touch()
        status, _, err = client("export-tar", "web", str(target))
        assert (status, there in err) == (1, True), err
        assert [path.name for path in tmp_path.iterdir()] == ["web.tar"]
        assert target.read_text() == "another's"
        target.unlink()
    assert client("--force", "export-tar", "web", str(target)).status == 0
    assert target.read_bytes() == b"ours"
    target.unlink()

    # Where a file system has no links.
    def link(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", link)
    assert client("export-tar", "web", str(target)).status == 1
    assert target.read_text() == "another's"
    target.unlink()
    importd.serves("ExportTarEx")
    assert client("export-tar", "web", str(target)).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["web.tar"]
    assert target.read_bytes() == b"ours"
