# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program that does one job inside another process's namespaces; machined.linux.helper starts it.

A process with threads can enter neither a mount nor a user namespace, and the daemon has threads.

The start-up time of this program is on the hot path of every shell that is opened in a guest. Please do not
add imports, not even of json, socket or dataclasses: each costs as much as the interpreter's own start.
Hence the built-in _socket, a JSON writer of ten lines, and no type that is not built in.

Nor can anything be imported later: once inside, the paths of our modules lead to the guest's files.

The one argument is the number of a SEQPACKET socket. One packet comes in: the request (marshal, since it is
from the process that started us), with the target's pidfd first and the job's own descriptors behind it. The
reply goes out (JSON: a guest may have had its hands on us by then), {"ok": {…}} or {"errno": …, "what": …},
in packets until the end of the stream, with the descriptors on the first.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's built-in half
import _socket
import binascii
import errno
import marshal
import os
import stat
import sys

from machined.linux import rtdump, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Arguments = dict[str, Any]
    Answer = tuple[dict[str, object], list[int]]

REQUEST_MAX = 64 * 1024
REPLY_PACKET = 32 * 1024
FDS_MAX = 8
READ_MAX = 1024 * 1024
ADDRESSES_MAX = 4096

_INT = 4  # bytes of a descriptor in SCM_RIGHTS
_CLONE = {
    "pid": syscalls.CLONE_NEWPID,
    "mnt": syscalls.CLONE_NEWNS,
    "net": syscalls.CLONE_NEWNET,
    "user": syscalls.CLONE_NEWUSER,
}


def _stop_importing() -> None:
    """Have every further import fail, also those the interpreter makes on its own (codecs, traceback).

    A guest's file would be run with our descriptors in reach.
    """
    syscalls.load()
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"
    ]


