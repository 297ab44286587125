# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.linux import envfile
from machined.linux.process import PidRef
from machined.model.machine import NO_VSOCK_CID, Machine, MachineClass
from machined.model.statefile import StateDirectory, parse, render

ID = "0123456789abcdef0123456789abcdef"

# As systemd-machined of Debian 13 (257) writes it.
STOCK_257 = rf"""# This is private data. Do not parse.
NAME=web
SCOPE=machine-a\\x2db.scope
SERVICE=systemd-nspawn
ROOT=/var/lib/machines/web
ID={ID}
LEADER={{pid}}
CLASS=container
REALTIME=1700000000000000
MONOTONIC=123456
NETIF=7 8
"""

# As systemd-machined of 262 writes it.
STOCK_262 = rf"""# This is private data. Do not parse.
NAME=web
UID=1000
SCOPE="machine-a\\x2db.scope"
SUBGROUP=payload
SERVICE=systemd-nspawn
ROOT=/var/lib/machines/web
ID={ID}
LEADER={{pid}}
LEADER_PIDFDID={{pidfd_id}}
SUPERVISOR={{pid}}
SUPERVISOR_PIDFDID={{pidfd_id}}
CLASS=container
REALTIME=1700000000000000
MONOTONIC=123456
NETIF=" 7 8"
VSOCK_CID=12
SSH_ADDRESS="vsock/12 x"
SSH_PRIVATE_KEY_PATH=/run/key
CONTROL_ADDRESS=/run/control
"""


@pytest.fixture
def own() -> int:
    """A process that is alive for sure."""
    return os.getpid()


def full() -> Machine:
    return Machine(
        name="web",
        cls=MachineClass.CONTAINER,
        id=bytes.fromhex(ID),
        service="systemd-nspawn",
        leader_pid=100,
        leader_id=555,
        supervisor_pid=99,
        supervisor_id=554,
        unit=r"machine-a\x2db.scope",
        root_directory="/var/lib/machines/web",
        ifindices=(7, 8),
        realtime=1700000000000000,
        monotonic=123456,
        uid=1000,
        vsock_cid=12,
        ssh_address="vsock/12 x",
        ssh_private_key_path="/run/key",
        control_address="/run/control",
        scope_job="/org/freedesktop/systemd1/job/9",
        subgroup="payload",
    )


def test_render_257() -> None:
    expected = STOCK_257.format(pid=100).replace(
        "SERVICE", "SCOPE_JOB=/org/freedesktop/systemd1/job/9\nSERVICE"
    )
    assert render(full(), 257) == expected


def test_render_262() -> None:
    expected = STOCK_262.format(pid=100, pidfd_id=555).replace(
        "SUBGROUP", "SCOPE_JOB=/org/freedesktop/systemd1/job/9\nSUBGROUP"
    )
    expected = expected.replace("SUPERVISOR=100", "SUPERVISOR=99").replace(
        "SUPERVISOR_PIDFDID=555", "SUPERVISOR_PIDFDID=554"
    )
    assert render(full(), 262) == expected


@pytest.mark.parametrize(("version", "written"), [(258, False), (261, True)])
def test_the_control_address_came_with_261(version: int, written: bool) -> None:
    assert ("CONTROL_ADDRESS" in render(full(), version)) is written


def test_what_is_unset_is_left_out() -> None:
    machine = Machine("web", MachineClass.VM, realtime=5, monotonic=6)
    head = "# This is private data. Do not parse.\nNAME=web\n"
    tail = "CLASS=vm\nREALTIME=5\nMONOTONIC=6\n"
    assert render(machine, 257) == head + tail
    assert render(machine, 262) == head + "UID=0\n" + tail + "VSOCK_CID=4294967295\n"


def test_parse_257(own: int) -> None:
    machine = parse("web", STOCK_257.format(pid=own).encode())
    try:
        assert machine.unit == r"machine-a\x2db.scope"
        assert machine.ifindices == (7, 8)
        assert machine.id.hex() == ID
        assert (machine.realtime, machine.monotonic) == (1700000000000000, 123456)
        assert machine.leader is not None
        assert machine.leader_alive()
        assert (machine.leader_pid, machine.vsock_cid, machine.uid) == (own, NO_VSOCK_CID, 0)
        assert not machine.started
    finally:
        machine.close()


def test_parse_262(own: int) -> None:
    with PidRef.open(own) as ref:
        pidfd_id = ref.id or 0
    machine = parse("web", STOCK_262.format(pid=own, pidfd_id=pidfd_id).encode())
    try:
        assert machine.ifindices == (7, 8)  # quoted, with a leading blank
        assert machine.subgroup == "payload"
        assert machine.uid == 1000
        assert machine.leader_alive()
        assert machine.supervisor_pid == own
        assert machine.vsock_cid == 12
        assert machine.ssh_address == "vsock/12 x"
        assert machine.ssh_private_key_path == "/run/key"
        assert machine.control_address == "/run/control"
    finally:
        machine.close()


