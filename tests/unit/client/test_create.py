# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from .conftest import Client
from .fakebus import DBUS_ERROR, OURS, PATH, FakeError, Peer

JOB = f"{PATH}/job/7"


def on_create(
    manager: Peer, result: str = "done", text: str = "", said: bytes = b""
) -> list[dict[str, Any]]:
    """Answers CreateImage with a job that says something and ends; the options it was given."""
    seen: list[dict[str, Any]] = []

    def create(name: str, source: str, given: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
        found = {key: value for key, (_, value) in given.items()}
        if "output" in found:
            fd = found.pop("output").to_raw_fd()
            os.write(fd, said)
            os.close(fd)
        if "root-password" in found:
            fd = found["root-password"].to_raw_fd()
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
            found["root-password"] = os.pread(fd, 100, 0)
            os.close(fd)
        seen.append({"name": name, "source": source, **found})
        manager.emit(PATH, OURS, "JobRemoved", "uossss", 7, JOB, name, "create", result, text)
        return "o", (JOB,)

    manager.on(OURS, "CreateImage", create)
    return seen


def test_a_machine_is_created(client: Client, manager: Peer, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\nsecond line\n", encoding="ascii")
    (tmp_path / "key").write_text("ssh-rsa A\n", encoding="ascii")
    seen = on_create(manager, said=b"I: half\nI: \x1b[31mdone", text="sshd: none")
    done = client(
        "create", "web", "--from=debootstrap:sid", f"--root-password-file={tmp_path}/password",
        f"--ssh-key={tmp_path}/key", "--hostname=h", "--locale=C.UTF-8", "--timezone=UTC", "--check=no",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert seen == [
        {
            "name": "web", "source": "debootstrap:sid", "root-password": b"secret", "ssh-key": "ssh-rsa A\n",
            "hostname": "h", "locale": "C.UTF-8", "timezone": "UTC", "check": False,
        }
    ]  # fmt: skip
    assert done.err.splitlines() == [
        "I: half", "I: [31mdone", "What machine 'web' lacks:", "sshd: none",
        "Machine 'web' is there; 'machinectl start web' starts it.",
    ]  # fmt: skip


def test_quietly(client: Client, manager: Peer) -> None:
    on_create(manager, said=b"not seen", text="nor this")
    done = client("--quiet", "create", "web", "--from=dir:/srv")
    assert (done.status, done.out, done.err) == (0, "", "")


def test_it_fails(client: Client, manager: Peer) -> None:
    on_create(manager, "failed", "Machine 'web' was not made: tar ended with exit status 2.")
    done = client("create", "web", "--from=tar:/x")
    assert (done.status, done.err) == (1, "Machine 'web' was not made: tar ended with exit status 2.\n")
    on_create(manager, "canceled", "The job was canceled.")
    done = client("create", "web", "--from=tar:/x")
    assert (done.status, done.err) == (1, "Machine 'web' was not made: The job was canceled.\n")


def test_and_started(client: Client, manager: Peer) -> None:
    on_create(manager)

    def start(name: str, given: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
        manager.emit(PATH, OURS, "JobRemoved", "uossss", 8, f"{PATH}/job/8", name, "start", "done", "")
        return "o", (f"{PATH}/job/8",)

    manager.on(OURS, "StartMachine", start)
    assert client("create", "web", "--from=dir:/srv", "--start").status == 0
    assert manager.members()[-2:] == ["CreateImage", "StartMachine"]


def test_from_a_template(client: Client, manager: Peer) -> None:
    """By one call, so that there is never one that is not set up."""
    manager.answer(OURS, "CloneImage", "s", "copy")
    assert client("create", "web", "--template=base").status == 0
    assert client("create", "web", "--template=base", "--hostname=h").status == 0
    assert manager.calls == [
        ("CloneImage", ("base", "web", {})),
        ("CloneImage", ("base", "web", {"hostname": ("s", "h")})),
    ]


def test_a_template_that_cannot_be_set_up_leaves_nothing(client: Client, manager: Peer) -> None:
    manager.fail(OURS, "CloneImage", f"{DBUS_ERROR}InvalidArgs", "'h h' is not a host name.")
    done = client("create", "web", "--template=base", "--hostname=h h")
    assert done.status == 1
    assert "Could not create machine 'web': 'h h' is not a host name." in done.err
    assert manager.members() == ["CloneImage"], "and nothing is removed that was there before"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Too few arguments."),
        (["web"], "give one of --from=BUILDER:… and --template=IMAGE"),
        (["web", "--from=dir:/x", "--template=y"], "give one of"),
        (["a_b", "--from=dir:/x"], "try 'a-b'"),
        (["web", "--from=dir:/x", "--root-password"], "no terminal to ask"),
        (["web", "--from=dir:/x", "--root-password", "--root-password-file=x"], "cannot be combined"),
        (["web", "--from=dir:/x", "--root-password-file=/none"], "Could not read the password in '/none'"),
        (["web", "--from=dir:/x", "--root-password-file=/dev/null"], "The password is empty"),
        (["web", "--from=dir:/x", "--ssh-key=/none"], "Could not read the SSH key"),
        (["web", "--from=dir:/x", "--check=x"], "boolean"),
        (["web", "--from=dir:/x", "-M", "other"], "on the local host only"),
    ],
)
def test_bad_command_lines(client: Client, manager: Peer, words: list[str], said: str) -> None:
    done = client("create", *words)
    assert done.status == 1
    assert said in done.err
    assert manager.calls == []


def test_systemd_s_manager_cannot(client: Client, manager: Peer) -> None:
    done = client("--quiet", "create", "web", "--from=dir:/x")
    assert done.status == 1
    assert "systemd-machined cannot do that" in done.err


def test_builders_are_listed(client: Client, manager: Peer) -> None:
    manager.answer(OURS, "ListBuilders", "a(sss)", [("tar", "FILE", "An archive")])
    done = client("create", "--from=help", "--no-legend")
    assert (done.status, done.out) == (0, "tar:FILE An archive\n")


def test_images_are_checked(client: Client, manager: Peer) -> None:
    def check(name: str) -> tuple[str, tuple[Any, ...]]:
        if name == "none":
            raise FakeError("org.freedesktop.machine1.NoSuchImage", "No image 'none' known")
        return "a(sss)", (
            [("init", "ok", ""), ("dbus", "missing" if name == "bad" else "ok", "install it")],
        )

    manager.on(OURS, "CheckImage", check)
    assert client("check-image", "good").status == 0
    done = client("check-image", "good", "bad", "--json")
    assert done.status == 1
    assert json.loads(done.out)[3] == {
        "image": "bad",
        "what": "dbus",
        "state": "missing",
        "hint": "install it",
    }
    assert client("check-image", "none").status == 1
