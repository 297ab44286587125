# SPDX-License-Identifier: LGPL-2.1-or-later
"""What polkit may answer, and what it may not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dbus_fast import Message
from hypothesis import given
from hypothesis import strategies as st

from machined.bus import polkit as module
from machined.bus.polkit import Polkit
from machined.model.errors import MachineError, Problem

SUBJECT = ["system-bus-name", {}]
SCALARS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(0, 2) | st.text(max_size=3) | st.just({})
)
BODIES = st.lists(st.lists(SCALARS, max_size=4) | SCALARS, max_size=2) | st.tuples(
    st.booleans(), st.booleans(), st.just({})
).map(lambda answer: [list(answer)])


def yes(body: list[Any]) -> bool:
    """(bba{ss}) as polkit has it, of which the first says yes."""
    answer = body[0] if len(body) == 1 and isinstance(body[0], list) else []
    return [type(value) for value in answer] == [bool, bool, dict] and answer[0]


class FakeBus:
    def __init__(self, body: list[Any]) -> None:
        self.body = body
        self.asked = 0
        self.answer = asyncio.Event()

    async def request(self, *_: Any, **__: Any) -> list[Any]:
        self.asked += 1
        await self.answer.wait()
        return self.body

    def send_message(self, message: Message) -> None:
        pass


@given(BODIES)
def test_any_answer(body: list[Any]) -> None:
    """Yes is a yes, word by word; everything else is a refusal, and none is a bug in the log."""

    async def ask() -> None:
        bus = FakeBus(body)
        bus.answer.set()
        await Polkit(bus, 257).ask(SUBJECT, 1000, "a.b", {}, False)  # type: ignore[arg-type]

    try:
        asyncio.run(ask())
    except MachineError as error:
        assert error.problem in {Problem.ACCESS_DENIED, Problem.INTERACTIVE_AUTHORIZATION_REQUIRED}
        assert not yes(body)
    else:
        assert yes(body)


async def test_one_user_does_not_take_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUESTIONS_PER_USER", 2)
    bus = FakeBus([[True, False, {}]])
    polkit = Polkit(bus, 257)  # type: ignore[arg-type]

    def ask(uid: int) -> asyncio.Task[None]:
        return asyncio.ensure_future(polkit.ask(SUBJECT, uid, "a.b", {}, False))

    under_way = [ask(1000), ask(1000), ask(1001)]
    await asyncio.sleep(0)
    with pytest.raises(MachineError) as raised:
        await ask(1000)
    assert raised.value.problem is Problem.LIMITS_EXCEEDED
    assert bus.asked == 3
    bus.answer.set()
    await asyncio.gather(*under_way)
    await ask(1000)
