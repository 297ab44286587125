# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import signal

import pytest

from machinectl import signals
from machinectl.errors import CommandError

from .conftest import Client


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("9", 9),
        ("RTMIN+4", 38),
        ("SIGRTMIN+4", 38),
        ("RTMAX-1", 63),
        ("RTMIN", 34),
    ],
)
def test_numbers(text: str, number: int) -> None:
    assert signals.number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "term", "RTMIN+31", "RTMAX-", "-1", "٣"])
def test_no_signals(text: str) -> None:
    with pytest.raises(CommandError):
        signals.number(text)


def test_the_c_library_agrees() -> None:
    assert signals.number("RTMIN") == signal.SIGRTMIN
    assert signals.number("RTMAX") == signal.SIGRTMAX


def test_the_list(client: Client) -> None:
    result = client("kill", "-s", "list")
    assert result.status == 0
    assert result.out.startswith("SIGNAL NAME\n1      SIGHUP\n")
    assert "\n38     SIGRTMIN+4\n" in result.out
