# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from machined.linux.fds import OwnedFd
from machined.linux.outputpipe import KEPT, OutputPipe


def begin(script: str, output: OutputPipe) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", script], stdout=output.writer.fileno(), stderr=subprocess.STDOUT)


async def said(script: str, sink: OwnedFd | None = None) -> OutputPipe:
    output = OutputPipe(sink)
    process = begin(script, output)
    await output.ended(30)
    process.wait()
    return output


def read_all(fd: int) -> bytes:
    with open(fd, "rb") as reader:
        return reader.read()


async def test_the_last_lines() -> None:
    output = await said("seq 100000; printf 'red \\033[31m alert\\r\\n\\nEnd'")
    assert output.last_lines(3) == ["100000", "red [31m alert", "End"]
    assert sum(map(len, output._tail)) < KEPT + 128 * 1024
    output.close()


async def test_who_reads_along_gets_everything() -> None:
    ours, theirs = os.pipe()
    reading = asyncio.ensure_future(asyncio.to_thread(read_all, ours))
    output = await said("seq 200000", OwnedFd(theirs))
    output.close()
    assert await reading == "".join(f"{n}\n" for n in range(1, 200001)).encode()


async def test_who_stops_reading_is_forgotten() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    output = await said("seq 200000", OwnedFd(theirs))
    assert output.last_lines(1) == ["200000"]
    output.close()


async def test_who_does_not_read_holds_nobody_else_up() -> None:
    ours, theirs = os.pipe()
    output = OutputPipe(OwnedFd(theirs))
    process = begin("exec seq 200000", output)
    output.writer.close()
    try:
        for _ in range(100):
            await asyncio.sleep(0)
        assert process.poll() is None  # it waits, and the loop turns
    finally:
        output.close()
        process.wait()
        os.close(ours)


async def test_only_pipes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a pipe"):
        OutputPipe(OwnedFd(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)))
