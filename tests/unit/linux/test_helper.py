# SPDX-License-Identifier: LGPL-2.1-or-later
"""The helper from the daemon's side, on real guests where it may make them."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from machined.linux import helper, netlink, nshelper, syscalls
from machined.linux.fds import OwnedFd
from machined.linux.process import PidRef, real_uid

from .conftest import FIRST_UID, ROOT, Guest, guest_with


def content(reply: helper.Reply) -> bytes:
    return base64.b64decode(reply.data["data"])


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A server's socket that the guest's users may connect to."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen(1)
        try:
            yield server
        finally:
            path.unlink()


def test_start_up_stays_cheap() -> None:
    """Each of these modules takes about as long to import as the interpreter to start."""
    code = "import sys; sys.path.append(sys.argv[1]); import machined.linux.nshelper; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code, str(ROOT)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    costly = {
        "asyncio",
        "collections",
        "contextlib",
        "ctypes",
        "dataclasses",
        "enum",
        "json",
        "re",
        "socket",
        "struct",
    }
    assert costly.isdisjoint(loaded)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63,
        "",
        'a"b\\c',
        "ü\n\0\x7f",
        "\U0001f600",
        "\udcff",
        [1, ["a"]],
        {"k": {"e": []}},
    ],
)
def test_reply_is_json(value: object) -> None:
    import json

    assert json.loads(nshelper._json(value)) == value


async def test_read_without_a_target(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\0\xffcontent")
    reply = await helper.run("read", None, {"paths": [str(tmp_path / "a"), str(tmp_path / "b")]})
    assert (content(reply), reply.data["path"], len(reply.fds)) == (b"\0\xffcontent", str(tmp_path / "b"), 0)


async def test_read_of_much(tmp_path: Path) -> None:
    """More than one packet."""
    data = os.urandom(300_000)
    (tmp_path / "a").write_bytes(data)
    reply = await helper.run("read", None, {"paths": [str(tmp_path / "a")], "limit": 300_000})
    assert content(reply) == data
    with pytest.raises(OSError, match="larger than 299999 bytes") as caught:
        await helper.run("read", None, {"paths": [str(tmp_path / "a")], "limit": 299_999})
    assert caught.value.errno == errno.EFBIG


async def test_read_never_waits_for_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for paths in ([tmp_path / "fifo", tmp_path / "none"], [tmp_path / "none", tmp_path / "fifo"]):
        with pytest.raises(OSError, match="no regular file") as caught:
            await helper.run("read", None, {"paths": [str(path) for path in paths]})
        assert caught.value.errno == errno.EINVAL


async def test_read_of_the_missing_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'/no such file': No such file"):
        await helper.run("read", None, {"paths": ["/no such file"]})


async def test_unknown_job() -> None:
    with pytest.raises(ValueError, match="'dance'"):
        await helper.run("dance", None, {})


async def test_request_too_large() -> None:
    with pytest.raises(OSError, match="too large"):
        await helper.run("read", None, {"paths": ["x" * nshelper.REQUEST_MAX]})


async def test_addresses_without_a_target() -> None:
    reply = await helper.run("addresses", None, {})
    assert reply.data["private"] is False
    assert netlink.decode(reply.data["addresses"]) == netlink.addresses()


async def test_many_at_a_time() -> None:
    replies = await asyncio.gather(*(helper.run("root", None, {}) for _ in range(2 * helper.CONCURRENCY)))
    for reply in replies:
        with reply.fds as fds:
            assert os.path.samestat(os.fstat(fds.peek(0)), os.stat("/"))


async def test_no_more_than_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "CONCURRENCY", 1)
    monkeypatch.setattr(helper, "QUEUE", 1)
    tasks = [asyncio.ensure_future(helper.run("addresses", None, {})) for _ in range(3)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [result for result in results if isinstance(result, OSError)]
    assert [error.errno for error in failed] == [errno.EAGAIN]


async def test_those_who_only_look_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask for a guest's addresses as often as he likes; root wants a shell meanwhile."""
    monkeypatch.setattr(helper, "CONCURRENCY", 1)
    monkeypatch.setattr(helper, "QUEUE", 1)
    looking = [asyncio.ensure_future(helper.run("addresses", None, {})) for _ in range(20)]
    await asyncio.sleep(0)
    reply = await helper.run("root", None, {})
    reply.fds.close()
    results = await asyncio.gather(*looking, return_exceptions=True)
    assert any(isinstance(result, OSError) for result in results), "the queue was full"


