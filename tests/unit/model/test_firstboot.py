# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from machined.model import credentials
from machined.model.errors import MachineError
from machined.model.firstboot import FirstBoot, check_password, first_boot

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here"


def test_settings_and_credentials() -> None:
    given = first_boot(hostname="web", locale="de_DE.UTF-8", timezone="Europe/Berlin", ssh_key=f"\n{KEY}\n")
    given = replace(given, password="$6$x")
    assert given.settings() == {
        "hostname": "web", "locale": "de_DE.UTF-8", "timezone": "Europe/Berlin", "ssh-key": f"{KEY}\n",
        "password": "$6$x",
    }  # fmt: skip
    assert given.credentials() == {
        "system.hostname": "web", "firstboot.hostname": "web", "firstboot.locale": "de_DE.UTF-8",
        "firstboot.timezone": "Europe/Berlin", "ssh.authorized_keys.root": f"{KEY}\n",
        "passwd.hashed-password.root": "$6$x",
    }  # fmt: skip
    assert "$6$" not in repr(given)
    assert not FirstBoot()
    assert FirstBoot().credentials() == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hostname", "a_b"), ("hostname", "-a"), ("hostname", "a\nb"), ("hostname", "x" * 65),
        ("locale", "../x"), ("locale", "de DE"), ("locale", "x\ny"), ("locale", "-x"),
        ("timezone", "/etc/passwd"), ("timezone", "Europe/../.."), ("timezone", "a\nb"), ("timezone", "-1"),
        ("ssh_key", "hello"), ("ssh_key", "ssh-ed25519"), ("ssh_key", f"{KEY}\nnonsense"),
        ("ssh_key", "-----BEGIN OPENSSH PRIVATE KEY-----\n"), ("ssh_key", f"{KEY}\x1b[2J"),
        ("ssh_key", f"{KEY}\n" * 2000),
    ],
)  # fmt: skip
def test_bad_settings(key: str, value: str) -> None:
    with pytest.raises(MachineError):
        first_boot(**{key: value})


def test_keys_with_options_and_comments() -> None:
    text = f'# mine\nno-pty,command="true x" {KEY}\necdsa-sha2-nistp256 AAAA\n'
    assert first_boot(ssh_key=text).ssh_key == text


def test_passwords() -> None:
    check_password("correct horse")
    for bad in ("", "a\tb", "x" * 513):
        with pytest.raises(MachineError) as caught:
            check_password(bad)
        assert "x" * 100 not in caught.value.text


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(credentials, "DIRECTORY", tmp_path / "machined/credentials")
    return tmp_path / "machined/credentials"


def test_credentials_are_kept_for_the_start(stored: Path) -> None:
    assert credentials.options("web") == []
    credentials.store("web", {})
    assert not stored.exists()
    credentials.store("web", {"system.hostname": "x", "passwd.hashed-password.root": "$6$y"})
    assert credentials.options("web") == [
        f"--load-credential=passwd.hashed-password.root:{stored}/web/passwd.hashed-password.root",
        f"--load-credential=system.hostname:{stored}/web/system.hostname",
    ]
    assert {path.stat().st_mode & 0o777 for path in (stored / "web").iterdir()} == {0o600}
    assert [path.stat().st_mode & 0o777 for path in (stored, stored / "web")] == [0o700, 0o700]
    credentials.store("web", {"firstboot.timezone": "UTC"}, keep=True)
    assert len(credentials.options("web")) == 4
    assert "--timezone=off" in credentials.options("web")
    (stored / "web/.#left-over").touch()
    (stored / "web/a:b").touch()
    assert len(credentials.options("web")) == 4
    credentials.store("web", {"system.hostname": "y"})
    assert [path.name for path in (stored / "web").iterdir()] == ["system.hostname"]


def test_credentials_go_with_the_image(stored: Path) -> None:
    credentials.store("web", {"system.hostname": "x"})
    credentials.store("site", {"system.hostname": "old"})
    credentials.rename("web", "site")
    assert (stored / "site/system.hostname").read_text(encoding="ascii") == "x"
    assert not (stored / "web").exists()
    credentials.rename("web", "other")
    credentials.remove("site")
    credentials.remove("site")
    assert list(stored.iterdir()) == []
    assert credentials.options("../credentials") == []
