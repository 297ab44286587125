# SPDX-License-Identifier: LGPL-2.1-or-later
"""The varlink server against any bytes, cut anywhere."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.varlink import parser
from machined.varlink.server import Call, Peer, Server
from machined.varlink.table import BOOL, INT, STRING, Array, Interface, Method, may
from tests.settled import descriptors

METHOD = "org.x.Y.Echo"
FIELDS = (may("text", STRING), may("number", INT), may("flag", BOOL), may("list", Array(INT)))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
GOOD = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXTS,
        "number": st.integers(-(2**63), 2**64 - 1),
        "flag": st.booleans(),
        "list": st.lists(st.integers(0, 9), max_size=4),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def served(data: bytes, cuts: list[int], fds: int = 0) -> list[dict[str, Any]]:
    """What the server answers to these bytes from a user, sent in pieces; it must not log anything."""
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})

    async def run() -> bytes:
        def echo(call: Call, given: dict[str, Any]) -> dict[str, Any]:
            return given

        table = Interface("org.x.Y", (), (Method("Echo", FIELDS, (), echo),), ())
        tried = Server({}, [table], lambda error: None)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            for sock in (ours, theirs):
                sock.setblocking(False)
            tried._per_user[1000] += 1
            serving = asyncio.ensure_future(tried._connection(ours, Peer(1, 1000, None)))
            loop = asyncio.get_running_loop()
            start, received = 0, b""
            try:
                for end in ends:
                    if fds:
                        socket.send_fds(theirs, [data[start:end] or b" "], [0] * fds)
                    else:
                        await loop.sock_sendall(theirs, data[start:end])
                    start = end
                    await asyncio.sleep(0)
                theirs.shutdown(socket.SHUT_WR)
                while part := await loop.sock_recv(theirs, 1 << 16):
                    received += part
            except (BrokenPipeError, ConnectionResetError):
                pass
            await serving
        assert not tried._per_user
        assert not tried._pending
        return received

    log = Log()
    logging.getLogger("machined").addHandler(log)
    before = descriptors()
    try:
        answers = asyncio.run(run())
    finally:
        logging.getLogger("machined").removeHandler(log)
    assert log.lines == []
    assert descriptors() == before
    assert answers == b"" or answers.endswith(b"\0")
    return [json.loads(part) for part in answers.split(b"\0")[:-1]]


@given(st.lists(GOOD, min_size=1, max_size=4), st.lists(st.integers(0, 1000), max_size=6))
def test_cut_anywhere(calls: list[dict[str, Any]], cuts: list[int]) -> None:
    data = b"".join(json.dumps({"method": METHOD, "parameters": call}).encode() + b"\0" for call in calls)
    assert served(data, cuts) == [{"parameters": call} for call in calls]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=3))
def test_any_bytes(data: bytes, cuts: list[int]) -> None:
    assert all("error" in answer for answer in served(data + b"\0", cuts))


@given(JSON, st.sampled_from(["parameters", "more", "oneway", "x", "number", "text"]))
def test_any_json(value: Any, where: str) -> None:
    """Answered, or the end of the connection; never a bug in the log."""
    message: dict[str, Any] = {"method": METHOD, "parameters": {}}
    (message["parameters"] if where in ("number", "text") else message)[where] = value
    assert len(served(json.dumps(message).encode() + b"\0", [])) <= 1
    served(json.dumps(value).encode() + b"\0", [])


@given(
    st.sampled_from(
        ["1e999", "9" * 400, "9" * 4301, "-0", "1.0", "NaN", "Infinity", "-Infinity", "01", "true", "null",
         r'"\ud800"', r'"\udc00\ud800"', r'"\u0000"', '"\\x41"', '"\x01"', "\ufeff1", "[]", "{}"]
    ),
    st.sampled_from(["text", "number", "flag", "list"]),
)  # fmt: skip
def test_spellings(spelled: str, field: str) -> None:
    data = f'{{"method":"{METHOD}","parameters":{{"{field}":{spelled}}}}}'.encode() + b"\0"
    for answer in served(data, []):
        given_back = answer["parameters"].get(field)
        if "error" in answer:
            assert answer == {
                "error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": field}
            }  # fmt: skip
        else:
            # A number without a fraction is an integer, however it is spelled: as systemd's parser has it.
            assert spelled in {"-0", "1.0", "true", "null", "[]"}
            assert given_back in (0, 1, True, None, [])


@pytest.mark.parametrize(
    "text",
    [
        rb'{"method":"a.B","method":"org.x.Y.Echo"}',
        rb'{"method":"org.x.Y.Echo","parameters":{"number":1,"number":2}}',
        rb'{"method":"org.x.Y.Echo","parameters":{"text":"\u0000"}}',
        rb'{"method":"org.x.Y.Echo","parameters":{"list":["\ud800"]}}',
        rb'{"method":"org.x.Y.Echo","parameters":{"\udc00":1}}',
        rb'{"method":"org.x.Y.Echo","parameters":{"number":NaN}}',
        b'{"method":"org.x.Y.Echo","parameters":{"text":"\xed\xa0\x80"}}',
    ],
)
def test_what_systemd_does_not_read_ends_the_connection(text: bytes) -> None:
    assert served(text + b"\0", []) == []


def test_a_pair_of_surrogates_is_one_character() -> None:
    data = rb'{"method":"org.x.Y.Echo","parameters":{"text":"\ud83d\ude00"}}' + b"\0"
    assert served(data, []) == [{"parameters": {"text": "😀"}}]


@given(st.integers(1, 3 * parser.MAX_DEPTH), st.sampled_from(['{"a":', "[", '{"\\"[":[']), st.booleans())
def test_depth(depth: int, opening: str, inside: bool) -> None:
    """Refused beyond a limit before Python's parser sees it, and never for what is in a string."""
    levels = depth * opening.replace('\\"[', "").count("[") + depth * opening.count("{")
    data = (opening * depth).encode()
    if inside:
        data = json.dumps({"method": METHOD, "parameters": {"text": data.decode()}}).encode()
        assert served(data + b"\0", []) == [{"parameters": {"text": (opening * depth)}}]
    else:
        assert parser.too_deep(data) == (levels > parser.MAX_DEPTH)
        assert served(b'{"method":"a.B","parameters":' + data + b"\0", []) == []


@pytest.mark.parametrize("closed", [True, False])
def test_many_brackets_that_are_not_deep(closed: bool) -> None:
    data = b"[" + (b"[]," if closed else b'"[",') * 2000 + b"1]"
    message = b'{"method":"org.x.Y.Echo","parameters":{"list":' + data + b"}}\0"
    assert served(message, [])[0]["error"].endswith("InvalidParameter")


@given(st.integers(1, 60))
def test_descriptors_are_not_taken(count: int) -> None:
    data = json.dumps({"method": METHOD, "parameters": {"number": 1}}).encode() + b"\0"
    assert served(data, [5], count) == [{"parameters": {"number": 1}}]
