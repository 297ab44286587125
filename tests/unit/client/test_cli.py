# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from machinectl import VERSION, agent, remote
from machinectl.errors import CommandError
from machinectl.table import OPTIONS, VERBS

from .conftest import Client
from .fakebus import OURS, Peer
from .test_startup import LAUNCH, ROWS


def test_version(client: Client) -> None:
    assert client("--version") == (0, f"machined {VERSION}\n", "")


def test_help_names_everything(client: Client) -> None:
    out = client("--help").out
    assert client("help").out == out
    for verb in VERBS:
        assert f"  {verb.name} " in out
    for option in OPTIONS:
        assert not option.long or not option.help or f"--{option.long}" in out
    assert "Exit status: 0 " in out
    assert all(len(line) < 80 for line in out.splitlines())


def test_help_of_a_verb(client: Client) -> None:
    out = client("help", "poweroff").out
    assert out.startswith("machinectl [OPTIONS...] poweroff NAME…\nAlso: stop\n")
    assert "--timeout=SEC" in out
    assert "--signal" not in out
    assert client("help", "powerof").err == (
        "There is no command verb 'powerof', did you mean 'poweroff'?\n"
    )


@pytest.mark.parametrize("option", [["--output=help"], ["-o", "help", "list"]])
def test_options_that_are_questions(client: Client, option: list[str]) -> None:
    result = client(*option)
    assert (result.status, result.out.splitlines()[0]) == (0, "short")


def test_the_reader_of_our_output_leaves(manager: Peer) -> None:
    manager.answer(OURS, "ListAll", "a(ssssssasbs)", ROWS)
    reader, writer = os.pipe()
    os.close(reader)
    command = [
        sys.executable,
        "-IS",
        "-c",
        LAUNCH + "from machinectl.cli import main; sys.exit(main())",
        "list",
    ]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=30)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors(manager: Peer, closed: str) -> None:
    manager.answer(OURS, "ListAll", "a(ssssssasbs)", ROWS)
    code = LAUNCH + "from machinectl.cli import main; sys.exit(main())"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-IS", "-c", code, "list"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert ("3 machines listed." in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_a_surprising_terminal_encoding(manager: Peer) -> None:
    evil: list[tuple[object, ...]] = [("m", "container", "s", "running", "ä", "1", [], False, "u")]
    manager.answer(OURS, "ListAll", "a(ssssssasbs)", evil)
    code = LAUNCH + (
        "sys.stdout.reconfigure(encoding='ascii'); from machinectl.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code, "list", "--no-legend"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "m container s \\xe4 1 -\n"


# Completion scripts


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_scripts_are_valid(client: Client, tmp_path: Path, shell: str) -> None:
    result = client(f"--completion={shell}")
    assert result.status == 0
    script = tmp_path / "script"
    script.write_text(result.out, encoding="utf-8")
    try:
        done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"{shell} is not installed")
    assert (done.returncode, done.stderr) == (0, "")


