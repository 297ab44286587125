# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every setting: what may be written, what systemd-nspawn is told, and what the reference says."""

from __future__ import annotations

from pathlib import Path

import pytest

from machined.linux.inifile import parse
from machined.model.settings import command, reference, table
from machined.model.settings.layers import Severity, Source, from_command_line, read
from machined.model.settings.merge import merge
from machined.model.settings.setting import Form, Setting, Trust
from tests.samples import SAMPLES

ROOT = Path(__file__).resolve().parents[4]
VALID = [(name, text, words) for name, (valid, _) in SAMPLES.items() for text, words in valid.items()]
REFUSED = [(name, text) for name, (_, refused) in SAMPLES.items() for text in refused if text]
NEWEST = 10_000


def setting_of(name: str) -> Setting:
    setting = table.find(*name.split(".", 1))
    assert setting is not None
    return setting


def version_of(name: str) -> int:
    """One that knows it."""
    setting = setting_of(name)
    return setting.until - 1 if setting.until else NEWEST


def test_all_are_tried() -> None:
    of_nspawn = {s.name for s in table.SETTINGS if s.form is not Form.OWN or s.section in {"Exec", "Image"}}
    assert of_nspawn <= set(SAMPLES) | {
        s.name for s in table.SETTINGS if s.section not in {"Exec", "Files", "Image"}
    }
    assert set(SAMPLES) <= {s.name for s in table.SETTINGS}
    assert {s.name for s in table.SETTINGS if s.section in {"Exec", "Files", "Image"}} <= set(SAMPLES)


def test_no_key_twice() -> None:
    keys = [setting.key for setting in table.SETTINGS]
    assert len(keys) == len(set(keys)), "the command line knows them without their sections"


@pytest.mark.parametrize(("name", "text", "words"), VALID)
def test_valid(name: str, text: str, words: list[str]) -> None:
    version = version_of(name)
    effective = merge([from_command_line([f"{name}={text}"], version)])
    assert not effective.findings
    section, _ = name.split(".")
    target = "PrivateUsersOwnership" if name == "Files.PrivateUsersChown" else name.split(".")[1]
    values = [value.text for value in effective.all(section, target)]
    assert values
    only = [word for word in command.options(effective, version) if word in words]
    assert only == words
    # What was made of it means the same.
    setting = table.find(section, target)
    assert setting is not None
    assert [value for text in values for value in setting.kind.values(_quoted(setting, text))] == values


def _quoted(setting: Setting, text: str) -> str:
    from machined.model.settings.words import join_words

    return join_words([text]) if setting.kind.words else text


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_refused(name: str, text: str) -> None:
    section, key = name.split(".")
    data = f"[{section}]\n\n{key}={text}\n".encode()
    ours = read(parse(data, "/etc/x.conf"), Source.MACHINE, version_of(name))
    assert not ours.lines
    assert [finding.severity for finding in ours.findings] == [Severity.ERROR]
    said = str(ours.findings[0])
    assert said.startswith("/etc/x.conf:3: ") or "\\x" in repr(text)
    assert f"[{section}] {key}={text}" in said or key in said
    theirs = read(parse(data, "/etc/x.nspawn"), Source.NSPAWN, version_of(name))
    assert not theirs.lines
    assert [finding.severity for finding in theirs.findings] == [Severity.WARNING]


@pytest.mark.parametrize("setting", table.SETTINGS, ids=lambda setting: setting.name)
def test_what_may_come_with_an_image(setting: Setting) -> None:
    if setting.name not in SAMPLES:
        pytest.skip("has no samples")
    text = next(iter(SAMPLES[setting.name][0]))
    data = f"[{setting.section}]\n{setting.key}={text}\n".encode()
    layer = read(parse(data, "beside.nspawn"), Source.IMAGE, version_of(setting.name))
    assert bool(layer.lines) == (setting.trust is Trust.ALL and setting.nspawn_since is not None)
    assert bool(layer.lines) != bool(layer.findings)


def test_prohibiting_may_come_with_an_image() -> None:
    data = b"[Exec]\nSystemCallFilter=~@mount\nSystemCallFilter=bpf\n"
    layer = read(parse(data, "beside.nspawn"), Source.IMAGE, 257)
    assert [line.values for line in layer.lines] == [("~@mount",)]
    assert [str(finding) for finding in layer.findings] == [
        "beside.nspawn:3: [Exec] SystemCallFilter=bpf may not come with an image. Ignored."
    ]


@pytest.mark.parametrize("setting", table.SETTINGS, ids=lambda setting: setting.name)
def test_help(setting: Setting) -> None:
    assert setting.help.endswith("."), setting.help
    assert len(setting.help) < 160


def test_reference_is_up_to_date() -> None:
    written = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert written == reference.render(), "python3 -m machined.model.settings.reference > docs/settings.md"


def test_versions() -> None:
    words = [
        "RestrictAddressFamilies=AF_UNIX",
        "UnifiedHierarchy=yes",
        "User=joe",
        "Boot=no",
        "Parameters=id",
    ]
    old, new = (merge([from_command_line(words, version)]) for version in (257, 262))
    assert "--user=joe" in command.options(old, 257)
    assert "--uid=joe" in command.options(new, 262)
    assert [str(finding) for finding in old.findings] == [
        "command line: [Exec] RestrictAddressFamilies= needs systemd 262, this host has 257."
    ]
    assert [str(finding) for finding in new.findings] == [
        "command line: [Exec] UnifiedHierarchy= is known to systemd before 258 only, this host has 262."
    ]
