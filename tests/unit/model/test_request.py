# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine may be registered with."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.linux.process import PidRef
from machined.model.errors import MachineError, Problem
from machined.model.machine import MachineClass
from machined.model.request import (
    D_BUS,
    D_BUS_257,
    VARLINK,
    BadFieldError,
    Field,
    Rules,
    check,
    check_owner,
    is_plain_path,
    validate,
)


@pytest.mark.parametrize(
    ("rules", "field", "value", "bad"),
    [
        (D_BUS, Field.NAME, "a_b", "a_b"),
        (D_BUS, Field.NAME, ".host", ".host"),
        (D_BUS, Field.ID, b"123", b"123"),
        (D_BUS, Field.CLASS, "host", "host"),
        (D_BUS, Field.LEADER, 1, 1),
        (D_BUS, Field.INTERFACES, [3, -1, 0], -1),
        (D_BUS, Field.INTERFACES, [2**31], 2**31),
        (D_BUS, Field.VSOCK_CID, 2, 2),
        (D_BUS, Field.VSOCK_CID, 2**32 - 1, 2**32 - 1),
        (D_BUS, Field.ROOT_DIRECTORY, "r", "r"),
        (D_BUS, Field.ROOT_DIRECTORY, "/" + "x" * 4096, "/" + "x" * 4096),
        (VARLINK, Field.ROOT_DIRECTORY, "", ""),
        (VARLINK, Field.ROOT_DIRECTORY, "/a/../b", "/a/../b"),
        (VARLINK, Field.ROOT_DIRECTORY, "//a", "//a"),
        (VARLINK, Field.ROOT_DIRECTORY, "/a/", "/a/"),
        (VARLINK, Field.SSH_KEY, "k", "k"),
        (VARLINK, Field.SSH_ADDRESS, "a\nb", "a\nb"),
        (VARLINK, Field.CONTROL_ADDRESS, "a", "a"),
    ],
)
def test_bad(rules: Rules, field: Field, value: Any, bad: Any) -> None:
    with pytest.raises(BadFieldError) as raised:
        check(rules, field, value)
    assert (raised.value.field, raised.value.value) == (field, bad)


@pytest.mark.parametrize(
    ("rules", "field", "value"),
    [
        (D_BUS_257, Field.ROOT_DIRECTORY, "/" + "x" * 5000),
        (D_BUS, Field.ROOT_DIRECTORY, ""),
        (D_BUS, Field.ROOT_DIRECTORY, "/a/../b"),
        (D_BUS, Field.SSH_KEY, "k"),
        (D_BUS, Field.CLASS, ""),
        (D_BUS, Field.LEADER, 0),
        (VARLINK, Field.SSH_KEY, "/a/../b"),
        (VARLINK, Field.SSH_ADDRESS, "é x"),
        (VARLINK, Field.ROOT_DIRECTORY, "/"),
        (VARLINK, Field.VSOCK_CID, 3),
    ],
)
def test_good(rules: Rules, field: Field, value: Any) -> None:
    check(rules, field, value)


def test_the_order_is_the_callers() -> None:
    fields = {Field.NAME: "_", Field.CLASS: "x", Field.LEADER: 1}
    for order in (list(fields), list(reversed(fields))):
        with pytest.raises(BadFieldError) as raised:
            validate(D_BUS, fields, order)
        assert raised.value.field is order[0]


def test_what_comes_out() -> None:
    fields = {
        Field.NAME: "web",
        Field.CLASS: "vm",
        Field.ID: b"\1" * 16,
        Field.INTERFACES: [3],
        Field.VSOCK_CID: 9,
        Field.SSH_ADDRESS: "vsock/9",
    }
    checked = validate(D_BUS, fields, fields)
    assert (checked.name, checked.cls, checked.id) == ("web", MachineClass.VM, b"\1" * 16)
    assert (checked.ifindices, checked.vsock_cid, checked.ssh_address) == ((3,), 9, "vsock/9")
    assert validate(D_BUS, {Field.NAME: "web"}, ()).cls is None


@given(st.text(alphabet="/.a", max_size=8))
def test_plain_paths_mean_what_they_say(text: str) -> None:
    if is_plain_path(text):
        assert os.path.normpath(text) == text
        assert not {".", "..", ""} & set(text.split("/")[1:]) or text == "/"


class TestOwner:
    def test_root_may_register_anything(self) -> None:
        with PidRef.open(1) as init:
            check_owner(init, 0)

    def test_one_of_ones_own(self) -> None:
        with PidRef.open(os.getpid()) as own:
            check_owner(own, os.getuid())

    def test_one_of_others(self) -> None:
        with PidRef.open(os.getpid()) as own, pytest.raises(MachineError) as raised:
            check_owner(own, os.getuid() + 1)
        assert raised.value.problem is Problem.ACCESS_DENIED

    @pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
    def test_in_a_namespace_that_one_made(self) -> None:
        """Whoever runs in it: rootless containers have users that are nobody's outside."""
        user = 54_321
        code = (
            "import ctypes, os, sys\n"
            f"os.setresgid({user}, {user}, {user}); os.setresuid({user}, {user}, {user})\n"
            "failed = ctypes.CDLL(None, use_errno=True).unshare(0x10000000)\n"
            "print('no' if failed else 'yes', flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None and child.stdout is not None
            made = child.stdout.readline().strip()
            with PidRef.open(child.pid) as leader:
                if made == "yes":
                    with open(f"/proc/{child.pid}/uid_map", "w", encoding="ascii") as file:
                        file.write("0 77000 1000\n")  # its user is none of the host's now
                    check_owner(leader, user)
                with pytest.raises(MachineError):
                    check_owner(leader, user + 1)
            child.stdin.close()
        if made != "yes":
            pytest.skip("this machine does not let users make namespaces")
