# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import re
from typing import Any

import pytest

from .conftest import Client
from .fakebus import DBUS_ERROR, MACHINE1, MANAGER, OURS, PATH, SYSTEMD1, SYSTEMD_PATH, FakeError, Peer, join

SYSTEMD = "org.freedesktop.systemd1.Manager"
JOB_REMOVED = "uossss"


def ends(manager: Peer, number: int, name: str, result: str = "done", message: str = "") -> str:
    """Emits the end of a job; returns its path."""
    job = f"/org/machined1/job/{number}"
    manager.emit(PATH, OURS, "JobRemoved", JOB_REMOVED, number, job, name, "start", result, message)
    return job


def test_start_waits_for_the_job_even_when_it_ends_before_the_answer(manager: Peer, client: Client) -> None:
    manager.on(OURS, "StartMachine", lambda name, _: ("o", (ends(manager, 1, name),)))
    assert client("start", "box") == (0, "", "")
    assert manager.calls == [("StartMachine", ("box", {}))]


def test_all_jobs_are_begun_before_any_is_waited_for(manager: Peer, client: Client) -> None:
    jobs: list[str] = []

    def start(name: str, _: Any) -> tuple[str, tuple[str]]:
        jobs.append(name)
        if len(jobs) == 3:
            ends(manager, 2, "b", "failed", "The init of 'b' ended with status 1.")
            ends(manager, 3, "c")
            ends(manager, 1, "a")
        return "o", (f"/org/machined1/job/{len(jobs)}",)

    manager.on(OURS, "StartMachine", start)
    result = client("start", "a", "b", "c", "a")
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        "Could not start machine 'b': The init of 'b' ended with status 1.",
        "'machinectl status b' shows its state and the end of its journal.",
    ]
    assert jobs == ["a", "b", "c"]


def test_one_that_is_refused_does_not_stop_the_others(manager: Peer, client: Client) -> None:
    def start(name: str, _: Any) -> tuple[str, tuple[str]]:
        if name == "a":
            raise FakeError(f"{MACHINE1}.NoSuchImage", "No image 'a' known")
        if name == "b":
            raise FakeError("org.machined1.Error.ImageBusy", "The image of 'b' is in use by machine 'c'.")
        return "o", (ends(manager, 7, name),)

    manager.on(OURS, "StartMachine", start)
    result = client("start", "a", "b", "c")
    assert result.status == 1
    assert result.err.splitlines() == [
        "Machine image 'a' does not exist.",
        "'machinectl list-images' shows the images there are.",
        "Could not start machine 'b': The image of 'b' is in use by machine 'c'.",
    ]
    assert manager.members() == ["StartMachine"] * 3


def test_names_are_told_as_each_comes_up(manager: Peer, client: Client) -> None:
    """Also when another fails: nobody else knows them."""
    started: list[str] = []

    def start(name: str, _: Any) -> tuple[str, tuple[str]]:
        started.append(name)
        number = len(started)
        return "o", (ends(manager, number, name, "failed" if number == 2 else "done", "It broke."),)

    manager.on(OURS, "StartMachine", start)
    result = client("start", "--ephemeral", "a", "b", "c")
    assert result.status == 1
    assert result.out.splitlines() == [started[0], started[2]]
    assert result.err.startswith(f"Could not start machine '{started[1]}': It broke.")
    assert client("start", "--ephemeral", "--quiet", "a").out == ""
    assert client("start", "a", "--as", "x").out == ""
    assert client("start", "--ephemeral", "--no-block", "a").out.splitlines() == [started[-1]]


def test_the_host_is_started_to_keep_nothing_only(manager: Peer, client: Client) -> None:
    manager.on(OURS, "StartMachine", lambda name, _: ("o", (ends(manager, 1, name),)))
    result = client("start", ".host")
    assert result.status == 1
    assert "it is this host, which runs" in result.err
    assert manager.calls == []
    result = client("start", "--ephemeral", ".host")
    assert result.status == 0
    assert re.fullmatch(r"host-[0-9a-f]{8}\n", result.out)
    (_, (name, given)) = manager.calls[0]
    assert (name, given["image"]) == (result.out.strip(), ("s", ".host"))


def test_no_block(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "StartMachine", "o", "/org/machined1/job/1")
    assert client("start", "--no-block", "box").status == 0


def test_a_limit_for_the_waiting(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "StartMachine", "o", "/org/machined1/job/1")
    result = client("start", "--timeout=50ms", "box")
    assert result.status == 1
    assert result.err.startswith("Not done after 0.05 s: 'box'. It goes on without us.\n")


