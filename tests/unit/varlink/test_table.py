# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.varlink.table import (
    BOOL,
    INT,
    NUMBER,
    STRING,
    Array,
    Enumeration,
    Error,
    Interface,
    Method,
    Structure,
    VarlinkError,
    check,
    may,
    need,
)

MODE = Enumeration("Mode", ("tty", "shell"))
PAIR = Structure("Pair", (need("pid", INT), may("id", INT)))
FIELDS = (
    need("name", STRING),
    may("number", INT),
    may("flag", BOOL),
    may("mode", MODE),
    may("pair", PAIR),
    may("list", Array(INT)),
    may("nothing", INT, null=True),
    may("loose", NUMBER),
)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "x"},
        {"name": "", "nothing": None},
        {"name": "x", "number": -(2**63), "flag": False, "mode": "tty", "pair": {"pid": 1}, "list": []},
        {"name": "ä", "number": 2**64 - 1, "list": [1, 2], "pair": {"pid": 1, "id": 2}},
        {"list": [1.0], "name": "x", "loose": 5, "number": 3.0},
    ],
)
def test_good(given: dict[str, Any]) -> None:
    assert check(FIELDS, given) == {key: value for key, value in given.items() if value is not None}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "name"),
        ({"name": None}, "name"),
        ({"name": 1}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "x", "frob": 1}, "frob"),
        ({"frob": None}, "name"),
        ({"name": "x", "frob": None}, "frob"),
        ({"name": "x", "number": None}, "number"),
        ({"name": "x", "pair": {"pid": 1, "id": None}}, "pair"),
        ({"name": "x", "loose": "1x"}, "loose"),
        ({"name": "x", "loose": "9" * 30}, "loose"),
        ({"name": "x", "number": float("inf")}, "number"),
        ({"name": "x", "number": float("nan")}, "number"),
        ({"name": "x", "number": "1"}, "number"),
        ({"name": "x", "number": 1.5}, "number"),
        ({"name": "x", "number": True}, "number"),
        ({"name": "x", "number": 2**64}, "number"),
        ({"name": "x", "number": -(2**63) - 1}, "number"),
        ({"name": "x", "flag": 1}, "flag"),
        ({"name": "x", "mode": "bash"}, "mode"),
        ({"name": "x", "mode": ""}, "mode"),
        ({"name": "x", "mode": ["tty"]}, "mode"),
        ({"name": "x", "pair": 1}, "pair"),
        ({"name": "x", "pair": {}}, "pair"),
        ({"name": "x", "pair": {"pid": "1"}}, "pair"),
        ({"name": "x", "pair": {"pid": 1, "frob": 2}}, "pair"),
        ({"name": "x", "list": 1}, "list"),
        ({"name": "x", "list": [1, None]}, "list"),
        ({"name": "x", "list": {"0": 1}}, "list"),
    ],
)
def test_bad(given: dict[str, Any], field: str) -> None:
    with pytest.raises(VarlinkError) as raised:
        check(FIELDS, given)
    assert raised.value.name == "org.varlink.service.InvalidParameter"
    assert raised.value.parameters == {"parameter": field}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def test_numbers_are_made_numbers() -> None:
    """In the order in which they came."""
    found = check(FIELDS, {"loose": "7", "number": 3.0, "name": "x"})
    assert list(found.items()) == [("loose", 7), ("number", 3), ("name", "x")]
    assert type(found["number"]) is int


@given(st.dictionaries(st.sampled_from([field.name for field in FIELDS]), JSON))
def test_anything_is_good_or_named(given: dict[str, Any]) -> None:
    try:
        check(FIELDS, given)
    except VarlinkError as error:
        assert error.parameters["parameter"] in {field.name for field in FIELDS}


def test_description() -> None:
    interface = Interface(
        "org.x.Y",
        (MODE, PAIR),
        (
            Method("Do", FIELDS, (need("n", INT),), print),
            Method("Later", (), (), print, since=262),
        ),
        (Error("Bad"), Error("Worse", (need("why", STRING),))),
    )
    assert interface.for_version(257).description() == (
        "interface org.x.Y\n"
        "\n"
        "type Mode(\n\ttty,\n\tshell\n)\n"
        "\n"
        "type Pair(\n\tpid: int,\n\tid: ?int\n)\n"
        "\n"
        "method Do(\n\tname: string,\n\tnumber: ?int,\n\tflag: ?bool,\n\tmode: ?Mode,\n\tpair: ?Pair,\n"
        "\tlist: ?[]int,\n\tnothing: ?int,\n\tloose: ?int\n) -> (\n\tn: int\n)\n"
        "\n"
        "error Bad()\n"
        "\n"
        "error Worse(\n\twhy: string\n)\n"
    )
    assert interface.for_version(262).method("Later") is not None
    assert interface.for_version(257).method("Later") is None