PATIENT = "import signal\nwhile True: signal.pause()"


async def test_timeout_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_PROGRAM", PATIENT)
    with pytest.raises(TimeoutError, match=r"'root' took longer than 0\.05 s"):
        await helper.run("root", None, {}, timeout=0.05)


async def test_timeout_kills_what_the_helper_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipe closes only when the last of them is gone."""
    read, write = os.pipe()
    with OwnedFd(read) as end:
        with OwnedFd(write):
            pipe = f"/proc/{os.getpid()}/fd/{write}"
            program = f"import os\nos.open({pipe!r}, os.O_WRONLY)\nos.fork()\n{PATIENT}"
            monkeypatch.setattr(helper, "_PROGRAM", program)
            with pytest.raises(TimeoutError):
                await helper.run("root", None, {}, timeout=0.2)
        loop = asyncio.get_running_loop()
        closed = loop.create_future()
        loop.add_reader(end.fileno(), closed.set_result, None)
        await closed
        loop.remove_reader(end.fileno())
        assert os.read(end.fileno(), 1) == b""


async def test_cancel_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_PROGRAM", PATIENT)
    task = asyncio.ensure_future(helper.run("root", None, {}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("raise SystemExit(7)", r"died during 'root' \(status 7\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"died during 'root' \(status -11\)"),
    ],
)
async def test_death(monkeypatch: pytest.MonkeyPatch, program: str, complaint: str) -> None:
    monkeypatch.setattr(helper, "_PROGRAM", program)
    with pytest.raises(OSError, match=complaint) as caught:
        await helper.run("root", None, {})
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize(
    "answer",
    [
        "x",
        "[]",
        "{}",
        '{"ok": 1}',
        '{"errno": 2}',
        '{"errno": "2", "what": ""}',
        '{"errno": true, "what": ""}',
        "[" * 50_000,
    ],
)
async def test_nonsense(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    program = f"""
import socket, sys
sock = socket.socket(fileno=int(sys.argv[2]))
sock.recv(100000)
answer = {answer[:5]!r} * {len(answer) // 5} if {len(answer)} > 1000 else {answer[:1000]!r}
for start in range(0, len(answer), 1000):
    socket.send_fds(sock, [answer[start : start + 1000].encode()], [0])
"""
    monkeypatch.setattr(helper, "_PROGRAM", program)
    with pytest.raises(OSError, match="answers 'root' with nonsense") as caught:
        await helper.run("root", None, {})
    assert caught.value.errno == errno.EIO


async def test_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[2]))
while True:
    sock.send(b"x" * 10000)
"""
    monkeypatch.setattr(helper, "_PROGRAM", program)
    with pytest.raises(OSError, match="sent more than") as caught:
        await helper.run("root", None, {})
    assert caught.value.errno == errno.EMSGSIZE


async def test_read_stays_in_the_guest(guest: Guest) -> None:
    release = guest.tree / "etc" / "os-release"
    release.symlink_to("/../../etc/real")
    try:
        (guest.tree / "etc" / "real").write_text("ID=guest\n")
        reply = await helper.run("read", guest.ref, {"paths": ["/etc/os-release", "/usr/lib/os-release"]})
    finally:
        release.unlink()
    assert content(reply) == b"ID=guest\n"


async def test_read_of_what_the_guest_may_not_read(guest: Guest) -> None:
    """The helper has the guest's rights, not the host's."""
    secret = guest.tree / "etc" / "secret"
    secret.write_text("host")
    secret.chmod(0o600)
    with pytest.raises(PermissionError):
        await helper.run("read", guest.ref, {"paths": ["/etc/secret"]})


async def test_root_of_the_guest(guest: Guest) -> None:
    with (await helper.run("root", guest.ref, {})).fds as fds:
        assert os.path.samestat(os.fstat(fds.peek(0)), guest.tree.stat())


async def test_addresses_of_the_guest(guest: Guest) -> None:
    reply = await helper.run("addresses", guest.ref, {})
    assert reply.data["private"] is True
    found = netlink.decode(reply.data["addresses"])
    assert "127.0.0.1" in [netlink.text(a) for a in found]
    assert [netlink.text(a) for a in netlink.usable(found)] == ["192.0.2.7"]


async def test_route_socket_of_the_guest(guest: Guest) -> None:
    with (await helper.run("netlink", guest.ref, {})).fds as fds, socket.socket(fileno=fds.steal(0)) as sock:
        assert [netlink.text(a) for a in netlink.usable(netlink.addresses(sock))] == ["192.0.2.7"]


async def test_metadata_of_the_guest(guest: Guest) -> None:
    reply = await helper.run("metadata", guest.ref, {"paths": ["/etc/none"]})
    assert reply.data["read_error"] == {
        "errno": errno.ENOENT,
        "what": "'/etc/none': No such file or directory",
    }
    (guest.tree / "etc" / "some").write_text("ID=guest\n")
    reply = await helper.run("metadata", guest.ref, {"paths": ["/etc/some"]})
    assert content(reply) == b"ID=guest\n"
    assert [netlink.text(a) for a in netlink.usable(netlink.decode(reply.data["addresses"]))] == [
        "192.0.2.7"
    ]


async def test_connect_as_the_guest_s_root(guest: Guest) -> None:
    """The peer sees root of the guest, and a process of the guest's PID namespace."""
    path = guest.tree / "run" / "bus"
    with listening(path) as server, socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        await helper.run("connect", guest.ref, {"path": "/run/bus"}, [client.fileno()])
        accepted, _ = server.accept()
        with accepted:
            credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            assert struct.unpack("3i", credentials)[1:] == (FIRST_UID, FIRST_UID)
            assert not client.getblocking()
            assert not os.get_blocking(client.fileno())
            client.send(b"hello")
            assert accepted.recv(100) == b"hello"


async def test_connect_to_nobody(guest: Guest) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(FileNotFoundError, match="'/run/bus'"):
            await helper.run("connect", guest.ref, {"path": "/run/bus"}, [client.fileno()])
        (guest.tree / "run" / "file").touch()
        with pytest.raises(OSError, match="cannot connect to '/run/file'"):
            await helper.run("connect", guest.ref, {"path": "/run/file"}, [client.fileno()])


async def test_connect_to_somebody_who_does_not_answer(guest: Guest) -> None:
    path = guest.tree / "run" / "full"
    with listening(path) as server, socket.socket(socket.AF_UNIX) as client:
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            arguments = {"path": "/run/full", "timeout_msec": 50}
            with pytest.raises(TimeoutError, match="'/run/full' accepted no connection in 50 ms"):
                await helper.run("connect", guest.ref, arguments, [client.fileno()])


async def test_connect_refuses_other_sockets(guest: Guest) -> None:
    with socket.socket(socket.AF_INET) as client, pytest.raises(OSError, match="only a UNIX stream socket"):
        await helper.run("connect", guest.ref, {"path": "/run/bus"}, [client.fileno()])


async def test_pty(tmp_path: Path) -> None:
    if not os.access("/dev/ptmx", os.R_OK | os.W_OK):
        pytest.skip("/dev/ptmx cannot be opened")
    reply = await helper.run("pty", None, {})
    with reply.fds as fds:
        assert syscalls.pty_number(fds.peek(0)) == reply.data["number"]
        assert not os.get_inheritable(fds.peek(0))


IMPORTING = """
import sys
sys.path.append(sys.argv[1])
from machined.linux import nshelper
def job(target, arguments, fds):
    for name in ("colorsys", "encodings.utf_16_be"):
        try:
            __import__(name)
        except ImportError:
            continue
        return {"imported": name}, []
    raise RuntimeError("as it should be")
nshelper.OPERATIONS["root"].job = job
nshelper.main(int(sys.argv[2]))
"""


async def test_nothing_is_imported_from_the_guest(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where our modules are, seen from inside, the guest has put its own."""
    trap = "import os; os.close(os.open('/run/sprung', os.O_CREAT))"
    for place in {os.path.dirname(os.__file__), str(ROOT)}:
        directory = guest.tree / place.lstrip("/")
        (directory / "encodings").mkdir(parents=True)
        for name in ("colorsys", "traceback", "linecache", "encodings/utf_16_be"):
            (directory / f"{name}.py").write_text(trap)
    monkeypatch.setattr(helper, "_PROGRAM", IMPORTING)
    with pytest.raises(OSError, match=r"failed in job:\d+: RuntimeError: as it should be") as caught:
        await helper.run("root", guest.ref, {})
    assert caught.value.errno == errno.EIO
    assert not (guest.tree / "run" / "sprung").exists()


async def test_pty_of_a_guest_that_cheats(guest: Guest) -> None:
    ptmx = guest.tree / "dev" / "ptmx"
    ptmx.touch()
    ptmx.chmod(0o666)
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        await helper.run("pty", guest.ref, {})


async def test_guest_without_a_user_namespace() -> None:
    with guest_with("mnt", "pid") as guest:
        assert real_uid(guest.ref.pid) == 0
        (guest.tree / "etc" / "os-release").write_text("ID=guest\n")
        reply = await helper.run("metadata", guest.ref, {"paths": ["/etc/os-release"]})
        assert (content(reply), reply.data["private"]) == (b"ID=guest\n", False)
        with listening(guest.tree / "run" / "bus") as server, socket.socket(socket.AF_UNIX) as client:
            await helper.run("connect", guest.ref, {"path": "/run/bus"}, [client.fileno()])
            server.accept()[0].close()


async def test_reference_closed_while_waiting(guest: Guest) -> None:
    ref = guest.ref.dup()
    task = asyncio.ensure_future(helper.run("root", ref, {}))
    await asyncio.sleep(0)
    ref.close()
    (await task).fds.close()


async def test_target_that_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    with PidRef.open(sleeper.pid) as ref:
        sleeper.kill()
        sleeper.wait()
        for op in ("root", "addresses"):
            arguments: dict[str, Any] = {}
            with pytest.raises(ProcessLookupError, match=f"process {ref.pid} is gone"):
                await helper.run(op, ref, arguments)


def test_the_root_is_pinned_before_the_user_namespace_is_looked_at(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that goes to a user namespace, and a tree, of its own in between must not have us follow."""
    order: list[str] = []
    fds: list[int] = []
    real = os.open

    def opened(path: str, *rest: Any) -> int:
        order.append(str(path).rpartition("/")[2])
        fds.append(real(path, *rest))
        return fds[-1]

    def looked_at(_target: nshelper.Target, kind: str) -> int:
        order.append(kind)
        if kind == "user":
            raise FileNotFoundError
        return -1

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(nshelper.Target, "_open", looked_at)
    with PidRef.open(sleeper.pid) as process, pytest.raises(ProcessLookupError):
        nshelper.Target(process.pid, process.fileno()).enter(("mnt", "user"), root=True)
    monkeypatch.undo()
    for fd in fds:  # the helper's end would close them
        os.close(fd)
    assert order == ["root", "mnt", "user"]
