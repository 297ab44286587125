# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which files say something of a machine, and which of them counts more."""

from __future__ import annotations

from pathlib import Path

import pytest

from machined.model.images import Image, ImageType
from machined.model.settings import sources
from machined.model.settings.merge import Effective
from tests.fakes.sandbox import Sandbox


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox.make(tmp_path, monkeypatch)


def image(box: Sandbox, name: str = "web") -> Image:
    return Image(name, str(box.pool / name), ImageType.DIRECTORY, read_only=False)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(box: Sandbox, name: str = "web", *words: str, of: str = "web") -> Effective:
    return sources.load(name, image(box, of), 262, words)


def hostname(effective: Effective) -> str:
    return effective.get("Exec", "Hostname")


def test_each_counts_more_than_those_before(box: Sandbox) -> None:
    run, etc = sources.NSPAWN
    steps = [
        box.pool / "web.nspawn",
        box.configuration / "profiles/p.conf",
        run / "web.nspawn",
        etc / "web.nspawn",
        sources.machine_file("web"),
        sources.drop_in("web", "10-a.conf"),
        sources.drop_in("web", "20-b.conf", runtime=True),
        sources.drop_in("web", "30-c.conf"),
    ]
    chosen = ["Machine.Profile=p"]
    write(steps[1], "")
    assert hostname(load(box, "web", *chosen)) == ""
    for number, path in enumerate(steps):
        write(path, f"[Exec]\nHostname=h{number}\n")
        effective = load(box, "web", *chosen)
        assert hostname(effective) == f"h{number}"
        assert effective.all("Exec", "Hostname")[-1].origin == f"{path}:2"
        assert not effective.findings
    assert hostname(load(box, "web", *chosen, "Hostname=last")) == "last"


def test_a_drop_in_in_etc_is_instead_of_one_in_run(box: Sandbox) -> None:
    write(sources.drop_in("web", "10-a.conf", runtime=True), "[Exec]\nHostname=run\n")
    assert hostname(load(box)) == "run"
    write(sources.drop_in("web", "10-a.conf"), "")
    write(sources.drop_in("web", ".hidden.conf"), "[Exec]\nHostname=hidden\n")
    write(sources.drop_in("web", "10-a.conf~"), "[Exec]\nHostname=backup\n")
    assert hostname(load(box)) == ""


def test_what_comes_with_the_image_is_not_trusted(box: Sandbox) -> None:
    """S81."""
    write(box.pool / "web.nspawn", "[Exec]\nHostname=a\nCapability=all\n[Files]\nBind=/etc\n")
    effective = load(box)
    assert hostname(effective) == "a"
    assert not effective.all("Exec", "Capability")
    assert not effective.all("Files", "Bind")
    assert len(effective.findings) == 2
    assert not effective.errors()


def test_profiles(box: Sandbox) -> None:
    write(box.configuration / "profiles/a.conf", "[Exec]\nHostname=a\nUser=\n[Files]\nBind=/a\n")
    write(box.configuration / "profiles/b.conf", "[Exec]\nHostname=b\n[Files]\nBind=/b\n")
    write(sources.machine_file("web"), "[Machine]\nProfile=a b\n[Files]\nBind=/c\n")
    effective = load(box)
    assert hostname(effective) == "b"
    assert [value.text for value in effective.all("Files", "Bind")] == ["/a", "/b", "/c"]
    write(sources.machine_file("web"), "[Machine]\nProfile=missing\n")
    (error,) = load(box).errors()
    assert "Profile=missing" in error.text


def test_a_machine_of_another_image(box: Sandbox) -> None:
    etc = sources.NSPAWN[1]
    write(etc / "web.nspawn", "[Exec]\nHostname=nspawn\n")
    write(sources.machine_file("web"), "[Exec]\nTimezone=copy\n")
    effective = load(box, "one", of="web")
    assert (hostname(effective), effective.get("Exec", "Timezone")) == ("nspawn", "copy")
    write(etc / "one.nspawn", "[Exec]\nPersonality=\n")
    write(sources.machine_file("one"), "")
    effective = load(box, "one", of="web")
    assert (hostname(effective), effective.get("Exec", "Timezone")) == ("", "")


def test_what_cannot_be_read(box: Sandbox) -> None:
    write(sources.machine_file("web"), "[Exec\n")
    (error,) = load(box).errors()
    assert str(error).startswith(f"{sources.machine_file('web')}:1: ")
    sources.machine_file("web").unlink()
    sources.machine_file("web").mkdir()
    (error,) = load(box).errors()
    assert "not a regular file" in str(error)
