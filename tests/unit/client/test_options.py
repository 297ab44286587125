# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest

from machinectl import table, values
from machinectl.errors import CommandError
from machinectl.options import choose_verb, closest, parse
from machinectl.table import OPTIONS, VERBS, Options


def failure(*argv: str) -> str:
    with pytest.raises(CommandError) as caught:
        choose_verb(parse(list(argv))[1])
    return caught.value.message


def test_options_anywhere_abbreviated_and_bundled() -> None:
    options, words = parse(["show", "-alp", "Name", "x", "--prop=Id", "--no-pag", "-PState", "--", "-y"])
    assert words == ["show", "x", "-y"]
    assert options.properties == ["Name", "Id", "State"]
    assert options.all
    assert options.full
    assert options.value
    assert not options.pager


def test_after_the_machine_of_shell_everything_is_the_programs() -> None:
    options, words = parse(["-q", "shell", "--uid", "joe", "box", "/bin/ls", "-la", "--uid=x", "--", "-q"])
    assert words == ["shell", "box", "/bin/ls", "-la", "--uid=x", "--", "-q"]
    assert (options.quiet, options.uid) == (True, "joe")


def test_a_program_may_follow_a_separator() -> None:
    assert parse(["shell", "box", "--", "/bin/ls", "-l"])[1] == ["shell", "box", "--", "/bin/ls", "-l"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--foo"], "machinectl: unrecognized option '--foo'"),
        (["-Z"], "machinectl: invalid option -- 'Z'"),
        (["-n"], "machinectl: option requires an argument -- 'n'"),
        (["--lines"], "machinectl: option '--lines' requires an argument"),
        (["list", "--full=3"], "machinectl: option '--full' doesn't allow an argument"),
        (["--lines=-1"], "Failed to parse lines '-1'"),
        (["--max-addresses=x"], "Invalid number of addresses: x"),
        (["-o", "json-short"], "Unknown output 'json-short'."),
        (["-E", "1"], "Cannot assign environment variable 1: Invalid argument"),
        (["-s", "FOO"], 'Failed to parse signal string "FOO".'),
        (["--timeout=soon"], "Failed to parse time span 'soon': write it as '90', '90s' or '1min 30s'."),
        (["frob"], "Unknown command verb 'frob', did you mean 'show'?"),
        (["sho"], "Unknown command verb 'sho', did you mean 'show'?"),
        (["completelydifferent"], "Unknown command verb 'completelydifferent'."),
        (["start"], "Too few arguments."),
        (["list", "x"], "Too many arguments."),
        (["login", "a", "b"], "Too many arguments."),
    ],
)
def test_wrong_command_lines(argv: list[str], message: str) -> None:
    assert failure(*argv) == message


def test_ambiguous_options_are_listed() -> None:
    message = failure("--no")
    assert message.startswith("machinectl: option '--no' is ambiguous; possibilities: '--no-pager' ")
    assert "'--now'" in message


def test_an_exact_name_is_not_ambiguous() -> None:
    assert parse(["--for", "stopped", "wait", "x"])[0].condition == "stopped"


def test_no_verb_is_list() -> None:
    assert choose_verb([]) == (VERBS[0], [])
    assert VERBS[0].name == "list"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1min 30s", 90),
        ("1min30s", 90),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("infinity", float("inf")),
    ],
)
def test_time_spans(text: str, seconds: float) -> None:
    assert values.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "x", "1 parsec", "-1", "1min x"])
def test_no_time_spans(text: str) -> None:
    with pytest.raises(CommandError):
        values.seconds(text)


def test_environment_assignments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "here")
    options, _ = parse(["-E", "A=b=c", "--setenv=GIVEN", "-ENONE_SUCH"])
    assert options.setenv == ["A=b=c", "GIVEN=here", "NONE_SUCH="]


def test_defaults_are_not_shared() -> None:
    parse(["-p", "x"])
    assert Options().properties == []


def test_the_tables_are_consistent() -> None:
    words = [name for verb in VERBS for name in (verb.name, *verb.aliases)]
    assert len(words) == len(set(words))
    known = {option.long for option in OPTIONS}
    for verb in VERBS:
        assert set(verb.options) <= known, verb.name
        assert verb.minimum <= verb.maximum
    assert set(table.COMMON) <= known
    shorts = [option.short for option in OPTIONS if option.short]
    assert len(shorts) == len(set(shorts))
    for option in OPTIONS:
        assert hasattr(Options(), option.field), option.long


def test_closest_prefers_the_beginning() -> None:
    assert closest("st", ["list", "status", "start"]) == "start"
