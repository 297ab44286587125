# SPDX-License-Identifier: LGPL-2.1-or-later
"""`cat` and `edit`, in a folder that stands for the system's."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from machinectl import editor
from machinectl.errors import CommandError

from .conftest import Client
from .fakebus import DBUS_ERROR, OURS, Peer


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


# -- what the manager says of it ---------------------------------------------------------------------------

UNKNOWN = ("warning", "/etc/systemd/nspawn/one.nspawn:2", "no key 'More'.")
WRONG = ("error", "/etc/machined/machines/web.conf:2", "not valid.")


@pytest.fixture
def own(appending: Path, manager: Peer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our own files in the folder too, with one that is there."""
    for name in ("machines", "profiles"):
        (appending / name).mkdir()
    monkeypatch.setattr("machinectl.settings.OWN", os.fspath(appending / "machines"))
    monkeypatch.setattr("machinectl.settings.PROFILES", os.fspath(appending / "profiles"))
    (appending / "machines/web.conf").write_text("[Exec]\n", encoding="utf-8")
    return appending


def says(manager: Peer, *answers: list[tuple[str, str, str]]) -> None:
    """The findings about each text in turn."""
    rest = list(answers)
    manager.on(OURS, "CheckSettingsText", lambda *_: ("a(sss)", (rest.pop(0),)))


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_what_is_good_is_saved(own: Path, manager: Peer, client: Client, terminal: None) -> None:
    says(manager, [], [], [], [])
    drop_in = own / "machines/web.conf.d/x.conf"
    profile = own / "profiles/small.conf"
    assert client("edit", "one", "web.conf", str(drop_in), str(profile)).status == 0
    assert [arguments[:2] for _, arguments in manager.calls] == [
        ("nspawn", "one"), ("machine", "web"), ("drop-in", "web/x.conf"), ("profile", "small"),
    ]  # fmt: skip
    assert manager.calls[1][1][2] == "[Exec]\nMore=yes\n"
    assert (own / "machines/web.conf").read_text() == "[Exec]\nMore=yes\n"
    assert drop_in.exists()
    assert client("cat", "web.conf").out.endswith("[Exec]\nMore=yes\n")
    assert client("cat", "--own", "web") == client("cat", "web.conf")


def test_own(own: Path, manager: Peer, client: Client, terminal: None) -> None:
    says(manager, [], [])
    assert client("edit", "--own", "new").status == 0
    assert (own / "machines/new.conf").read_text() == "More=yes\n"
    assert client("edit", "--own", "../x").status == 1
    (own / "run/web.conf.nspawn").write_text("[Exec]\n", encoding="utf-8")
    assert client("edit", "web.conf").status == 0, "a machine may be called so"
    assert manager.calls[-1][1][:2] == ("nspawn", "web.conf")


@pytest.mark.parametrize(
    ("answer", "saved", "runs"),
    [("y\n", True, 1), ("n\n", False, 1), ("\n", False, 1), ("", False, 1), ("e\n", True, 2)],
)
def test_what_nspawn_would_pass_over_is_asked_about(
    own: Path, manager: Peer, client: Client, terminal: None, monkeypatch: pytest.MonkeyPatch,
    answer: str, saved: bool, runs: int,
) -> None:  # fmt: skip
    says(manager, [UNKNOWN], [])
    typed(monkeypatch, answer)
    told = client("edit", "one")
    assert told.status == (0 if saved else 1)
    assert "one.nspawn:2: warning: no key 'More'." in told.err
    assert "Save anyway?" in told.err
    assert ("dropped" in told.err) is not saved
    assert (own / "run/one.nspawn").read_text() == "[Exec]\nBoot=yes" + "More=yes\n" * (runs * saved)
    assert sorted(os.listdir(own / "run")) == ["one.nspawn"]


@pytest.mark.parametrize(("answer", "saved"), [("n\n", False), ("", False), ("\n", True), ("y\n", True)])
def test_what_is_not_valid_is_not_saved(
    own: Path, manager: Peer, client: Client, terminal: None, monkeypatch: pytest.MonkeyPatch,
    answer: str, saved: bool,
) -> None:  # fmt: skip
    """Nor is anything else that was edited with it."""
    says(manager, [WRONG], [], [], [])
    typed(monkeypatch, answer)
    told = client("edit", "web.conf", "two")
    assert told.status == (0 if saved else 1)
    assert "web.conf:2: error: not valid." in told.err
    assert "Edit again?" in told.err
    assert (own / "machines/web.conf").read_text() == "[Exec]\n" + "More=yes\n" * (2 * saved)
    assert (own / "etc/two.nspawn").exists() is saved
    assert sorted(os.listdir(own / "machines")) == ["web.conf"]


def test_what_is_no_text(
    own: Path, manager: Peer, client: Client, terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(manager, [])
    typed(monkeypatch, "")
    monkeypatch.setenv("EDITOR", script(own / "editor", r'printf "[Exec]\n#\000\n\377\n" >"$1"'))
    told = client("edit", "web.conf")
    assert told.status == 1
    assert "web.conf:3: error: not valid UTF-8." in told.err
    assert manager.calls[0][1][2] == "[Exec]\n#\n\n\ufffd\n"


def test_a_manager_that_cannot_say(own: Path, manager: Peer, client: Client, terminal: None) -> None:
    """systemd's own, of which nothing is expected, and one that has an error."""
    told = client("edit", "web.conf", "one")
    assert (told.status, "checked" in told.err) == (0, False)
    manager.fail(OURS, "CheckSettingsText", f"{DBUS_ERROR}AccessDenied", "No.")
    told = client("edit", "web.conf")
    assert told.status == 0
    assert "The settings were not checked: No.\n" in told.err
