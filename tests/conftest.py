# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all tests share: asyncio in debug mode, nothing left behind, a private bus, paths in a directory."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.fakes.sandbox import Sandbox
from tests.settled import settled  # noqa: F401

# Seconds after which an asynchronous test that waits for something counts as hanging.
LIMIT = 30.0

BUS_CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
  <limit name="max_replies_per_connection">10000</limit>
</busconfig>
"""


# The same examples each time, and none fails for being slow on a busy machine. Others: --hypothesis-profile.
settings.register_profile("machined", derandomize=True, deadline=None, database=None)
settings.load_profile("machined")


def pytest_configure(config: pytest.Config) -> None:
    config.option.asyncio_debug = True
    _hear_interruptions()


def _hear_interruptions() -> None:
    """What a shell runs in the background ignores SIGINT, and so would the programs that tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.sharing import BySuite

    return BySuite(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        from tests.sharing import longest_first

        longest_first(items)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish() -> None:
    # `settled` has collected the garbage of the test; what is left stays, and need not be looked at again.
    gc.freeze()


@pytest.fixture
async def _loop_settled() -> AsyncIterator[None]:
    complaints: list[str] = []

    def complain(_: Any, context: dict[str, Any]) -> None:
        complaints.append(f"{context['message']}: {context.get('exception')!r} {context.get('task', '')}")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(complain)
    limit = loop.call_later(
        LIMIT, lambda: [task.cancel("the test hangs") for task in asyncio.all_tasks(loop)]
    )
    yield
    limit.cancel()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    # What was cancelled ends in the next turns of the loop; whoever waits for something real does not.
    for _ in range(5):
        await asyncio.sleep(0)
    left = {task for task in left if not task.done()}
    assert not left, f"the test left these tasks behind: {left}"
    assert not complaints, f"the loop complained: {complaints}"


@pytest.fixture(autouse=True)
def loop_settled(request: pytest.FixtureRequest) -> None:
    """Fails an asynchronous test that leaves a task behind or made the loop complain."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_loop_settled")


@pytest.fixture(scope="session")
def private_bus() -> Iterator[str]:
    """The socket of a dbus-daemon of our own, on which everybody may do everything."""
    with tempfile.TemporaryDirectory(prefix="machined-bus-") as directory:
        path = os.path.join(directory, "bus")
        configuration = Path(directory, "bus.conf")
        configuration.write_text(BUS_CONFIGURATION.format(path=path), encoding="utf-8")
        command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
        try:
            daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        except FileNotFoundError:
            pytest.skip("dbus-daemon is not installed")
        with daemon:
            assert daemon.stdout is not None
            try:
                # The address is printed when the bus listens.
                assert daemon.stdout.readline().startswith("unix:path="), "the private bus did not start"
                yield path
            finally:
                daemon.terminate()


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The paths of the host that the model looks at, in a directory of the test."""
    return Sandbox.make(tmp_path, monkeypatch)
