# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each command line of the tables: our client says what systemd's does, with one daemon behind both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from tests.integration.both_clients import GUEST, BothClients, Said, words
from tests.integration.command_lines import MODERN, OWN_WORDS, READING, REFUSED

pytestmark = pytest.mark.integration

# They are understood, and get as far as the daemon, which cannot do it without btrfs.
SIZES: Final = ("1", "1K", "1.5G", "1G 500M", "1G500M", "1 G", "+5", " 5 ", "1B", "1.G")


class Answers:
    """What both say to the lines of a table: all are asked at once, as none changes a thing."""

    def __init__(self, clients: BothClients) -> None:
        self.clients = clients
        self._said: dict[tuple[str, ...], tuple[Said, Said]] = {}

    def to(self, argv: Sequence[str], table: Sequence[Sequence[str]]) -> tuple[Said, Said]:
        """Systemd's, and ours."""
        if tuple(argv) not in self._said:
            clients = self.clients
            clients.make_images()
            before = clients.host.snapshot(), clients.stock("list-images")
            try:
                self._said |= zip(map(tuple, table), clients.many(table), strict=True)
                assert clients.host.left_behind(before[0]) == []
                assert before[1] == clients.stock("list-images")
            finally:
                clients.drop_images()
        return self._said[tuple(argv)]


@pytest.fixture(scope="module")
def answers(clients: BothClients) -> Answers:
    return Answers(clients)


def said(
    answers: Answers, line: str, table: Sequence[str], *, same_reason: bool = True
) -> tuple[Said, Said]:
    """What both say to a line of a table, which has to be the same."""
    theirs, ours = answers.to(words(line), [*map(words, table)])
    answers.clients.check(line, theirs, ours, same_reason=same_reason)
    return theirs, ours


@pytest.mark.parametrize("line", READING)
def test_what_is_read_is_the_same(answers: Answers, line: str) -> None:
    said(answers, line, READING)


@pytest.mark.either("trixie")
@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused_is_refused_alike(answers: Answers, line: str) -> None:
    clients = answers.clients
    if clients.ours_serves and line == "disable nope":
        pytest.skip("machined disables what has no image any more, too")
    # In 262 these look the machine up on varlink first, and print the name of that error.
    by_varlink = clients.modern and line.split()[0] in ("terminate", "poweroff", "reboot")
    same_reason = not by_varlink and not clients.in_our_words(line)
    theirs, ours = said(answers, line, REFUSED, same_reason=same_reason)
    assert ours.status == 1
    assert theirs.out == ""


@pytest.mark.parametrize("line", OWN_WORDS)
def test_what_is_refused_in_other_words(answers: Answers, line: str) -> None:
    _, ours = said(answers, line, OWN_WORDS, same_reason=False)
    assert ours.status == 1


@pytest.mark.parametrize("line", MODERN)
def test_orders_to_a_machine_that_takes_none(answers: Answers, line: str) -> None:
    theirs, ours = answers.to(words(line), [*map(words, MODERN)])
    assert (ours.status, ours.out) == (1, "")
    if answers.clients.modern:
        answers.clients.check(line, theirs, ours, same_reason=":a:b:c" not in line)
    elif line in ("pause {guest}", "bind-volume {guest} fs:vol"):
        assert ours.err.startswith(f"Machine '{GUEST}' does not expose a varlink control socket.\n")


@pytest.mark.parametrize("limit", SIZES)
def test_sizes_that_are_understood(answers: Answers, limit: str) -> None:
    theirs, ours = answers.to(["set-limit", limit], [["set-limit", each] for each in SIZES])
    answers.clients.check(limit, theirs, ours)
    assert "btrfs" in ours.err
