# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verbs on images, and on files between host and guest: the calls they make and what they print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from machinectl import files
from machinectl.errors import CommandError
from machinectl.timefmt import UINT64_MAX

from .conftest import Client
from .fakebus import DBUS_ERROR, MACHINE1, MANAGER, FakeError, Peer

PROPERTIES = "org.freedesktop.DBus.Properties"
IMAGE_PATH = "/org/freedesktop/machine1/image/x"
IMAGE = {
    "Name": ("s", "x"), "Path": ("s", "/var/lib/machines/x.raw"), "Type": ("s", "raw"),
    "ReadOnly": ("b", True),
    "CreationTimestamp": ("t", 1_700_000_000_000_000), "ModificationTimestamp": ("t", 0),
    "Usage": ("t", 4096), "Limit": ("t", 3 * 1024**3), "UsageExclusive": ("t", 1024),
    "LimitExclusive": ("t", UINT64_MAX),
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("remove a b", ("RemoveImage", ("b",))),
        ("rename a b", ("RenameImage", ("a", "b"))),
        ("clone a b", ("CloneImage", ("a", "b", False))),
        ("clone --read-only a b", ("CloneImage", ("a", "b", True))),
        ("read-only a", ("MarkImageReadOnly", ("a", True))),
        ("read-only a off", ("MarkImageReadOnly", ("a", False))),
        ("set-limit 1.5G", ("SetPoolLimit", (3 * 1024**3 // 2,))),
        ("set-limit none", ("SetPoolLimit", (UINT64_MAX,))),
        ("set-limit a -", ("SetImageLimit", ("a", UINT64_MAX))),
        ("set-limit a 1K", ("SetImageLimit", ("a", 1024))),
        ("bind a /x", ("BindMountMachine", ("a", "/x", "", False, False))),
        ("bind --mkdir --read-only a /x /y", ("BindMountMachine", ("a", "/x", "/y", True, True))),
        ("copy-to a /x", ("CopyToMachine", ("a", "/x", "/x"))),
        ("copy-to a /x y", ("CopyToMachine", ("a", "/x", "y"))),
        ("copy-to --force a /x /y", ("CopyToMachineWithFlags", ("a", "/x", "/y", 1))),
        ("copy-from a /x", ("CopyFromMachine", ("a", "/x", "/x"))),
        ("copy-from --force a x /y", ("CopyFromMachineWithFlags", ("a", "x", "/y", 1))),
    ],
)
def test_calls(manager: Peer, client: Client, line: str, call: tuple[str, Any]) -> None:
    manager.on(MANAGER, call[0], lambda *_: None)
    assert client(*line.split()) == (0, "", "")
    assert manager.calls[-1] == call


@pytest.mark.parametrize(
    ("line", "member", "what"),
    [
        ("remove a", "RemoveImage", "Could not remove image 'a'"),
        ("rename a b", "RenameImage", "Could not rename image 'a' to 'b'"),
        ("clone a b", "CloneImage", "Could not clone image 'a' as 'b'"),
        ("read-only a", "MarkImageReadOnly", "Could not mark image 'a' read-only"),
        ("read-only a no", "MarkImageReadOnly", "Could not make image 'a' writable"),
        ("set-limit a 1", "SetImageLimit", "Could not set limit of image 'a'"),
        ("set-limit 1", "SetPoolLimit", "Could not set limit of the pool"),
        ("clean", "CleanPool", "Could not clean pool"),
        ("image-status a", "GetImage", "Could not get path to image"),
        ("show-image a", "GetImage", "Could not get path to image"),
        ("bind a /x", "BindMountMachine", "Failed to bind mount '/x' into machine 'a'"),
        ("copy-to a /x", "CopyToMachine", "Failed to copy '/x' into machine 'a'"),
        ("copy-from a /x", "CopyFromMachine", "Failed to copy '/x' from machine 'a'"),
    ],
)
def test_failures(manager: Peer, client: Client, line: str, member: str, what: str) -> None:
    manager.fail(MANAGER, member, f"{MACHINE1}.NoSuchImage", "No image 'a' known")
    assert client(*line.split()) == (
        1, "", f"{what}: No image 'a' known\n'machinectl list-images' shows the images there are.\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    "line", ["set-limit 5X", "set-limit a .5", "read-only a maybe", "clone a", "clean x"]
)
def test_bad_arguments_get_nowhere(manager: Peer, client: Client, line: str) -> None:
    result = client(*line.split())
    assert (result.status, result.out, manager.calls) == (1, "", [])


def test_the_first_image_that_fails_is_the_last(manager: Peer, client: Client) -> None:
    def remove(name: str) -> None:
        if name == "b":
            raise FakeError(DBUS_ERROR + "Failed", "Device or resource busy")

    manager.on(MANAGER, "RemoveImage", remove)
    assert client("remove", "a", "b", "c").err == "Could not remove image 'b': Device or resource busy\n"
    asked = [arguments for _, arguments in manager.calls]
    assert asked == [("a", {}), ("a",), ("b", {}), ("b",)], "ours first, which is not there"


OURS = "org.machined1.Manager"


def test_settings_are_kept_and_that_is_said(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "RemoveImage", "as", ["/etc/systemd/nspawn/a.nspawn"])
    assert "Kept the settings of 'a' in '/etc/systemd/nspawn/a.nspawn'" in client("remove", "a").err
    assert client("remove", "--quiet", "a").err == ""
    client("remove", "--purge", "a")
    assert [arguments for _, arguments in manager.calls][-1] == ("a", {"purge": ("b", True)})


def test_what_a_clone_came_to(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "CloneImage", "s", "snapshot")
    manager.answer(OURS, "GetImageLayers", "as", ["/pool/base"])
    assert client("clone", "a", "b") == (0, "", "")
    manager.answer(OURS, "CloneImage", "s", "layer")
    assert "'b' is a layer over '/pool/base', which is read-only" in client("clone", "--layer", "a", "b").err
    client("clone", "--copy", "--read-only", "a", "b")
    wishes = [arguments[2] for member, arguments in manager.calls if member == "CloneImage"]
    assert wishes == [
        {}, {"mode": ("s", "layer")}, {"read-only": ("b", True), "mode": ("s", "copy")},
    ]  # fmt: skip


def test_layers_need_our_manager(manager: Peer, client: Client) -> None:
    assert client("clone", "--layer", "a", "b").status == 1
    assert client("flatten", "a").status == 1
    assert client("chown", "a").status == 1
    assert all(member != "CloneImage" or len(arguments) == 3 for member, arguments in manager.calls)


@pytest.mark.parametrize(
    ("line", "given", "answer", "said"),
    [
        ("chown a", {}, (3, 0), "Changed the owners of 3 files of image 'a'.\n"),
        ("chown a --shift=0", {}, (0, 0), "Changed the owners of 0 files of image 'a'.\n"),
        (
            "chown --shift=131072 a", {"shift": ("u", 131072)}, (2, 1),
            "Changed the owners of 2 files of image 'a'. "
            "1 belong to users outside of its range, and were left.\n",
        ),
        ("chown --quiet a", {}, (3, 1), ""),
    ],
)  # fmt: skip
def test_chown(
    manager: Peer, client: Client, line: str, given: dict[str, Any], answer: tuple[int, int], said: str
) -> None:
    manager.answer(OURS, "ChownImage", "tt", *answer)
    result = client(*line.split())
    assert (result.status, result.out + result.err) == (0, said)
    assert manager.calls[-1] == ("ChownImage", ("a", given))


@pytest.mark.parametrize("base", ["", "7", "-65536", "x", "4294967296"])
def test_no_range(client: Client, base: str) -> None:
    result = client("chown", "a", f"--shift={base}")
    assert (result.status, "0 or a multiple of 65536" in result.err) == (1, True)


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ([], ["Removed 0 images in total. Total freed exclusive disk space: 0B."]),
        (
            [(".a", 1024), (".b", 512)],
            ["Removed image '.a'. Freed exclusive disk space: 1K",
             "Removed image '.b'. Freed exclusive disk space: 512B",
             "Removed 2 images in total. Total freed exclusive disk space: 1.5K."],
        ),
        ([(".a", 1), (".b", UINT64_MAX)],
         ["Removed image '.a'. Freed exclusive disk space: 1B", "Removed image '.b'",
          "Removed 2 images in total."]),
    ],
)  # fmt: skip
def test_clean(manager: Peer, client: Client, removed: list[tuple[str, int]], said: list[str]) -> None:
    manager.answer(MANAGER, "CleanPool", "a(st)", removed)
    result = client("clean")
    assert (result.status, result.out, result.err.splitlines()) == (0, "", said)
    assert client("clean", "--all", "--quiet") == (0, "", "")
    assert manager.calls == [("CleanPool", ("hidden",)), ("CleanPool", ("all",))]