def test_no_completion_for_others(client: Client) -> None:
    assert client("--completion=fish").err == (
        "There is no completion for 'fish': expected one of bash, zsh.\n"
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("machinectl sta", {"status", "start"}),
        ("machinectl start we", {"web"}),
        ("machinectl poweroff ", {"box", r"\$\(touch\ evil\)"}),
        ("machinectl shell r", {"root@box", r"root@\$\(touch\ evil\)"}),
        ("machinectl kill --kill-whom=l", {"leader"}),
        ("machinectl kill -s SIGT", {"SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}),
        ("machinectl wait --for ", {"running", "stopped", "starting", "degraded", "stopping", "failed"}),
        ("machinectl kill --si", {"--signal"}),
        ("machinectl list ", set()),
        ("machinectl help ki", {"kill"}),
    ],
)
def test_bash_completion(client: Client, tmp_path: Path, line: str, found: set[str]) -> None:
    (tmp_path / "script").write_text(client("--completion=bash").out, encoding="utf-8")
    # Names only root can give, but still: no word is ever run.
    harness = (
        "machinectl() { case $1 in list) printf '%s x\\n' box '$(touch evil)' ;; "
        "list-images) printf '%s x\\n' web box ;; esac; }\n"
        ". ./script\n"
        'line=$1; words=${line//=/ = }; read -ra COMP_WORDS <<<"$words"\n'
        '[[ $line == *" " ]] && COMP_WORDS+=("")\n'
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _machinectl\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", harness, "bash", line], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split("\n")) - {""} == {
        word.replace("\\$\\(touch\\ evil\\)", "\\$\\(touch") for word in found
    }
    assert done.stderr == ""
    assert not (tmp_path / "evil").exists()


# Buses elsewhere


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        ("box", ["ssh", "-xT", "--", "box", "systemd-stdio-bridge"]),
        ("joe@box:22", ["ssh", "-xT", "-p", "22", "--", "joe@box", "systemd-stdio-bridge"]),
        ("box/web", ["ssh", "-xT", "--", "box", "systemd-stdio-bridge", "--machine=web"]),
        ("fe80::1", ["ssh", "-xT", "--", "fe80::1", "systemd-stdio-bridge"]),
    ],
)
def test_ssh_command_lines(spec: str, command: list[str]) -> None:
    assert remote.host_command(spec) == command


@pytest.mark.parametrize("spec", ["", "-oProxyCommand=evil", "box:port", "/web"])
def test_no_hosts(spec: str) -> None:
    with pytest.raises(CommandError):
        remote.host_command(spec)


def test_container_command_lines() -> None:
    assert remote.machine_command("joe@web")[:2] == ["systemd-run", "--machine=web"]
    assert "--property=User=joe" in remote.machine_command("joe@web")
    for spec in ("", "joe@", "-x"):
        with pytest.raises(CommandError):
            remote.machine_command(spec)


def bridge(directory: Path, path: str) -> None:
    """An ssh that connects its standard input and output with a bus here."""
    script = directory / "ssh"
    script.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, selectors, socket\n"
        f"bus = socket.socket(socket.AF_UNIX); bus.connect({path!r})\n"
        "wait = selectors.DefaultSelector(); wait.register(0, 1); wait.register(bus, 1)\n"
        "while True:\n"
        "    for key, _ in wait.select():\n"
        "        data = os.read(key.fd, 65536)\n"
        "        if not data: raise SystemExit\n"
        "        bus.sendall(data) if key.fd == 0 else os.write(1, data)\n",
        encoding="utf-8",
    )
    script.chmod(0o755)


def test_the_bus_of_another_host(
    manager: Peer, client: Client, private_bus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.answer(OURS, "ListAll", "a(ssssssasbs)", ROWS)
    bridge(tmp_path, private_bus)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
    result = client("-H", "joe@elsewhere", "list")
    assert (result.status, result.err) == (0, "")
    assert "3 machines listed." in result.out


def test_a_host_that_cannot_be_reached(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ssh"
    script.write_text("#!/bin/sh\nexit 255\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert client("-H", "far", "list").err.startswith(
        "Failed to connect to the system bus of host 'far': ssh ended with status 255.\n"
    )
    assert client("-M", "web", "list").err == (
        "Failed to run systemd-run to reach container 'web': No such file or directory\n"
    )
    assert client("-H", "far", "-M", "web", "list").err == "--host= and --machine= cannot be combined.\n"


# The password agent


def test_no_agent_for_root_or_without_a_terminal() -> None:
    assert agent.Agent.start() is None


def test_the_agent_is_waited_for_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pkttyagent"
    program.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/argv\neval "exec $2>&-"\nexec sleep 100\n', encoding="utf-8"
    )
    program.chmod(0o755)
    monkeypatch.setattr(agent, "_PROGRAM", os.fspath(program))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.isatty", lambda fd: True)
    started = agent.Agent.start()
    assert started is not None
    words = (tmp_path / "argv").read_text(encoding="utf-8").split()
    assert (words[0], words[2:]) == ("--notify-fd", ["--fallback", "--process", str(os.getpid())])
    started.stop()
    with pytest.raises(ChildProcessError):
        os.waitpid(started._pid, 0)
