# SPDX-License-Identifier: LGPL-2.1-or-later
"""Single settings changed in a file, and everything else in it left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.linux import inifile
from machined.model.errors import MachineError, Problem
from machined.model.settings import editing, files, sources
from machined.model.settings.merge import Effective
from tests.fakes.sandbox import Sandbox

VERSION = 257


def edited(before: str | bytes, *words: str, others: Effective | None = None) -> str:
    data = before.encode() if isinstance(before, str) else before
    changes = editing.parse(words, VERSION)
    return editing.edited(data, "x.conf", changes, others or Effective()).decode(errors="surrogateescape")


FILE = """\
# mine
[Exec]
Boot=yes   
  ; about it
Environment=A=1 \\
# in between
  B=2
Environment=C=3

[Files]
Bind=/a
[Exec]
Hostname=x
"""  # noqa: W291


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [
        (["Boot=no"], "Boot=yes   \n", "Boot=no\n"),
        (["Hostname=y"], "Hostname=x\n", "Hostname=y\n"),
        (["Exec.User=me"], "Hostname=x\n", "Hostname=x\nUser=me\n"),
        (
            ["Environment=D=4", "Environment=E=5"],
            "Environment=A=1 \\\n# in between\n  B=2\nEnvironment=C=3\n",
            "# in between\nEnvironment=D=4\nEnvironment=E=5\n",
        ),
        (["Environment+=D=4"], "Environment=C=3\n", "Environment=C=3\nEnvironment=D=4\n"),
        (["Environment+=C=3"], "", ""),
        (["Hostname="], "Hostname=x\n", ""),
        (["Bind+=/b"], "Bind=/a\n", "Bind=/a\nBind=/b\n"),
        (["Bind+=/b"], "Bind=/a\n", "Bind=/a\nBind=/b\n"),
        (["Boot=yes"], "", ""),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_rest_stays(words: list[str], old: str, new: str, end: str) -> None:
    def ends(text: str) -> str:
        return text.replace("\n", end)

    assert edited(ends(FILE), *words) == ends(FILE.replace(old, new) if old else FILE)


def test_a_new_section_and_a_new_file() -> None:
    assert edited("[Exec]\nBoot=no", "Bind=/a") == "[Exec]\nBoot=no\n\n[Files]\nBind=/a\n"
    new = edited("", "Boot=no", "Bind=/a", "Hostname=x")
    header, rest = new.split("\n", 1)
    assert header.startswith("# Written by 'machinectl set'")
    assert rest == "\n[Exec]\nBoot=no\nHostname=x\n\n[Files]\nBind=/a\n"


@pytest.mark.parametrize(
    ("before", "word", "after"),
    [
        ("[Exec]\nHostname=a\\", "User=b", "[Exec]\nHostname=a\\\n\nUser=b\n"),
        ("[Exec]\nHostname=a\\\n#c", "User=b", "[Exec]\nHostname=a\\\n#c\n\nUser=b\n"),
        ("[Exec]\nHostname=a\\\n#c", "Hostname=b", "[Exec]\n#c\nHostname=b\n"),
        ("\ufeff[Exec]\r\n", "User=b", "\ufeff[Exec]\r\nUser=b\r\n"),
        ("[X-Mine]\nUser=a\n", "User=b", "[X-Mine]\nUser=a\n\n[Exec]\nUser=b\n"),
        ("[Exec]\nnonsense\nUser=a\n", "User=b", "[Exec]\nnonsense\nUser=b\n"),
    ],
)
def test_odd_files(before: str, word: str, after: str) -> None:
    assert edited(before, word) == after


def test_bytes_that_are_no_text_stay() -> None:
    before = b"[Exec]\n# \xff\nHostname=\xfe\nUser=a\n"
    assert edited(before, "User=b").encode(errors="surrogateescape") == before.replace(b"=a", b"=b")


def test_what_cannot_be_said() -> None:
    for words, text in (
        (["Boot"], "must be Key=value"),
        (["Bot=yes"], "did you mean 'Boot'?"),
        (["Boot=maybe"], "must be 'yes' or 'no'"),
        (["Files.Boot=yes"], "it belongs to [Exec]"),
        (["Boot+=yes"], "has one value only"),
        (["Bind+="], "needs a value"),
        (["Environment=A=b\\"], "ends with a backslash"),
        (["Hostname=a\nBoot=no"], "control characters"),
        (["PrivateUsersDelegate=3"], "needs systemd 262"),
    ):
        with pytest.raises(MachineError) as raised:
            editing.parse([*words, "User=root"], VERSION)
        assert raised.value.problem is Problem.INVALID_ARGS
        assert text in raised.value.text
    with pytest.raises(MachineError, match="Mend that file first") as raised:
        edited("[Exec\n", "Boot=no")
    assert raised.value.problem is Problem.INVALID_SETTINGS


KEYS = st.sampled_from(["Boot", "Environment", "Hostname", "Bind", "Nonsense", "X-Mine"])
TEXTS = st.text(st.sampled_from("ab=/\\ \t#;[]'"), max_size=6)
LINES = st.one_of(
    st.sampled_from(["[Exec]", "[Files]", "[X-Other]", "# comment", "; \\", "", "\\", " "]),
    st.builds("{}={}".format, KEYS, TEXTS),
    TEXTS.filter(lambda text: not text.lstrip().startswith("[")),
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
WORDS = st.lists(
    st.sampled_from(
        ["Boot=no", "Environment=A=1", "Environment+=B=2", "Environment=", "Hostname=h", "Bind=/b", "Boot="]
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@given(st.lists(st.tuples(LINES, ENDS), max_size=12), st.booleans(), WORDS)
def test_every_other_word_is_as_before(lines: list[tuple[str, str]], last: bool, words: list[str]) -> None:
    text = "".join(line + end for line, end in lines)
    if last:
        text = text.rstrip("\r\n")
    try:
        before = inifile.parse(text.encode(), "x")
    except inifile.InvalidFileError:
        return
    after = inifile.parse(edited(text, *words).encode(), "x")
    touched = {change.setting.key for change in editing.parse(words, VERSION)}

    def said(document: inifile.Document, ours: bool) -> list[tuple[str, str, str]]:
        return [
            (a.section, a.key, a.value)
            for a in document.assignments
            if ((a.section, a.key) in {("Exec", k) for k in touched} | {("Files", k) for k in touched})
            is ours
        ]

    assert said(before, False) == said(after, False)
    last_words = {word.partition("=")[0].rstrip("+"): word.partition("=")[2] for word in words}
    for key, value in last_words.items():
        section = "Files" if key == "Bind" else "Exec"
        values = [v for s, k, v in said(after, True) if (s, k) == (section, key)]
        assert value in values if value else not values
    # Doing it again changes nothing, unless it adds.
    if not any("+=" in word or word.startswith("Environment") for word in words):
        again = edited(edited(text, *words), *words)
        assert again == edited(text, *words)


# -- as part of a host -------------------------------------------------------------------------------------


def do(name: str, *words: str, runtime: bool = False) -> editing.Edited:
    done = editing.set_settings(name, None, VERSION, words, runtime=runtime)
    files.write(done.files)
    return done


def drop_ins(box: Sandbox) -> dict[str, str]:
    """What there is of our own files: path, and what it says without comments."""
    found = {}
    for top in ("etc-machined", "run-machined"):
        for path in (box.root / top).rglob("*.conf"):
            lines = path.read_text(encoding="utf-8").splitlines()
            said = [line for line in lines if line and line[0] not in "#["]
            found[os.fspath(path.relative_to(box.root))] = " ".join(said)
    return found


SET = "etc-machined/machines/web.conf.d/50-set.conf"
RUNTIME = "run-machined/machines/web.conf.d/51-set.conf"


def test_set_and_take_back(sandbox: Sandbox) -> None:
    done = do("web", "Hostname=a", "Bind=/a")
    assert [os.fspath(path.relative_to(sandbox.root)) for path in done.files] == [SET]
    path = sandbox.root / SET
    assert path.stat().st_mode & 0o777 == 0o644
    assert drop_ins(sandbox) == {SET: "Hostname=a Bind=/a"}
    assert do("web", "Hostname=a").files == {}
    do("web", "Hostname=")
    assert drop_ins(sandbox) == {SET: "Bind=/a"}
    do("web", "Bind=")
    assert not path.parent.exists(), "nothing is left of it"
    assert os.listdir(path.parent.parent) == []


def test_what_another_file_says_is_reset(sandbox: Sandbox) -> None:
    own = sandbox.configuration / "machines/web.conf"
    own.parent.mkdir(parents=True)
    own.write_text("[Files]\nBind=/a\n[Exec]\nParameters=one two\n", encoding="utf-8")
    done = do("web", "Bind=", "Parameters+=three")
    assert drop_ins(sandbox)[SET] == "Bind= Parameters=one two Parameters=three"
    assert done.effective.all("Files", "Bind") == ()
    assert [value.text for value in done.effective.all("Exec", "Parameters")] == ["one", "two", "three"]
    do("web", "Bind+=/b")
    now = sources.load("web", None, VERSION)
    assert [value.text for value in now.all("Files", "Bind")] == ["/b"]


def test_runtime_counts_more_until_it_is_said_for_good(sandbox: Sandbox) -> None:
    do("web", "Hostname=a", "NotifyReady=yes")
    do("web", "Hostname=b", "WorkingDirectory=/w", runtime=True)
    assert sources.load("web", None, VERSION).get("Exec", "Hostname") == "b"
    assert drop_ins(sandbox) == {
        SET: "Hostname=a NotifyReady=yes",
        RUNTIME: "Hostname=b WorkingDirectory=/w",
    }
    done = do("web", "Hostname=c")
    assert len(done.files) == 2
    assert drop_ins(sandbox) == {SET: "Hostname=c NotifyReady=yes", RUNTIME: "WorkingDirectory=/w"}
    do("web", "WorkingDirectory=/x", "Hostname=c")
    assert RUNTIME not in drop_ins(sandbox)


def test_what_does_not_count_is_said(sandbox: Sandbox) -> None:
    last = sandbox.configuration / "machines/web.conf.d/99-last.conf"
    last.parent.mkdir(parents=True)
    last.write_text("[Exec]\nHostname=last\n", encoding="utf-8")
    done = do("web", "Hostname=a", "NotifyReady=yes")
    assert [finding.text for finding in done.effective.findings] == [
        f"[Exec] Hostname= is overridden by {last}:2."
    ]


def test_nothing_is_written_when_the_whole_is_not_valid(sandbox: Sandbox) -> None:
    do("web", "Private=no")
    with pytest.raises(MachineError, match="a machine's own network") as raised:
        do("web", "Port=80")
    assert raised.value.problem is Problem.INVALID_SETTINGS
    assert drop_ins(sandbox) == {SET: "Private=no"}


def test_a_link_is_not_followed(sandbox: Sandbox, tmp_path: Path) -> None:
    """What is written takes the place of a link, and does not go where it leads."""
    path = sandbox.root / SET
    path.parent.mkdir(parents=True)
    target = tmp_path / "target"
    target.write_text("[Exec]\nNotifyReady=yes\n", encoding="utf-8")
    path.symlink_to(target)
    do("web", "Hostname=a")
    assert not path.is_symlink()
    assert target.read_text(encoding="utf-8") == "[Exec]\nNotifyReady=yes\n"
    assert drop_ins(sandbox)[SET] == "NotifyReady=yes Hostname=a"