@pytest.fixture
def image(manager: Peer) -> Peer:
    manager.answer(MANAGER, "GetImage", "o", IMAGE_PATH)
    manager.answer(PROPERTIES, "GetAll", "a{sv}", IMAGE)
    for member in ("GetImageHostname", "GetImageMachineID", "GetImageMachineInfo", "GetImageOSRelease"):
        manager.fail(MANAGER, member, DBUS_ERROR + "Failed", "Device or resource busy")
    return manager


def test_image_status(image: Peer, client: Client) -> None:
    image.answer(MANAGER, "GetImageHostname", "s", "far")
    image.answer(MANAGER, "GetImageMachineID", "ay", bytes(range(16)))
    image.answer(MANAGER, "GetImageMachineInfo", "a{ss}", {"DEPLOYMENT": "lab\x1b[2J", "ICON": "x"})
    image.answer(MANAGER, "GetImageOSRelease", "a{ss}", {"PRETTY_NAME": "An OS", "ID": "os"})
    lines = client("image-status", "x").out.splitlines()
    assert lines[8].startswith("\t Created: Tue 2023-11-14 22:13:20 UTC; ")
    del lines[8]
    assert lines == [
        "x", "\t    Type: raw", "\t    Path: /var/lib/machines/x.raw", "\tHostname: far",
        "      Machine ID: 000102030405060708090a0b0c0d0e0f", "      Deployment: lab[2J",
        "\t      OS: An OS", "\t      RO: read-only", "\t   Usage: 4K (exclusive: 1K)", "\t   Limit: 3G",
    ]  # fmt: skip