def test_signals_of_strangers_are_not_believed(manager: Peer, client: Client, system_bus: str) -> None:
    with Peer(system_bus, "") as stranger:

        def start(name: str, _: Any) -> tuple[str, tuple[str]]:
            job = "/org/machined1/job/1"
            stranger.emit(
                PATH, OURS, "JobRemoved", JOB_REMOVED, 1, job, name, "start", "done", "", to=manager.sender
            )
            return "o", (job,)

        manager.on(OURS, "StartMachine", start)
        assert client("start", "--timeout=100ms", "box").status == 1


def test_the_manager_ends_while_we_wait(system_bus: str, client: Client) -> None:
    import threading

    peer = Peer(system_bus, MACHINE1)
    stopper = threading.Thread(target=peer.stop)

    def start(*_: Any) -> tuple[str, tuple[str]]:
        stopper.start()  # it ends when this answer is out
        return "o", ("/org/machined1/job/1",)

    peer.on(OURS, "StartMachine", start)
    result = client("start", "box")
    join(stopper)
    assert result.status == 1
    assert "The machine manager ended while we waited for 'box'" in result.err


@pytest.mark.parametrize("verb", ["poweroff", "stop"])
def test_poweroff(manager: Peer, client: Client, verb: str) -> None:
    manager.on(OURS, "StopMachine", lambda name, _: ("o", (ends(manager, 1, name),)))
    assert client(verb, "box", "--timeout=2s").status == 0
    assert manager.calls == [("StopMachine", ("box", {"timeout-usec": ("t", 2_000_000)}))]


def test_reboot_that_times_out(manager: Peer, client: Client) -> None:
    text = "'box' did not come back within 90 s."
    manager.on(OURS, "RebootMachine", lambda name, _: ("o", (ends(manager, 1, name, "timeout", text),)))
    result = client("restart", "box")
    assert (result.status, result.err.splitlines()[0]) == (1, f"Could not reboot machine 'box': {text}")


def test_terminate_and_kill_are_machine1s(manager: Peer, client: Client) -> None:
    manager.on(MANAGER, "TerminateMachine", lambda *_: None)
    manager.on(MANAGER, "KillMachine", lambda *_: None)
    assert client("terminate", "a", "b").status == 0
    assert client("kill", "a").status == 0
    assert client("kill", "a", "-s", "RTMIN+4", "--kill-whom=leader").status == 0
    assert manager.calls == [
        ("TerminateMachine", ("a",)),
        ("TerminateMachine", ("b",)),
        ("KillMachine", ("a", "all", 15)),
        ("KillMachine", ("a", "leader", 38)),
    ]


def test_the_first_unknown_machine_ends_it(manager: Peer, client: Client) -> None:
    manager.fail(MANAGER, "TerminateMachine", f"{MACHINE1}.NoSuchMachine", "No machine 'x' known")
    result = client("terminate", "x", "y")
    assert result == (
        1,
        "",
        "Could not terminate machine 'x': No machine 'x' known\n"
        "'machinectl list' shows the machines that run.\n",
    )
    assert len(manager.calls) == 1


def test_passwords_are_asked_for_unless_told_not_to(manager: Peer, client: Client) -> None:
    manager.on(MANAGER, "TerminateMachine", lambda *_: None)
    client("terminate", "a")
    client("terminate", "--no-ask-password", "a")
    assert manager.flags == [4, 0]


# systemd's own manager


def stock(manager: Peer, systemd: Peer, result: str) -> None:
    manager.answer(MANAGER, "GetImage", "o", "/org/freedesktop/machine1/image/x")
    manager.on(MANAGER, "KillMachine", lambda *_: None)

    def start(unit: str, mode: str) -> tuple[str, tuple[str]]:
        job = f"{SYSTEMD_PATH}/job/9"
        systemd.emit(SYSTEMD_PATH, SYSTEMD, "JobRemoved", "uoss", 9, job, unit, result)
        return "o", (job,)

    systemd.on(SYSTEMD, "StartUnit", start)
    systemd.answer("org.freedesktop.DBus.Properties", "Get", "v", ("s", "exit-code"))


def test_start_with_systemds_manager(manager: Peer, systemd: Peer, client: Client) -> None:
    stock(manager, systemd, "done")
    assert client("start", "g-1") == (0, "", "")
    assert systemd.calls == [("StartUnit", ("systemd-nspawn@g-1.service", "fail"))]


