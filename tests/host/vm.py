# SPDX-License-Identifier: LGPL-2.1-or-later
"""A virtual machine, for what namespaces cannot show: a kernel, its controllers and links, a boot."""

import atexit
import base64
import contextlib
import itertools
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from . import build, cache, image
from .cache import TestHostError

# KVM is not tried: where it is offered in a virtual machine it cannot be relied on, and this always works.
_QEMU = (
    # cx16=off: with QEMU 7.2's cmpxchg16b the kernel crashes on its way up, not every time.
    # One processor: of several, emulated in threads, one now and then finds the kernel's data half written.
    "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,cx16=off", "-M", "q35",
    "-m", "2048", "-smp", "1", "-display", "none", "-nodefaults", "-nic", "none",
)  # fmt: skip
_NIC = ("-netdev", "hubport,id=nic,hubid=0", "-device", "virtio-net-pci,netdev=nic")
# Each program that a boot starts takes seconds here, and none of these is looked at.
_MASKED = (
    "dev-hugepages.mount", "dev-mqueue.mount", "e2scrub_reap.service", "kmod-static-nodes.service",
    "modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
    "proc-sys-fs-binfmt_misc.automount", "run-lock.mount", "serial-getty@ttyS0.service",
    "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "systemd-binfmt.service", "systemd-modules-load.service", "systemd-network-generator.service",
    "systemd-networkd-persistent-storage.service", "systemd-random-seed.service",
    "systemd-tmpfiles-setup-dev-early.service", "systemd-udev-load-credentials.service",
)  # fmt: skip
_KERNEL_LINE = " ".join((
    "root=/dev/vda rw console=ttyS0 systemd.journald.forward_to_console=0 net.ifnames=0",
    *(f"systemd.mask={unit}" for unit in _MASKED),
))  # fmt: skip


class VirtualMachine:
    """A machine of one suite, its disk written to a file that goes with it. Slow: about a minute to boot."""

    def __init__(self, suite: str = "trixie", *, layer: Path | None = None, nic: bool = False) -> None:
        """Make it, not booted.

        `layer` lies on the tree, see `layer.with_machined`; `nic`: it has a network card, eth0, with nothing
        at the other end.
        """
        if (reason := why_not()) is not None:
            raise TestHostError(f"no virtual machine: {reason}")
        build.install_tools({"qemu-system-x86_64": "qemu-system-x86"})
        self._nic = nic
        self._disk = image.ensure(suite, layer)
        self._held = cache.hold(self._disk.image)
        # Not in run/: a socket's path may have 107 bytes and no more.
        self._directory = Path(tempfile.mkdtemp(prefix="machined-vm-"))
        self._qemu: subprocess.Popen[bytes] | None = None
        self._agent: socket.socket | None = None
        self._received = b""
        self._numbers = itertools.count()
        self.boot_id = ""
        atexit.register(self.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def boot(self, timeout: float = 300) -> Self:
        """Switch the machine on and wait until it is up."""
        deadline = time.monotonic() + timeout
        # A listening socket of ours, so that there is no moment at which QEMU has none yet.
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(self._directory / "agent"))
            listener.listen()
            listener.settimeout(30)
            with (self._directory / "qemu.log").open("wb") as log:
                self._qemu = subprocess.Popen(
                    [*_QEMU, *self._devices()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    # Where QEMU keeps what is written to the disk.
                    env=os.environ | {"TMPDIR": os.fspath(self._directory)}, start_new_session=True,
                )  # fmt: skip
            try:
                self._agent, _ = listener.accept()
            except TimeoutError:
                raise TestHostError(f"QEMU does not start: {self.console()}") from None
        self._wait_up(deadline)
        return self

    def _devices(self) -> list[str]:
        return [
            "-kernel", os.fspath(self._disk.kernel), "-initrd", os.fspath(self._disk.initrd),
            "-append", _KERNEL_LINE,
            "-drive", f"file={self._disk.image},if=virtio,format=raw,snapshot=on",
            "-serial", f"file:{self._directory}/console",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={self._directory}/agent",
            "-device", "virtserialport,chardev=agent,name=machined.test", *(_NIC if self._nic else ()),
        ]  # fmt: skip

    def _wait_up(self, deadline: float) -> None:
        while True:
            word, number, _ = self._line(deadline)
            if word == "ready" and number != self.boot_id:
                break
        self.boot_id = number
        self.run("systemctl is-system-running --wait", timeout=max(1.0, deadline - time.monotonic()))

    def run(self, script: str, timeout: float = 120) -> tuple[int, str]:
        """Run a shell script in the machine, as root and in a service; return (exit status, output)."""
        deadline = time.monotonic() + timeout
        name = self._send(script, timeout)
        while True:
            word, status, output = self._line(deadline)
            if word == name:
                return int(status), base64.b64decode(output).decode(errors="replace")

    def _send(self, script: str, timeout: float = 30) -> str:
        if self._agent is None:
            raise TestHostError("the virtual machine is not running")
        name = f"c{next(self._numbers)}"
        self._agent.settimeout(timeout)
        self._agent.sendall(f"{name} {base64.b64encode(script.encode()).decode()}\n".encode())
        return name

    def check(self, script: str, timeout: float = 120) -> str:
        """Like `run`; return the output alone. Raises CalledProcessError."""
        status, output = self.run(script, timeout)
        if status != 0:
            raise subprocess.CalledProcessError(status, script, output)
        return output

    def reboot(self, timeout: float = 300) -> None:
        """A clean reboot from within; returns when the machine is up again."""
        # Without waiting for the answer: the agent is among the first to be stopped.
        self._send("systemctl --no-block reboot")
        self._wait_up(time.monotonic() + timeout)

    def shutdown(self, timeout: float = 120) -> None:
        """A clean power-off from within; returns when QEMU has ended. What was on the disk is gone then."""
        self._send("systemctl --no-block poweroff")
        assert self._qemu is not None
        try:
            self._qemu.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TestHostError(f"the virtual machine did not power off: {self.console()}") from None
        self._close()

    def console(self, lines: int = 40) -> str:
        """The end of what QEMU and the machine's console have said."""
        texts = []
        for name in ("qemu.log", "console"):
            with contextlib.suppress(FileNotFoundError):
                texts += (self._directory / name).read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(texts)

    def stop(self) -> None:
        """Switch the machine off and delete its disk. Idempotent."""
        if self._qemu is not None and self._qemu.poll() is None:
            self._qemu.kill()
            self._qemu.wait(30)
        self._close()
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
        shutil.rmtree(self._directory, ignore_errors=True)
        atexit.unregister(self.stop)

    def _close(self) -> None:
        self._qemu = None
        self._received = b""
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def _line(self, deadline: float) -> tuple[str, str, str]:
        """The next line of three words from the agent; its last word may be empty."""
        assert self._agent is not None
        while b"\n" not in self._received:
            self._agent.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self._agent.recv(65536)
            except TimeoutError:
                raise TestHostError(f"no answer from the virtual machine:\n{self.console()}") from None
            if not data:
                raise TestHostError(f"the virtual machine is gone:\n{self.console()}")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        first, _, rest = line.decode(errors="replace").strip().partition(" ")
        second, _, third = rest.partition(" ")
        return first, second, third


def why_not() -> str | None:
    """The reason why there is no virtual machine here; None where there is one."""
    if platform.machine() != "x86_64":
        return "only x86_64 is emulated"
    if os.geteuid() != 0:
        return "only root can build its disk"
    if shutil.which("qemu-system-x86_64") is None and shutil.which("apt-get") is None:
        return "QEMU is not installed"
    return None
