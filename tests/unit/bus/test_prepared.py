# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast._private.unmarshaller import Unmarshaller

from machined.bus.prepared import Kept, Prepared


def read(data: bytes) -> Message:
    message = Unmarshaller(cast("Any", io.BytesIO(data))).unmarshall()
    assert message is not None
    return message


@pytest.mark.parametrize("destination", ["", ":1.2", ":1.23", ":1.234567", "a.b"])
@pytest.mark.parametrize(
    ("signature", "value"),
    [("a(ssso)", []), ("a(ssso)", [["web", "container", "", "/x"], ["db", "vm", "y", "/z"]]), ("s", "ü")],
)
def test_it_reads_as_what_it_is(signature: str, value: Any, destination: str) -> None:
    answer = Prepared(signature, value)
    for serial in (7, 0xFFFFFFFF):
        message = read(answer.reply(serial, 9, destination))
        assert message.message_type is MessageType.METHOD_RETURN
        assert message.flags is MessageFlag.NO_REPLY_EXPECTED
        assert (message.serial, message.reply_serial) == (serial, 9)
        assert (message.destination or "", message.signature) == (destination, signature)
        rows = message.body[0]
        assert rows == value or [list(row) for row in rows] == value


def test_made_anew_when_something_is_new() -> None:
    made: list[str] = []

    def make(text: str) -> str:
        made.append(text)
        return text

    kept = Kept("s", make)
    first = kept.get(1, "a")
    assert kept.get(1, "b") is first
    assert kept.get(2, "c") is not first
    assert made == ["a", "c"]
