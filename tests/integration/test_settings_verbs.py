# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings seen and changed with the installed programs: explain, check, set, edit, apply."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.driver import UNIT, Driver, unique_name

pytestmark = [pytest.mark.integration, pytest.mark.either("sid")]

OWN = "/etc/machined/machines"


@pytest.fixture
def configured(managed: Driver, machine: str) -> Iterator[str]:
    """A bootable image whose settings are taken away afterwards, with the directories made for them."""
    yield machine
    managed.ctl("poweroff", machine, check=False)
    managed.wait(machine, "stopped")
    clean(managed, machine)


def clean(managed: Driver, name: str) -> None:
    managed.host.run(
        ["sh", "-c", f"rm -rf /etc/machined/machines/{name}.* /run/machined/machines/{name}.*; "
         "rmdir --ignore-fail-on-non-empty /etc/machined/machines /run/machined/machines /etc/machined"],
        check=False,
    )  # fmt: skip


def write(managed: Driver, path: str, text: str) -> None:
    file = managed.host.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def explained(managed: Driver, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(managed.ctl("explain", "--json", *words).stdout)
    return found


def greeting(managed: Driver, name: str) -> str:
    variables = managed.guest(name, "cat", "/proc/1/environ").stdout.split("\0")
    return next((v.partition("=")[2] for v in variables if v.startswith("GREETING=")), "")


def test_what_is_explained_is_what_runs(managed: Driver, configured: str) -> None:
    managed.ctl("set", configured, 'Environment="GREETING=hello world"', "Hostname=other", "TasksMax=1234")
    told = explained(managed, configured)
    rows = {(row["section"], row["key"]): (row["value"], row["origin"]) for row in told["settings"]}
    file = f"{OWN}/{configured}.conf.d/50-set.conf"
    value, origin = rows["Exec", "Hostname"]
    assert (value, origin.rpartition(":")[0]) == ("other", file)
    line = managed.host.path(file).read_text().splitlines()[int(origin.rpartition(":")[2]) - 1]
    assert line == "Hostname=other"
    assert rows["Network", "VirtualEthernet"] == ("yes", "default")
    text = managed.ctl("explain", configured).stdout
    assert "'--setenv=GREETING=hello world'" in text
    managed.start(configured)
    unit = f"machine-{configured}.service"
    assert f"argv[]={' '.join(told['command'])} ;" in managed.unit_property(unit, "ExecStart")
    properties = {row["name"]: row["value"] for row in told["properties"]}
    for name in ("TasksMax", "Slice", "KillMode", "WatchdogUSec", "DevicePolicy"):
        assert managed.unit_property(unit, name) == properties[name]
    assert properties["TasksMax"] == "1234"
    assert managed.guest(configured, "hostname").stdout.strip() == "other"
    assert greeting(managed, configured) == "hello world"
    again = explained(managed, configured)
    assert again["command"] == told["command"]


def test_what_a_managed_network_makes_of_it_too(managed: Driver, configured: str) -> None:
    managed.ctl("set", configured, "Machine.Network=managed")
    told = explained(managed, configured)
    assert any(word.startswith("--network-bridge=") for word in told["command"])
    assert {"section": "Machine", "key": "Network", "value": "managed"}.items() <= next(
        row for row in told["settings"] if row["key"] == "Network"
    ).items()
    managed.start(configured)
    running = managed.unit_property(f"machine-{configured}.service", "ExecStart")
    assert f"argv[]={' '.join(told['command'])} ;" in running
    managed.ctl("poweroff", configured)


def test_what_is_mounted_for_a_machine_too(managed: Driver, configured: str) -> None:
    name = unique_name()
    told = explained(managed, configured, "--as", name)
    assert f"--directory=/run/machined/roots/{name}" in told["command"]
    managed.ctl("start", configured, "--as", name, "--set=Hostname=said")
    managed.wait(name, "running")
    try:
        assert managed.guest(name, "hostname").stdout.strip() == "said"
        running = managed.unit_property(f"machine-{name}.service", "ExecStart")
        assert all(word in running for word in told["command"])
    finally:
        managed.ctl("poweroff", name)


def test_set_counts_from_the_next_start_on(managed: Driver, configured: str) -> None:
    managed.start(configured)
    done = managed.ctl("set", configured, "Environment=GREETING=one")
    assert "from its next start on: [Exec] Environment=" in done.stderr
    assert greeting(managed, configured) == ""
    managed.host.run(["systemctl", "restart", UNIT])
    managed.ctl("poweroff", configured)
    managed.start(configured)
    assert greeting(managed, configured) == "one"
    managed.ctl("poweroff", configured)
    managed.ctl("set", configured, "--runtime", "Environment=", "Environment+=GREETING=two")
    managed.start(configured)
    assert greeting(managed, configured) == "two"
    assert "already" in managed.ctl("set", configured, "--runtime", "Environment+=GREETING=two").stderr
    managed.ctl("set", configured, "Environment=")
    assert not managed.host.path(f"{OWN}/{configured}.conf.d").exists()
    assert not managed.host.path(f"/run/machined/machines/{configured}.conf.d").exists()


def test_what_is_wrong_is_said_where(managed: Driver, configured: str) -> None:
    assert managed.ctl("check", configured).stdout == ""
    done = managed.ctl("set", configured, "Boot=maybe", "Bot=1", check=False)
    assert done.returncode == 1
    assert "must be 'yes' or 'no'" in done.stderr
    assert "did you mean 'Boot'?" in done.stderr
    path = f"{OWN}/{configured}.conf"
    write(managed, path, "# mine\n[Exec]\nBoot=maybe\n")
    for words in (["check", configured], ["check"]):
        done = managed.ctl(*words, check=False)
        assert done.returncode == 1
        assert f"{path}:3: error: [Exec] Boot=maybe is not valid" in done.stdout
    done = managed.ctl("explain", configured, check=False)
    assert (done.returncode, "Command:" in done.stdout) == (1, False)
    done = managed.ctl("start", configured, check=False)
    assert done.returncode == 1
    assert f"{path}:3" in done.stderr
    managed.ctl("set", configured, "Hostname=x", check=False)
    assert not managed.host.path(f"{path}.d").exists()


@pytest.mark.parametrize(("answer", "saved"), [("n", ""), ("y", "[Exec]\nHostname=b\n")])
def test_edit(managed: Driver, configured: str, answer: str, saved: str) -> None:
    """The first run of the editor makes a mistake, the second mends it."""
    write(managed, "/root/editor", f'#!/bin/sh\ngrep -qs Boot "$1" && printf {shlex.quote(saved)} >"$1" || '
                                   'printf "[Exec]\\nBoot=maybe\\n" >"$1"\n')  # fmt: skip
    managed.host.path("/root/editor").chmod(0o755)
    command = f"EDITOR=/root/editor /usr/local/bin/machinectl edit --own {configured}"
    script = f"echo {answer} | script --quiet --return --command {shlex.quote(command)} /dev/null"
    done = managed.host.run(["sh", "-c", script], check=False)
    file = managed.host.path(f"{OWN}/{configured}.conf")
    assert f"{OWN}/{configured}.conf:2: error: [Exec] Boot=maybe is not valid" in done.stdout
    assert "Edit again?" in done.stdout
    assert (done.returncode, file.exists()) == (1 - bool(saved), bool(saved))
    if saved:
        assert file.read_text() == saved
    managed.host.path("/root/editor").unlink()


DOCUMENT = """
[machine.{name}]
running = true
[machine.{name}.settings.Exec]
Environment = ["GREETING={greeting}"]
[machine.{name}.properties]
TasksMax = 2345
"""


def apply(managed: Driver, name: str, greeting: str, *words: str) -> dict[str, Any]:
    write(managed, "/root/machines.toml", DOCUMENT.format(name=name, greeting=greeting))
    done = managed.ctl("apply", "-f", "/root/machines.toml", "--json", *words)
    found: dict[str, Any] = json.loads(done.stdout)[name]
    return found


def test_apply(managed: Driver, configured: str) -> None:
    # pydantic comes with the first document, and not before: the daemon is small without it.
    managed.host.run(["systemctl", "restart", UNIT])
    managed.ctl("check")
    maps = f"/proc/{managed.daemon_pid()}/maps"
    assert "pydantic" not in managed.host.run(["cat", maps]).stdout
    file = managed.host.path(f"{OWN}/{configured}.conf")
    told = apply(managed, configured, "one", "--dry-run")
    assert (told["changed"], told["actions"], file.exists()) == (True, ["start"], False)
    assert "pydantic" in managed.host.run(["cat", maps]).stdout
    assert apply(managed, configured, "one") == told
    managed.wait(configured, "running")
    assert greeting(managed, configured) == "one"
    assert managed.unit_property(f"machine-{configured}.service", "TasksMax") == "2345"
    again = apply(managed, configured, "one")
    assert (again["changed"], again["diff"], again["restart_needed"]) == (False, [], False)
    later = apply(managed, configured, "two")
    assert (later["changed"], later["restart_needed"]) == (True, True)
    assert "+Environment=GREETING=two" in later["diff"]
    done = managed.ctl("apply", "-f", "/root/machines.toml")
    assert done.stdout == f"{configured}: unchanged\n"
    write(managed, "/root/machines.toml", f"[machine.{configured}.settings.Exec]\nBoot = 'maybe'\n")
    done = managed.ctl("apply", "-f", "/root/machines.toml", check=False)
    assert done.returncode == 1
    assert f"machine.{configured}.settings.Exec.Boot: 'maybe' is not valid" in done.stderr
    assert "GREETING=two" in file.read_text()
    managed.host.path("/root/machines.toml").unlink()


def test_settings_go_with_an_image(managed: Driver, fresh_machine: str) -> None:
    """S82."""
    new = unique_name()
    managed.ctl("set", fresh_machine, "Hostname=x")
    managed.ctl("rename", fresh_machine, new)
    directory = f"{OWN}/{new}.conf.d"
    assert managed.host.path(directory).exists()
    assert not managed.host.path(f"{OWN}/{fresh_machine}.conf.d").exists()
    managed.ctl("clone", new, fresh_machine)
    done = managed.ctl("remove", new, check=False)
    if done.returncode:  # the clone is a layer over it
        managed.ctl("flatten", fresh_machine)
        done = managed.ctl("remove", new)
    assert f"Kept the settings of '{new}' in '{directory}'; --purge removes them" in done.stderr
    assert managed.host.path(f"{directory}/50-set.conf").exists()
    assert f"There are settings of '{new}', but no image." in managed.ctl("check", new).stdout
    clean(managed, new)


def test_who_may(managed: Driver, configured: str) -> None:
    managed.ctl("set", configured, "Exec.SetCredential=name:hush")
    for words in (
        ["explain", configured], ["check"], ["set", configured, "Hostname=x"],
    ):  # fmt: skip
        done = managed.ctl(*words, check=False, user="tester")
        assert done.returncode == 1
        assert "administrator rights" in done.stderr
        assert "hush" not in done.stdout
    assert "nesting" in managed.ctl("profiles", user="tester").stdout
