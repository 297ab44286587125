# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots a cached tree as a host of its own: systemd as the first process of new namespaces."""

import atexit
import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

from . import build
from .cache import TestHostError
from .instance import Instance, cgroup_root, remove_cgroup
from .probe import UNSHARE, why_not
from .snapshot import SCRIPT, Snapshot

ENTER = Path(__file__).with_name("enter.sh")
# asm-generic/ioctls.h; termios does not name them.
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "SYSTEMD_PAGER": "",
}


class CommandFailed(subprocess.CalledProcessError):
    """Like its base, but a test's report shows what the command had to say."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stdout or ''}{self.stderr or ''}".rstrip()


class Host:
    """One host; removed with all that is in it by `stop()`, at the end of a `with` block or the process."""

    def __init__(
        self,
        suite: str = "trixie",
        *,
        layer: Path | None = None,
        read_only: Mapping[str, Path] | None = None,
    ) -> None:
        """Make the instance, not booted. `layer` lies on the cached tree; `read_only`: {inside: source}."""
        if (reason := why_not()) is not None:
            raise TestHostError(f"no test host on this machine: {reason}")
        self.trees = build.ensure(suite)
        self.suite = suite
        self._owner = os.getpid()
        self._unshare: subprocess.Popen[str] | None = None
        self._init = -1
        self._pidfd = -1
        lowers = [self.trees.host] if layer is None else [layer, self.trees.host]
        self._instance = Instance(suite, lowers, read_only or {})
        atexit.register(self.stop)
        etc = self._instance.tree / "etc"
        (etc / "hostname").write_text("testhost\n", encoding="utf-8")
        (etc / "machine-id").write_text(f"{uuid4().hex}\n", encoding="utf-8")
        # It would run a quarter of an hour after the boot, with a mount of its own while it does.
        timer = etc / "systemd/system/systemd-tmpfiles-clean.timer"
        timer.unlink(missing_ok=True)
        timer.symlink_to("/dev/null")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def name(self) -> str:
        """Unique on this machine."""
        return self._instance.name

    @property
    def pid(self) -> int:
        """The host's init as this machine numbers it. Raises TestHostError when the host is not up."""
        if self._unshare is None:
            raise TestHostError(f"test host '{self.name}' is not running")
        return self._init

    def path(self, inside: str) -> Path:
        """A file of the host as seen from here. Absolute symbolic links in it lead astray."""
        top = self._instance.tree if self._unshare is None else Path(f"/proc/{self._init}/root")
        return top / inside.lstrip("/")

    def boot(self, timeout: float = 90) -> Self:
        """Start the host and wait until it is up, see `wait_running`."""
        self.start()
        self.wait_running(timeout)
        return self

    def start(self) -> None:
        """Start the host's init, without waiting for anything."""
        if self._unshare is not None:
            raise TestHostError(f"test host '{self.name}' is running already")
        cgroup = self._instance.cgroup
        cgroup.mkdir(exist_ok=True)
        # The cgroup namespace begins at the cgroup its first process is in when it is made.
        enter = ["sh", "-ec", 'echo 0 >"$1/cgroup.procs"; shift; exec "$@"', "sh", os.fspath(cgroup)]
        process = subprocess.Popen(
            [*enter, *UNSHARE, os.fspath(ENTER), os.fspath(self._instance.tree)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self._unshare = process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise TestHostError(f"cannot boot: {process.communicate(timeout=5)[1].strip()}")
            self._init = int(line)
            self._pidfd = os.pidfd_open(self._init)
            # Out of the way: init can hand controllers down only when no other process is in the cgroup.
            _move_to_own_cgroup(process.pid)
            process.stdin.write("go\n")
            process.stdin.flush()
        except BaseException:
            self._kill()
            raise

    def wait_running(self, timeout: float = 60) -> str:
        """Wait for the end of the boot; return "running" or "degraded". Raises TestHostError else."""
        deadline = time.monotonic() + timeout
        state = "?"
        while (left := deadline - time.monotonic()) > 0:
            if self.wait_end(0):
                raise TestHostError(f"the test host's init ended while booting: {self._messages()}")
            try:
                done = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=left)
            except subprocess.TimeoutExpired:
                break
            state = done.stdout.strip() or done.stderr.strip()
            if state in ("running", "degraded"):
                return state
            time.sleep(0.02)  # systemd does not listen yet, and there is nothing else to wait for
        raise TestHostError(f"the test host was not up after {timeout:.0f} s, its state is '{state}'")

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        unit: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host, as root or a user; `unit`: as a service, for callers that must be one.

        Raises CommandFailed (with `check`) and subprocess.TimeoutExpired.
        """
        if unit:
            settings = [f"--setenv={key}={value}" for key, value in (env or {}).items()]
            settings += [f"--uid={user}"] if user else []
            argv = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *settings, "--", *argv]
            user = None
        command = self.command(argv, env=env, user=user)
        stdin = subprocess.DEVNULL if input is None else None
        done = subprocess.run(
            command, stdin=stdin, input=input, capture_output=True, text=True, errors="replace",
            timeout=timeout, check=False,
        )  # fmt: skip
        done.args = list(argv)  # what was asked for, not how it got there
        if check and done.returncode != 0:
            raise CommandFailed(done.returncode, list(argv), done.stdout, done.stderr)
        return done

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        tty: bool = False,
    ) -> subprocess.Popen[str]:
        """Start a command in the host. `tty`: stdin becomes the controlling terminal of a new session.

        Killing what is returned kills the command.
        """
        command = self.command(["setsid", "--ctty", "--wait", *argv] if tty else argv, env=env, user=user)
        return subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, text=True, errors="replace"
        )

    def command(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, user: str | None = None
    ) -> list[str]:
        """The command line that runs a command in the host with a clean environment."""
        variables = [f"{key}={value}" for key, value in (ENVIRONMENT | dict(env or {})).items()]
        switch = [f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        # nsenter forks to enter the process namespace: by the death signal its end is the command's end.
        return [
            "nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--",
            "env", "-i", *variables, "setpriv", "--pdeathsig", "KILL", *switch, "--", *argv,
        ]  # fmt: skip

    def openpty(self) -> tuple[int, int]:
        """A new terminal of the host itself, whose name means something in there: (our end, its end)."""
        ours = os.open(self.path("/dev/pts/ptmx"), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        return ours, _terminal_peer(ours)

    def add_guest(self, name: str) -> Path:
        """Copy the guest tree to /var/lib/machines/NAME; return its path outside."""
        target = self._instance.machines / name
        # No hard links: systemd-nspawn -U changes the owners.
        subprocess.run(
            ["cp", "-a", "--reflink=auto", os.fspath(self.trees.guest), os.fspath(target)], check=True
        )
        return target

    def plain_pool(self, size: int = 0) -> None:
        """Make /var/lib/machines no mount point; `size`: on an ext4 of so many bytes. Before the boot."""
        self._instance.plain_pool(size)

    def plain_root(self, size: int) -> None:
        """Make the host's root an ext4 of so many bytes. Before the boot."""
        self._instance.plain_root(size)

    def until(self, condition: str, seconds: float = 60, *, env: Mapping[str, str] | None = None) -> None:
        """Wait for a condition of bash: for what has no event that somebody outside could wait for."""
        loop = f"until {condition}; do sleep 0.05; done"
        self.run(["timeout", f"{seconds:g}", "bash", "-c", loop], timeout=seconds + 5, env=env)

    def snapshot(self) -> Snapshot:
        """What guests may leave behind in the host, to compare with a later look."""
        return Snapshot.parse(self.run(["sh", "-c", SCRIPT]).stdout)

    def left_behind(self, before: Snapshot, patience: float = 20) -> list[str]:
        """What is more or less than it was. The kernel takes a link away in its own time when a network
        namespace has ended, so that what differs is looked at again for a while (s)."""
        deadline = time.monotonic() + patience
        while (left := before.diff(self.snapshot())) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def shutdown(self, verb: str = "poweroff", timeout: float = 120) -> str:
        """A clean end: `systemctl poweroff|reboot|halt`, and wait; return how it ended, see `ended`."""
        # The connection may be cut before the answer is out.
        self.run(["systemctl", "--no-block", verb], check=False)
        if not self.wait_end(timeout):
            raise TestHostError(f"the test host was not down {timeout:.0f} s after {verb}")
        return self.ended()

    def wait_end(self, timeout: float) -> bool:
        """Wait for the host's init to end by itself; False when it is still there."""
        assert self.pid > 0  # or there is nothing to wait for
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def ended(self) -> str:
        """How it ended: "reboot", "poweroff", "killed", or an exit status. It may be booted again."""
        process = self._unshare
        if process is None:
            raise TestHostError(f"test host '{self.name}' is not running")
        # reboot(2) in a process namespace makes init die of these signals, and unshare(1) follows it.
        names = {-signal.SIGHUP: "reboot", -signal.SIGINT: "poweroff", -signal.SIGKILL: "killed"}
        status = process.wait(10)
        self._kill()
        return names.get(status, str(status))

    def reboot(self, timeout: float = 90) -> None:
        """The short way: kill everything, as at a loss of power, and boot the same tree again."""
        self._kill()
        self.boot(timeout)

    def stop(self) -> None:
        """Kill the host and delete the instance. Idempotent; does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        self._kill()
        self._instance.remove()
        atexit.unregister(self.stop)

    def _kill(self) -> None:
        process, self._unshare = self._unshare, None
        if process is None:
            return
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        else:
            process.kill()
        process.wait(10)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        remove_cgroup(self._instance.cgroup)

    def _messages(self) -> str:
        assert self._unshare is not None
        assert self._unshare.stderr is not None
        self._unshare.wait(10)
        return self._unshare.stderr.read().strip() or f"exit status {self._unshare.returncode}"


def _move_to_own_cgroup(pid: int) -> None:
    """Move a process to this one's cgroup, or to the top where ours cannot be named from here."""
    root = cgroup_root()
    assert root is not None
    own = Path("/proc/self/cgroup").read_text(encoding="utf-8").partition("0::/")[2].splitlines()[0]
    for target in (root / own, root):
        with contextlib.suppress(OSError):
            (target / "cgroup.procs").write_text(str(pid), encoding="utf-8")
            return


def _terminal_peer(ours: int) -> int:
    fcntl.ioctl(ours, TIOCSPTLCK, struct.pack("i", 0))
    # By its name the other end would be looked for among this machine's terminals.
    return fcntl.ioctl(ours, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
