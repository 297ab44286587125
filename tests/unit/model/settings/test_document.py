# SPDX-License-Identifier: LGPL-2.1-or-later
"""Documents of machines: what is made of good ones, what is said of bad ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from machined.linux import inifile
from machined.model.errors import MachineError, Problem
from machined.model.settings import document, layers, merge, table
from machined.model.settings.layers import Source
from machined.model.settings.setting import Form

TOML = """
[machine.web]
profiles = ["small", "safe"]
enabled = true
running = false

[machine.web.settings.Exec]
Environment = ["GREETING=hello world", "B=2"]
Boot = false
LimitNOFILE = 1024
Parameters = ["sh", "-c", "echo 'a b'"]
SystemCallFilter = ["~@mount @swap", "@keyring"]

[machine.web.settings.Files]
Bind = "/srv"
Overlay = []

[machine.web.properties]
MemoryMax = "1G"

[machine.db]
"""


@pytest.fixture
def recursion_of_the_daemon() -> Iterator[None]:
    """Python's own limit: hypothesis raises it for tests that come later in the same process."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


FILE = """\
# Managed by 'machinectl apply', which writes all of this file anew.
# What is to be said by hand belongs in web.conf.d/*.conf beside it.

[Exec]
Boot=no
Parameters=sh -c "echo 'a b'"
Environment="GREETING=hello world"
Environment=B=2
SystemCallFilter=~@mount @swap
SystemCallFilter=@keyring
LimitNOFILE=1024

[Files]
Bind=/srv
Overlay=

[Machine]
Profile=small safe

[Service]
MemoryMax=1G
"""


def test_toml_and_json_make_the_same_file() -> None:
    import tomllib

    for text in (TOML, json.dumps(tomllib.loads(TOML))):
        wanted = document.read(text, 257)
        assert list(wanted) == ["web", "db"]
        web, db = wanted.values()
        assert (web.enabled, web.running) == (True, False)
        assert web.settings is not None
        assert document.file_of("web", web.settings).decode() == FILE
        assert (db.settings, db.enabled, db.running) == (None, None, None)
    layer = layers.read(inifile.parse(FILE.encode(), "web.conf"), Source.MACHINE, 257)
    assert layer.findings == []
    effective = merge.merge([layer])
    assert [value.text for value in effective.all("Exec", "Parameters")] == ["sh", "-c", "echo 'a b'"]
    assert [value.text for value in effective.all("Exec", "Environment")] == ["GREETING=hello world", "B=2"]