class Target:
    """The process whose namespaces we enter; pid 0 for our own."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self.entered: set[str] = set()

    def _open(self, kind: str) -> int:
        try:
            own = os.stat(f"/proc/self/ns/{kind}")
        except FileNotFoundError:  # a kernel without namespaces of this kind
            return -1
        other = os.stat(f"/proc/{self.pid}/ns/{kind}")
        if (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino):
            return -1  # entering our own user namespace is even refused
        return os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)

    def shares(self, kind: str) -> bool:
        """Whether its namespace of this kind is ours. One that is gone shares none: enter() says so."""
        try:
            fd = self._open(kind)
        except FileNotFoundError:
            return False
        if fd >= 0:
            os.close(fd)
        return fd < 0

    def enter(self, kinds: tuple[str, ...], root: bool) -> None:
        """Join the namespaces (user last: it takes our power over the others away) and become root there."""
        if not self.pid:
            return
        try:
            root_fd = -1
            if root:
                root_fd = os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            # After the root, and "user" last: a process that has left our user namespace does not come back,
            # so one that is still in it had not been able to make a tree of its own its root.
            opened = [(kind, self._open(kind)) for kind in kinds]
            groups_denied = "user" in kinds and self._setgroups_denied()
            # Only now is it certain that all of these are of the process that was meant.
            _signal.pidfd_send_signal(self._pidfd, 0)
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessLookupError(errno.ESRCH, f"process {self.pid} is gone") from None
        _stop_importing()
        for kind, fd in opened:
            if fd >= 0:
                syscalls.setns(fd, _CLONE[kind])
                os.close(fd)
                self.entered.add(kind)
        if root_fd >= 0:
            os.fchdir(root_fd)
            os.chroot(".")
            os.close(root_fd)
        if "user" in kinds:
            if not groups_denied:
                os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)

    def _setgroups_denied(self) -> bool:
        # User namespaces made without privileges; see user_namespaces(7).
        try:
            with open(f"/proc/{self.pid}/setgroups", "rb") as file:
                return file.read().strip() == b"deny"
        except FileNotFoundError:
            return False


def _pty(_target: Target, arguments: Arguments, _fds: list[int]) -> Answer:
    master = syscalls.posix_openpt(arguments.get("ptmx", "/dev/ptmx"))
    # What a guest has put there may be a file of a file system of its own, and hang whoever asks it.
    status = os.fstat(master)
    if status.st_mode & 0o170000 != 0o020000 or status.st_rdev != os.makedev(5, 2):
        raise OSError(errno.ENOTTY, "there is no terminal multiplexer at /dev/ptmx")
    return {"number": syscalls.pty_number(master)}, [master, syscalls.pty_peer(master)]


def _connect(_target: Target, arguments: Arguments, fds: list[int]) -> Answer:
    sock, path = _socket.socket(fileno=fds[0]), arguments["path"]
    if (sock.family, sock.type) != (_socket.AF_UNIX, _socket.SOCK_STREAM):
        raise OSError(errno.ENOTSOCK, "only a UNIX stream socket can be connected here")
    # How connect() waits belongs to the open socket, which the daemon shares: put it back in the end.
    blocking, msec = os.get_blocking(fds[0]), int(arguments.get("timeout_msec", 5000))
    os.set_blocking(fds[0], True)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _timeval(msec))
    try:
        sock.connect(path)
    except BlockingIOError:
        raise TimeoutError(errno.ETIMEDOUT, f"'{path}' accepted no connection in {msec} ms") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot connect to '{path}': {error.strerror}") from None
    finally:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _timeval(0))
        os.set_blocking(fds[0], blocking)
        sock.detach()
    return {}, []


def _timeval(msec: int) -> bytes:
    size = 8 if sys.maxsize > 2**32 else 4  # struct timeval is two longs
    seconds, rest = divmod(msec, 1000)
    return seconds.to_bytes(size, sys.byteorder) + (rest * 1000).to_bytes(size, sys.byteorder)


def _read_file(path: str, limit: int) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # before open(): opening a device may do things
        raise OSError(errno.EINVAL, f"'{path}' is no regular file")
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, f"'{path}' is no regular file")
        chunks: list[bytes] = []
        left = limit + 1
        while left > 0 and (chunk := os.read(fd, left)):
            chunks.append(chunk)
            left -= len(chunk)
    finally:
        os.close(fd)
    if left <= 0:
        raise OSError(errno.EFBIG, f"'{path}' is larger than {limit} bytes")
    return b"".join(chunks)


def _read(_target: Target, arguments: Arguments, _fds: list[int]) -> Answer:
    limit = min(int(arguments.get("limit", 64 * 1024)), READ_MAX)
    failure: OSError | None = None
    for path in arguments["paths"]:
        try:
            data = _read_file(path, limit)
        except OSError as error:
            # What is wrong with a file that is there says more than that another one is not.
            if failure is None or failure.errno == errno.ENOENT:
                failure = error
        else:
            return {"path": path, "data": binascii.b2a_base64(data, newline=False).decode("ascii")}, []
    raise failure or OSError(errno.ENOENT, "no file was asked for")


def _route_socket() -> _socket.socket:
    return _socket.socket(rtdump.AF_NETLINK, _socket.SOCK_DGRAM, rtdump.NETLINK_ROUTE)


def _addresses(target: Target, _arguments: Arguments, _fds: list[int]) -> Answer:
    sock = _route_socket()
    rows = rtdump.dump(sock)[:ADDRESSES_MAX]
    sock.close()
    names = ("family", "address", "ifindex", "scope", "flags", "prefixlen")
    found = [dict(zip(names, (row[0], row[1].hex(), *row[2:]), strict=True)) for row in rows]
    return {"private": "net" in target.entered, "addresses": found}, []


def _netlink(target: Target, _arguments: Arguments, _fds: list[int]) -> Answer:
    return {"private": "net" in target.entered}, [_route_socket().detach()]


def _root(_target: Target, _arguments: Arguments, _fds: list[int]) -> Answer:
    return {}, [os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]


def _metadata(target: Target, arguments: Arguments, fds: list[int]) -> Answer:
    answer, _ = _addresses(target, arguments, fds)
    try:
        return answer | _read(target, arguments, fds)[0], []
    except OSError as error:  # a guest without the file still has addresses
        return answer | {"read_error": _describe(error)}, []


# Any change in a directory, once: who wants to know of the next one watches again.
_WATCH = (
    syscalls.IN_ONESHOT
    | syscalls.IN_ONLYDIR
    | syscalls.IN_MODIFY
    | syscalls.IN_ATTRIB
    | syscalls.IN_CLOSE_WRITE
    | syscalls.IN_MOVED_FROM
    | syscalls.IN_MOVED_TO
    | syscalls.IN_CREATE
    | syscalls.IN_DELETE
    | syscalls.IN_DELETE_SELF
    | syscalls.IN_MOVE_SELF
)
_LINKS_MAX = 8


def _watch(inotify: int, paths: list[str]) -> tuple[list[int], bool]:
    """Watch the directories of these files, and of what they are links to: the watches, and if they do."""
    watches: list[int] = []
    complete = True
    todo, seen = list(paths), 0
    while todo and seen < _LINKS_MAX:
        path, seen = todo.pop(0), seen + 1
        try:
            watches.append(syscalls.inotify_add_watch(inotify, os.path.dirname(path) or "/", _WATCH))
        except OSError:
            complete = False  # no more for us; or there is no such directory, and nobody tells when it comes
            continue
        try:
            todo.append(os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path))))
        except OSError:
            continue  # no link
    return watches, complete and not todo


def _observe(target: Target, arguments: Arguments, fds: list[int]) -> Answer:
    """As `read`, with watches on an inotify instance put up before, and a route socket on request."""
    answer: dict[str, object] = {"private": "net" in target.entered, "watches": [], "watched": False}
    results = [_route_socket().detach()] if arguments.get("route") and "net" in target.entered else []
    if fds:
        answer["watches"], answer["watched"] = _watch(fds[0], arguments["paths"])
    try:
        return answer | _read(target, arguments, fds)[0], results
    except OSError as error:
        return answer | {"read_error": _describe(error)}, results


class Operation:
    """What a job needs and does. fork: in a child, so that the process its peer sees is in there too.

    calls: system calls that Python has not (syscalls), which have to be found before we are inside.
    """

    def __init__(
        self,
        job: Callable[[Target, Arguments, list[int]], Answer],
        kinds: tuple[str, ...],
        root: bool = True,
        fork: bool = False,
        calls: bool = False,
    ) -> None:
        self.job, self.kinds, self.root, self.fork, self.calls = job, kinds, root, fork, calls

    def load(self) -> None:
        """Import what only this job needs, while paths lead to our own files."""


class Elsewhere(Operation):
    """A job of a module of its own: its perform() begins on the host and enters the target by itself."""

    def __init__(self, module: str) -> None:
        self._module = module

    def load(self) -> None:
        job = __import__(self._module, fromlist=("perform",)).perform
        super().__init__(job, kinds=(), root=False)


# The order of the kinds is the order they are entered in.
OPERATIONS = {
    "pty": Operation(_pty, ("pid", "mnt", "user")),
    "connect": Operation(_connect, ("pid", "mnt", "user"), fork=True),
    "read": Operation(_read, ("pid", "mnt", "user")),
    "addresses": Operation(_addresses, ("net",), root=False),
    "netlink": Operation(_netlink, ("net",), root=False),
    "root": Operation(_root, ("pid", "mnt", "user")),
    "metadata": Operation(_metadata, ("pid", "mnt", "net", "user")),
    "bind": Elsewhere("machined.linux.bindmount"),
    "copy": Elsewhere("machined.linux.guestcopy"),
    "observe": Operation(_observe, ("pid", "mnt", "net", "user"), calls=True),
}


def _json(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_json, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(key)}:{_json(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    units: list[int] = []
    for number in map(ord, text):  # UTF-16 by hand: Python would import its codec
        units += [number] if number < 0x10000 else [0xD7C0 + (number >> 10), 0xDC00 | number & 0x3FF]
    return '"' + "".join(f"\\u{unit:04x}" for unit in units) + '"'


def _describe(error: OSError) -> dict[str, object]:
    what = error.strerror or str(error)
    if error.filename is not None:
        what = f"'{error.filename}': {what}"
    return {"errno": error.errno or errno.EIO, "what": what}


def _receive(sock: _socket.socket) -> tuple[Any, list[int]]:
    space = _socket.CMSG_SPACE(FDS_MAX * _INT)
    data, control, _, _ = sock.recvmsg(REQUEST_MAX, space, _socket.MSG_CMSG_CLOEXEC)
    payload = b"".join(c[2] for c in control)
    fds = [int.from_bytes(payload[i : i + _INT], sys.byteorder) for i in range(0, len(payload), _INT)]
    return marshal.loads(data), fds


def _reply(sock: _socket.socket, answer: dict[str, object], fds: list[int]) -> None:
    data = _json(answer).encode("ascii")
    payload = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in fds)
    control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, payload)] if fds else []
    for start in range(0, len(data), REPLY_PACKET):
        sock.sendmsg([data[start : start + REPLY_PACKET]], control, _socket.MSG_NOSIGNAL)
        control = []


def main(number: int) -> None:
    """Do the one job that arrives on this socket."""
    sock = _socket.socket(fileno=number)
    (name, pid, arguments), fds = _receive(sock)
    operation = OPERATIONS[name]
    target = Target(pid, fds.pop(0) if pid else -1)
    try:
        operation.load()
        if operation.calls:
            syscalls.load(everything=True)
        if operation.kinds:
            target.enter(operation.kinds, operation.root)
        # Entering a PID namespace takes effect for children only.
        if operation.fork and "pid" in target.entered and (child := os.fork()):
            sock.close()
            os.waitpid(child, 0)
            os._exit(0)
        answer, results = operation.job(target, arguments, fds)
    except OSError as error:
        _reply(sock, _describe(error), [])
    except Exception as error:
        # Left to itself, Python would look for the lines of its traceback in the guest's files.
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_name}:{place.tb_lineno}" if place else "?"
        what = f"the namespace helper failed in {where}: {type(error).__name__}: {error}"
        _reply(sock, {"errno": errno.EIO, "what": what}, [])
    else:
        _reply(sock, {"ok": answer}, results)
    os._exit(0)  # the interpreter's own way out takes longer than the job