def test_start_that_fails_with_systemds_manager(manager: Peer, systemd: Peer, client: Client) -> None:
    stock(manager, systemd, "failed")
    result = client("start", "g-1")
    assert result.status == 1
    assert result.err.splitlines() == [
        "Could not start machine 'g-1': its process ended with an error.",
        "See 'systemctl status systemd-nspawn@g-1.service' and 'journalctl -xeu systemd-nspawn@g-1.service' "
        "for details.",
    ]


def test_power_with_systemds_manager(manager: Peer, systemd: Peer, client: Client) -> None:
    stock(manager, systemd, "done")
    assert client("poweroff", "a", "b").status == 0
    assert client("reboot", "a").status == 0
    kills = [arguments for member, arguments in manager.calls if member == "KillMachine"]
    assert kills == [("a", "leader", 38), ("b", "leader", 38), ("a", "leader", 2)]


def test_an_image_missing_with_systemds_manager(manager: Peer, systemd: Peer, client: Client) -> None:
    manager.fail(MANAGER, "GetImage", f"{MACHINE1}.NoSuchImage", "No image 'x' known")
    assert client("start", "x").err.splitlines()[0] == "Machine image 'x' does not exist."
    assert systemd.calls == []


# enable, disable, wait


def test_enable_tells_the_links(manager: Peer, client: Client) -> None:
    link = ("symlink", "/etc/systemd/system/machines.target.wants/machined@box.service", "/usr/lib/x")
    manager.answer(OURS, "EnableMachine", "a(sss)", [link])
    manager.on(OURS, "StartMachine", lambda name, _: ("o", (ends(manager, 1, name),)))
    assert client("enable", "--now", "box") == (0, "", f"Created symlink '{link[1]}' → '/usr/lib/x'.\n")
    assert manager.members() == ["EnableMachine", "StartMachine"]
    assert client("enable", "-q", "box").err == ""


def test_disable_now(manager: Peer, client: Client) -> None:
    manager.answer(OURS, "DisableMachine", "a(sss)", [("unlink", "/etc/x", "")])
    manager.on(OURS, "StopMachine", lambda name, _: ("o", (ends(manager, 1, name),)))
    assert client("disable", "--now", "box") == (0, "", "Removed '/etc/x'.\n")
    assert manager.members() == ["DisableMachine", "StopMachine"]


def test_enable_with_systemds_manager(manager: Peer, systemd: Peer, client: Client) -> None:
    manager.answer(MANAGER, "GetImage", "o", "/i")
    systemd.answer(SYSTEMD, "EnableUnitFiles", "ba(sss)", True, [("symlink", "/etc/a", "/usr/b")])
    systemd.answer(SYSTEMD, "DisableUnitFiles", "a(sss)", [("unlink", "/etc/a", "")])
    systemd.on(SYSTEMD, "Reload", lambda: None)
    assert client("enable", "a", "b").err == "Created symlink '/etc/a' → '/usr/b'.\n"
    assert client("disable", "a").err == "Removed '/etc/a'.\n"
    units = ["machines.target", "systemd-nspawn@a.service", "systemd-nspawn@b.service"]
    assert systemd.calls == [
        ("EnableUnitFiles", (units, False, False)),
        ("Reload", ()),
        ("DisableUnitFiles", (["systemd-nspawn@a.service"], False)),
        ("Reload", ()),
    ]


def test_wait(manager: Peer, client: Client) -> None:
    def wait(name: str, condition: str, usec: int) -> tuple[str, tuple[str]]:
        if name == "b":
            raise FakeError(DBUS_ERROR + "Timeout", "Machine 'b' is still 'starting' after 2 s.")
        return "s", (condition,)

    manager.on(OURS, "WaitMachine", wait)
    assert client("wait", "a") == (0, "", "")
    result = client("wait", "--for=stopped", "--timeout=2", "a", "b")
    assert result.status == 1
    assert (
        result.err == "Waiting for machine 'b' to be stopped: Machine 'b' is still 'starting' after 2 s.\n"
    )
    assert manager.calls[0] == ("WaitMachine", ("a", "running", 0))
    assert manager.calls[2] == ("WaitMachine", ("b", "stopped", 2_000_000))


def test_wait_needs_our_manager(manager: Peer, client: Client) -> None:
    result = client("wait", "a")
    assert (result.status, result.err.splitlines()[0]) == (
        1,
        "'wait' needs machined's own manager, but systemd's is running.",
    )
    assert SYSTEMD1 not in result.err