def test_nothing_to_say_is_no_file() -> None:
    wanted = document.read('{"machine": {"a": {"settings": {}}, "b": {"profiles": []}}}', 257)
    for one in wanted.values():
        assert one.settings is not None
        assert document.file_of("a", one.settings) == b""


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        (
            {"settings": {"Exec": {"Boot": "maybe"}}},
            "machine.a.settings.Exec.Boot: 'maybe' is not valid: must be",
        ),
        ({"settings": {"Exec": {"Boot": [True]}}}, "has one value, no list"),
        ({"settings": {"Exec": {"Boot": None}}}, "must be a text"),
        ({"settings": {"Exec": {"Environment": [1.5]}}}, "must be a text, or a list of texts: NAME[=VALUE]"),
        ({"settings": {"Exec": {"Environment": {"A": "b"}}}}, "this dict is not valid"),
        (
            {"settings": {"Exec": {"Bot": 1}}},
            "machine.a.settings.Exec.Bot: no such key; did you mean 'Boot'?",
        ),
        ({"settings": {"Exec": {"Bind": "/a"}}}, "it belongs to section Files"),
        ({"settings": {"Exce": {}}}, "machine.a.settings.Exce: no such key; did you mean 'Exec'?"),
        ({"settings": {"Exec": 3}}, "machine.a.settings.Exec: 3 is not valid: must be a table"),
        ({"settings": {"Exec": {"PrivateUsersDelegate": 3}}}, "from 262 on, this host has 257"),
        ({"settings": {"Exec": {"Hostname": "a\nb"}}}, "control characters"),
        ({"settings": {"Exec": {"Environment": "A=b\\"}}}, "cannot end with a backslash"),
        ({"settings": {"Exec": {"Hostname": "\ud800"}}}, "half a character"),
        ({"settings": {"Files": {"Bind": ["/a", "b"]}}}, "must be a path from the root"),
        ({"properties": {"MemoryMaks": "1G"}}, "machine.a.properties.MemoryMaks: no such key; did you mean"),
        ({"properties": {"MemoryMax": "lots"}}, "machine.a.properties.MemoryMax: 'lots' is not valid"),
        ({"profiles": "x"}, "machine.a.profiles: 'x' is not valid: must be a list"),
        ({"profiles": ["../x"]}, "machine.a.profiles.0: '../x' is not valid: must be names of profiles"),
        ({"enabled": "yes"}, "machine.a.enabled: 'yes' is not valid: must be true or false"),
        ({"running": 1}, "machine.a.running: 1 is not valid: must be true or false"),
        ({"setings": {}}, "machine.a.setings: no such key; did you mean 'settings'?"),
    ],
)
def test_what_is_wrong_is_said_where(machine: dict[str, Any], text: str) -> None:
    with pytest.raises(MachineError) as raised:
        document.read(json.dumps({"machine": {"a": machine}}), 257)
    assert raised.value.problem is Problem.INVALID_SETTINGS
    assert text in raised.value.text
    assert len(raised.value.text.splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "[machine.NAME] is where a machine begins"),
        ("{", "line 1 column 2"),
        ("a = [", "at end of document"),
        ("[machine]\nbad_name = {}", "machine.bad_name: Machine name 'bad_name' is not valid"),
        ("[machine.a]\n[machins.b]\n", "machins: no such key; did you mean 'machine'?"),
        ('{"machine": []}', "machine: this list is not valid: must be a table"),
        ('{"a":' * 100_000, "too many things in each other"),
        ("a = " + "[" * 5_000, "too many things in each other"),
        ("#" * (document.SIZE_MAX + 1), "larger than 1 MiB"),
    ],
)
def test_what_is_no_document(text: str, said: str, recursion_of_the_daemon: None) -> None:
    with pytest.raises(MachineError) as raised:
        document.read(text, 257)
    assert said in raised.value.text


def test_all_that_is_wrong_is_said_at_once() -> None:
    keys = {f"Key{number}": 1 for number in range(30)}
    with pytest.raises(MachineError) as raised:
        document.read(json.dumps({"machine": {"a": {"settings": {"Exec": keys}}}}), 257)
    assert raised.value.text.count("no such key") == 20
    assert "… and 10 more" in raised.value.text


@pytest.mark.parametrize("version", [257, 262])
def test_every_setting_can_be_in_a_document(version: int) -> None:
    for setting in table.SETTINGS:
        if not setting.is_known_to(version):
            continue
        for choice in setting.kind.choices[:1]:
            text = json.dumps({"machine": {"a": {"settings": {setting.section: {setting.key: choice}}}}})
            wanted = document.read(text, version)["a"]
            assert wanted.settings is not None
            assert f"[{setting.section}]" in document.file_of("a", wanted.settings).decode()


def test_lines_of_lists() -> None:
    for setting in table.SETTINGS:
        if setting.many and setting.kind.words and setting.form is not Form.LINES:
            # Each of a list is one value, whatever is in it.
            try:
                lines = document.lines_of(setting, 262, ["a b"])
            except ValueError:
                continue
            assert lines == ['"a b"'], setting


def test_diff() -> None:
    assert document.diff("/x", b"", b"a\n") == ["--- /dev/null", "+++ /x", "@@ -0,0 +1 @@", "+a"]
    assert document.diff("/x", b"a\n", b"a\n") == []


def test_the_daemon_does_not_load_pydantic() -> None:
    code = "import sys, machined.daemon; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