def test_a_recycled_leader_is_not_pinned(own: int) -> None:
    with PidRef.open(own) as ref:
        if ref.id is None:
            pytest.skip("pidfds have no inodes of their own before Linux 6.9")
        other = ref.id + 1
    machine = parse("web", f"LEADER={own}\nLEADER_PIDFDID={other}\n".encode())
    assert machine.leader is None
    assert (machine.leader_pid, machine.leader_id) == (own, other)


def test_a_dead_leader_keeps_its_number() -> None:
    machine = parse("web", b"LEADER=2147483647\nLEADER_PIDFDID=9\n")
    assert machine.leader is None
    assert (machine.leader_pid, machine.leader_id) == (2147483647, 9)


@pytest.mark.parametrize("pid", ["0", "1"])
def test_nobody_leads_from_there(pid: str) -> None:
    assert parse("web", f"LEADER={pid}\n".encode()).leader_pid == 0


def test_missing_and_unknown_keys() -> None:
    machine = parse("web", b"REALTIME=5\nFUTURE=yes\nVSOCK_CID=0\n")
    assert (machine.name, machine.cls, machine.realtime) == ("web", MachineClass.CONTAINER, 5)
    assert machine.vsock_cid == NO_VSOCK_CID  # 257 knows no unset one


@pytest.mark.parametrize(
    "data",
    [
        b"NAME=other\n",
        b"CLASS=box\n",
        b"CLASS=host\n",
        b"ID=xyz\n",
        b"ID=0123\n",
        b"REALTIME=now\n",
        b"NETIF=7 eth0\n",
        b"LEADER=-\n",
    ],
)
def test_bad_records(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse("web", data)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs", "Cn"]), max_size=30)


@pytest.mark.parametrize(
    ("root", "line"),
    [
        (r"/a\b", r"ROOT=/a\\b"),
        ("/it's", r"ROOT=/it\'s"),
        ("/a b", "ROOT=/a b"),
        ("/a b ", "ROOT=/a b "),
        ("/größe", r"ROOT=/gr\303\266\303\237e"),
        ("/a\nID=0", r"ROOT=/a\nID=0"),
        ('/"a"', r"ROOT=/\"a\""),
    ],
)
def test_escapes_before_258_are_those_of_c(root: str, line: str) -> None:
    text = render(Machine("web", MachineClass.CONTAINER, root_directory=root), 257)
    assert f"\n{line}\n" in text
    assert parse("web", text.encode()).root_directory == root


def test_lines_of_a_quoted_value_are_not_the_record_s() -> None:
    """Whoever registers a machine must not have the daemon take another unit for it after a restart."""
    machine = Machine("web", MachineClass.CONTAINER, unit="own.service")
    machine.service = "x\nSCOPE=other\\x2ds.service"
    again = parse("web", render(machine, 262).encode())
    assert (again.unit, again.service) == (machine.unit, machine.service)


@given(service=TEXT, root=TEXT, ssh=TEXT, unit=TEXT, version=st.sampled_from([257, 258, 262]))
def test_round_trip(service: str, root: str, ssh: str, unit: str, version: int) -> None:
    """What is written is what is read, whatever it holds."""
    machine = full()
    machine.service, machine.root_directory, machine.unit = service, root, unit
    machine.ssh_address = ssh
    machine.leader_pid = machine.supervisor_pid = 2147483647
    machine.scope_job = machine.scope_job if unit else ""
    again = parse("web", render(machine, version).encode())
    assert (again.service, again.root_directory, again.unit) == (service, root, unit)
    assert (again.id, again.ifindices, again.scope_job) == (machine.id, machine.ifindices, machine.scope_job)
    assert (again.realtime, again.monotonic) == (machine.realtime, machine.monotonic)
    if version >= 258:
        assert again.ssh_address == ssh
        assert (again.leader_id, again.supervisor_id, again.uid) == (555, 554, 1000)
    again.close()


@given(st.binary(max_size=200))
def test_noise_is_no_record(data: bytes) -> None:
    with contextlib.suppress(ValueError, OSError):
        parse("web", data).close()


class TestDirectory:
    def test_save(self, tmp_path: Path) -> None:
        records = StateDirectory(tmp_path / "machines", 257)
        machine = full()
        machine.subgroup = ""
        records.save(machine)
        record = tmp_path / "machines/web"
        assert record.read_text(encoding="utf-8") == render(machine, 257)
        assert record.stat().st_mode & 0o777 == 0o644
        link = tmp_path / "machines" / r"unit:machine-a\x2db.scope"
        assert os.readlink(link) == "web"
        assert {entry.name for entry in (tmp_path / "machines").iterdir()} == {record.name, link.name}

    def test_the_directory_is_for_everybody_to_read(self, tmp_path: Path) -> None:
        StateDirectory(tmp_path / "machines", 257)
        assert (tmp_path / "machines").stat().st_mode & 0o777 == 0o755

    def test_a_reader_sees_the_old_or_the_new_one(self, tmp_path: Path) -> None:
        """The record is replaced, never written in place."""
        records = StateDirectory(tmp_path, 257)
        machine = full()
        records.save(machine)
        with (tmp_path / "web").open(encoding="utf-8") as old:
            machine.realtime = 1
            records.save(machine)
            assert "REALTIME=1700000000000000" in old.read()
        assert "REALTIME=1\n" in (tmp_path / "web").read_text(encoding="utf-8")

    def test_a_failed_write_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        records = StateDirectory(tmp_path, 257)

        def rename(source: str, target: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(OSError, match="No space"):
            records.save(full())
        assert list(tmp_path.iterdir()) == []

    def test_a_part_of_a_unit_claims_no_link(self, tmp_path: Path) -> None:
        StateDirectory(tmp_path, 262).save(full())
        assert [entry.name for entry in tmp_path.iterdir()] == ["web"]

    def test_the_first_machine_of_a_unit_keeps_the_link(self, tmp_path: Path) -> None:
        records = StateDirectory(tmp_path, 257)
        first = Machine("first", MachineClass.CONTAINER, unit="user@0.service")
        second = Machine("second", MachineClass.CONTAINER, unit="user@0.service")
        records.save(first)
        records.save(second)
        link = tmp_path / "unit:user@0.service"
        assert os.readlink(link) == "first"
        records.remove(second)
        assert os.readlink(link) == "first"
        records.remove(first)
        assert list(tmp_path.iterdir()) == []

    def test_remove_twice(self, tmp_path: Path) -> None:
        records = StateDirectory(tmp_path, 257)
        records.save(full())
        records.remove(full())
        records.remove(full())
        assert list(tmp_path.iterdir()) == []

    def test_load(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        records = StateDirectory(tmp_path, 257)
        records.save(Machine("good", MachineClass.VM, realtime=7))
        (tmp_path / "broken").write_bytes(b"CLASS=box\n")
        (tmp_path / "binary").write_bytes(b"NAME=binary\0\n")
        (tmp_path / "huge").write_bytes(b"#" * 70_000)
        (tmp_path / "directory").mkdir()
        (tmp_path / "link").symlink_to("good")
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / ".#temporary").touch()
        (tmp_path / "no_name").touch()
        with caplog.at_level(logging.WARNING):
            found = records.load()
        assert [(machine.name, machine.cls, machine.realtime) for machine in found] == [("good", "vm", 7)]
        complaints = " ".join(record.getMessage() for record in caplog.records)
        for name in ("broken", "binary", "huge", "directory", "link", "fifo"):
            assert f"'{name}'" in complaints

    def test_sweep(self, tmp_path: Path) -> None:
        records = StateDirectory(tmp_path, 257)
        records.save(Machine("good", MachineClass.CONTAINER, unit="a.scope"))
        (tmp_path / ".#goodx1").touch()
        (tmp_path / "unit:b.scope").symlink_to("gone")
        records.sweep()
        assert {entry.name for entry in tmp_path.iterdir()} == {"good", "unit:a.scope"}


KEYS = [
    "NAME", "CLASS", "SCOPE", "SUBGROUP", "ID", "LEADER", "LEADER_PIDFDID", "SUPERVISOR", "UID", "REALTIME",
    "SUPERVISOR_PIDFDID", "MONOTONIC", "NETIF", "VSOCK_CID", "ROOT", "SSH_ADDRESS",
]  # fmt: skip
HOSTILE = st.sampled_from(
    ["", "-1", "0", "1", "2", "1_0", "\u0661", " 7", "7 8", "0x1", "1e3", str(2**31),
     str(2**32), str(2**64),
     "9" * 30, "9" * 5000, "web", "vm", ID, ID[:30], "z" * 32]
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), HOSTILE | TEXT))
def test_hostile_records(values: dict[str, str]) -> None:
    """No record, or a machine whose numbers fit the fields they go out in."""
    data = "".join(f"{key}={envfile.quote(value)}\n" for key, value in values.items()).encode()
    try:
        machine = parse("web", data)
    except ValueError:
        return
    with contextlib.closing(machine):
        assert machine.name == "web"
        assert 0 <= machine.leader_pid < 2**31
        assert 0 <= machine.supervisor_pid < 2**31
        assert 0 <= machine.uid < 2**32
        assert 0 < machine.vsock_cid < 2**32
        assert 0 <= machine.realtime < 2**64
        assert 0 <= machine.monotonic < 2**64
        assert all(0 <= index < 2**31 for index in machine.ifindices)
        again = parse("web", render(machine, 262).encode())
        with contextlib.closing(again):
            assert (again.uid, again.realtime, again.ifindices) == (
                machine.uid, machine.realtime, machine.ifindices
            )  # fmt: skip


@given(st.binary(max_size=100))
def test_bytes_that_are_no_utf8(data: bytes) -> None:
    """A path may hold any byte but NUL: it comes back whole, or not at all."""
    root = "/" + os.fsdecode(data.replace(b"\0", b""))
    text = render(Machine("web", MachineClass.CONTAINER, root_directory=root), 262)
    again = parse("web", text.encode("utf-8", "surrogateescape"))
    assert again.root_directory in {root, ""}
    assert (again.cls, again.uid) == (MachineClass.CONTAINER, 0)
