# SPDX-License-Identifier: LGPL-2.1-or-later
"""`cat` and `edit`, in a folder that stands for the system's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machinectl import editor
from machinectl.errors import CommandError

from .conftest import Client


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directories = tuple(os.fspath(tmp_path / name) for name in ("etc", "run", "lib"))
    for directory in directories[1:]:
        os.mkdir(directory)
    monkeypatch.setattr("machinectl.settings.DIRECTORIES", directories)
    monkeypatch.setattr("machinectl.settings.ADMIN", directories[0])
    monkeypatch.setattr("machinectl.settings.IMAGES", directories[2])
    for variable in editor.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "run/one.nspawn").write_text("[Exec]\nBoot=yes", encoding="utf-8")
    (tmp_path / "lib/one.nspawn").write_text("hidden by that of /run", encoding="utf-8")
    (tmp_path / "lib/two.nspawn").write_text("[Files]\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda _: True)


def test_cat(system: Path, client: Client) -> None:
    one = f"# {system}/run/one.nspawn\n[Exec]\nBoot=yes\n"
    two = f"# {system}/lib/two.nspawn\n[Files]\n"
    assert client("cat", "one", "two.nspawn") == (0, one + two, "")
    assert client("cat", f"{system}/lib/two.nspawn") == (0, two, "")
    assert client("cat", "nope", "two", "none") == (
        1, two, "No settings file found for machine 'nope'.\nNo settings file found for machine 'none'.\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("a/b", "Invalid settings file name 'a/b.nspawn'."),
        ("x" * 250, f"Invalid settings file name '{'x' * 250}.nspawn'."),
        ("/etc/../x", "Invalid settings file path '/etc/../x'."),
        ("/nonexistent/x", "Failed to open '/nonexistent/x': No such file or directory"),
    ],
)
def test_what_cannot_be_a_settings_file(system: Path, client: Client, argument: str, message: str) -> None:
    result = client("cat", argument, "two")
    assert (result.status, result.out, result.err.splitlines()[0]) == (1, "", message)


def test_only_containers_of_this_host(system: Path, client: Client, terminal: None) -> None:
    for verb, word in (("cat", "Cat"), ("edit", "Edit")):
        assert client("-Vq", verb, "one").err == f"{word} is only supported for --runner=nspawn\n"
        assert client("-M.host", verb, "one").err == f"{word} is only supported on the host machine.\n"
        assert client("-Hx", verb, "one").err == f"{word} is only supported on the host machine.\n"


def test_edit_needs_a_terminal(system: Path, client: Client) -> None:
    assert client("edit", "one").err == "Cannot edit machine settings if not on a tty.\n"


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return os.fspath(path)


@pytest.fixture
def appending(system: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDITOR", script(system / "editor", 'for f in "$@"; do echo More=yes >>"$f"; done'))
    return system


def test_edit(appending: Path, client: Client, terminal: None) -> None:
    """What came with an image is not touched, what is new comes to /etc; several at once, each once."""
    assert client("edit", "one", "two", "new", "one").status == 0
    assert (appending / "run/one.nspawn").read_text() == "[Exec]\nBoot=yesMore=yes\n"
    assert (appending / "lib/two.nspawn").read_text() == "[Files]\n"
    assert (appending / "etc/two.nspawn").read_text() == "[Files]\nMore=yes\n"
    assert (appending / "etc/new.nspawn").read_text() == "More=yes\n"
    assert (appending / "etc/new.nspawn").stat().st_mode & 0o777 == 0o644
    assert sorted(os.listdir(appending / "etc")) == ["new.nspawn", "two.nspawn"]


def test_edit_a_path(appending: Path, client: Client, terminal: None) -> None:
    assert client("edit", f"{appending}/lib/two.nspawn").status == 0
    assert (appending / "lib/two.nspawn").read_text() == "[Files]\nMore=yes\n"
    assert client("edit", "/x/../y").status == 1


@pytest.mark.parametrize("body", ["true", 'for f in "$@"; do echo " " >"$f"; done', "exit 3", "kill -9 $$"])
def test_edit_that_leads_to_nothing(
    system: Path, client: Client, terminal: None, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setenv("VISUAL", script(system / "editor", body))
    result = client("edit", "one", "new")
    assert result.status == (0 if "exit" not in body and "kill" not in body else 1)
    assert (system / "run/one.nspawn").read_text() == "[Exec]\nBoot=yes"
    assert os.listdir(system / "etc") == []
    assert sorted(os.listdir(system / "run")) == ["one.nspawn"]


def test_which_editor(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert editor.commands() == [["editor"], ["nano"], ["vim"], ["vi"]]
    monkeypatch.setenv("VISUAL", "third")
    monkeypatch.setenv("EDITOR", "second --wait 'a b'")
    assert editor.commands() == [["second", "--wait", "a b"]]
    monkeypatch.setenv("SYSTEMD_EDITOR", "first")
    assert editor.commands() == [["first"]]
    monkeypatch.setenv("SYSTEMD_EDITOR", "'open")
    with pytest.raises(CommandError, match=r"Failed to parse \$SYSTEMD_EDITOR"):
        editor.commands()


def test_no_editor(system: Path, client: Client, terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "/nonexistent/editor")
    assert client("edit", "one").err.startswith("Cannot edit files, none of these editors can be run: /none")