def test_image_status_of_images_in_use_and_of_two(image: Peer, client: Client) -> None:
    result = client("image-status", "x", "x")
    assert (result.status, result.err) == (0, "")
    first, empty, second = result.out.partition("\n\n")
    assert empty
    assert first.startswith(
        "x\n\t    Type: raw\n\t    Path: /var/lib/machines/x.raw\n\t      RO: read-only\n"
    )
    assert second.splitlines()[0] == "x"


def test_the_pool(manager: Peer, client: Client) -> None:
    pool = {"PoolPath": ("s", "/var/lib/machines"), "PoolUsage": ("t", 2048), "PoolLimit": ("t", UINT64_MAX)}
    manager.answer(PROPERTIES, "GetAll", "a{sv}", pool)
    assert client("image-status") == (0, "\t    Path: /var/lib/machines\n\t   Usage: 2K\n", "")
    assert client("show-image").out == (
        f"PoolPath=/var/lib/machines\nPoolUsage=2048\nPoolLimit={UINT64_MAX}\n"
    )


def test_show_image(image: Peer, client: Client) -> None:
    assert client("show-image", "x").out.splitlines() == [
        "Name=x", "Path=/var/lib/machines/x.raw", "Type=raw", "ReadOnly=yes",
        "CreationTimestamp=Tue 2023-11-14 22:13:20 UTC", "Usage=4096", "Limit=3221225472",
        "UsageExclusive=1024", "LimitExclusive=infinity",
    ]  # fmt: skip
    assert "ModificationTimestamp=\n" in client("show-image", "--all", "x").out
    assert client("show-image", "-PType", "x").out == "raw\n"


def test_what_is_there_already_can_be_replaced(manager: Peer, client: Client) -> None:
    manager.fail(MANAGER, "CopyToMachine", DBUS_ERROR + "FileExists", "File exists")
    hint = client("copy-to", "a", "/x", "/y").err.splitlines()[1]
    assert hint == "'/y' is there already: --force replaces it."


def test_paths_of_the_host_begin_where_we_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.fspath(tmp_path)
    assert files.absolute("x") == f"{here}/x"
    assert files.absolute("./x//y/.") == f"{here}/x/y"
    assert files.absolute("../x") == f"{here}/../x"
    assert files.absolute("/./x/") == "/x"
    assert files.absolute(".") == here


def test_a_folder_that_has_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(CommandError, match="Failed to make path 'x' absolute: No such file or directory"):
        files.absolute("x")
