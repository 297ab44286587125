# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from pathlib import Path

import pytest

from machined.linux.inifile import parse
from machined.linux.locks import FileLock
from machined.model import privateusers, userranges
from machined.model.errors import MachineError, Problem
from machined.model.settings.layers import Source, read
from machined.model.settings.merge import Effective, merge
from machined.model.userranges import FIRST, LAST, pick


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(userranges, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(userranges, "SUBUID", tmp_path / "subuid")
    (tmp_path / "locks").mkdir()
    return tmp_path


def free(base: int) -> bool:
    return False


def test_a_name_has_one_range() -> None:
    assert pick("web", free) == pick("web", free) != pick("db", free)
    for name in ("a", "web", "x" * 64):
        base = pick(name, free)
        assert FIRST <= base <= LAST
        assert base % 65536 == 0


def test_taken_ranges_are_passed_over(places: Path) -> None:
    first = pick("web", free)
    second = pick("web", lambda base: base == first)
    assert second != first
    with FileLock.acquire(str(places / "locks" / str(first))):
        assert pick("web", free) == second, "systemd-nspawn has it"
    assert pick("web", free) == first


def test_what_users_have_for_themselves_is_not_taken(places: Path) -> None:
    first = pick("web", free)
    (places / "subuid").write_text(f"joe:{first + 65535}:2\n# note\nbroken:x:y\nall:0:4294967295\n", "ascii")
    base = pick("web", free)
    assert base not in {first, first + 65536}


def test_none_is_left() -> None:
    with pytest.raises(MachineError) as caught:
        pick("web", lambda base: True)
    assert caught.value.problem is Problem.LIMITS_EXCEEDED


def said(value: str) -> Effective:
    return merge([read(parse(f"[Exec]\nPrivateUsers={value}\n".encode(), "web.nspawn"), Source.NSPAWN, 262)])


@pytest.mark.parametrize(
    ("value", "base"),
    [
        ("pick", 4711), ("yes", 4711), ("", 4711), ("no", 0), ("0", 0), ("identity", 0), ("False", 0),
        ("131072", 131072), ("131072:65536", 131072), ("-1", 4711),
    ],
)  # fmt: skip
def test_what_the_settings_say(value: str, base: int) -> None:
    assert privateusers.base_of("web", said(value), 4711) == base


@pytest.mark.parametrize("value", ["managed", "131073", "131072:10", "4294901759:65535"])
def test_what_layers_cannot_do(value: str) -> None:
    with pytest.raises(MachineError) as caught:
        privateusers.base_of("web", said(value), 4711)
    assert caught.value.problem is Problem.INVALID_ARGS
    assert value in caught.value.text
    assert "web.nspawn:2" in caught.value.text
