# SPDX-License-Identifier: LGPL-2.1-or-later
"""What our client does with images, files and machines is what that of systemd's does, on either daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.both_clients import GUEST, BothClients, Said, words
from tests.integration.driver import OURS, STOCK

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def images(clients: BothClients) -> Iterator[None]:
    """Two small images, and none beside them when the test is over."""
    clients.make_images()
    yield
    clients.drop_images()


def test_whose_machines(clients: BothClients) -> None:
    assert clients.ours("--user", "--system", "list-images") == clients.ours("list-images")
    if clients.modern:
        clients.compare("--system", "list-images")
        clients.compare("--user", "list-images", same_reason=False)
    ours = clients.ours("--user", "list")
    assert (ours.status, ours.out) == (1, "")
    assert ours.err.startswith("Failed to connect to user scope bus: ")


def scenario(clients: BothClients, lines: list[str], *, theirs: bool) -> list[tuple[str, Said]]:
    run = clients.stock if theirs else clients.ours
    # Our own clones are cheap ones: for a true copy, as machine1's are, it has to be told.
    copy = ["--copy"] if clients.ours_serves and not theirs else []
    return [(line, run(*words(line), *(copy if line.startswith("clone") else []))) for line in lines]


def play_twice(clients: BothClients, lines: list[str]) -> list[Said]:
    """A row of commands by systemd's client, the same by ours from where that began; compared one by one."""
    first = scenario(clients, lines, theirs=True)
    clients.drop_images()
    clients.make_images()
    second = scenario(clients, lines, theirs=False)
    for (line, theirs), (_, ours) in zip(first, second, strict=True):
        clients.check(line, theirs, ours, same_reason=not clients.in_our_words(line))
    return [said for _, said in second]


def test_a_life_of_images(clients: BothClients) -> None:
    lines = [
        "clone tree copy", "clone --read-only tree fixed", "clone raw raw2", "clone tree copy",
        "list-images", "read-only copy", "image-status copy", "read-only copy no", "read-only copy TRUE",
        "image-status copy", "show-image copy", "rename copy moved", "list-images",
        "remove fixed nope moved", "list-images", "remove moved raw2", "list-images", "clean",
        "list-images --all", "clean",
    ]  # fmt: skip
    said = play_twice(clients, lines)
    assert "read-only" in said[6].out
    assert [said.status for said in said].count(1) == 2
    assert said[-3].err == "Removed image '.hidden'\nRemoved 1 images in total.\n"
    assert said[-1].err == "Removed 0 images in total. Total freed exclusive disk space: 0B.\n"


def test_clean_all_leaves_what_runs(clients: BothClients) -> None:
    said = play_twice(clients, ["clean --all", "list-images"])
    assert "Removed image 'tree'" in said[0].err
    assert said[1].out.split()[6] == GUEST
    clients.make_images()
    assert clients.ours("--quiet", "clean", "--all") == Said(0, "", "")
    assert clients.ours("list-images", "--no-legend").out.split()[0] == GUEST


def test_copying(clients: BothClients) -> None:
    lines = [
        "copy-to box /tmp/from /root/there", "copy-to box /tmp/from /root/there",
        "copy-to --force box /tmp/from /root/there", "copy-from box /root/there /tmp/back",
        "copy-from box /root/there /tmp/back", "copy-from --force box /root/there /tmp/back",
        "copy-to box /tmp/tree /root/tree", "copy-from box /root/tree /tmp/tree-back",
    ]  # fmt: skip
    for run in (clients.stock, clients.ours):
        clients.sh(
            "rm -rf /tmp/back /tmp/tree /tmp/tree-back /var/lib/machines/box/root/*; echo word >/tmp/from\n"
            "mkdir /tmp/tree; echo leaf >/tmp/tree/leaf"
        )
        said = [run(*line.split()) for line in lines]
        assert [one.status for one in said] == [0, 1, 0, 0, 1, 0, 0, 0], said
        assert "File exists" in said[1].err
        assert clients.sh("cat /tmp/back /tmp/tree-back/leaf") == "word\nleaf\n"


def test_relative_paths_of_the_host(clients: BothClients) -> None:
    """Ours takes './file' too; systemd's sends it as it is, and is refused."""
    clients.sh("rm -rf /var/lib/machines/box/root/*; mkdir -p /tmp/here; echo word >/tmp/here/from")
    run = (
        "cd /tmp/here && machinectl copy-to box ./from /root/there && machinectl copy-from box /root/there b"
    )
    clients.sh(run)
    assert clients.sh("cat /tmp/here/b; rm -r /tmp/here") == "word\n"


def test_enabling(clients: BothClients) -> None:
    if clients.ours_serves:
        pytest.skip("machined's own way of it: test_autostart.py")
    links = "ls /etc/systemd/system/machines.target.wants || true"
    for run in (clients.stock, clients.ours):
        done = run("enable", "tree")
        assert done.status == 0
        assert "machines.target.wants" in done.out + done.err
        assert "tree.service" in clients.sh(links)
        assert run("disable", "tree").status == 0
        assert "tree.service" not in clients.sh(links)


def test_what_needs_machined_says_so(clients: BothClients) -> None:
    if clients.ours_serves:
        pytest.skip("machined is there")
    assert clients.ours("wait", GUEST) == Said(
        1, "",
        "'wait' needs machined's own manager, but systemd's is running.\n"
        "'systemctl status systemd-machined.service' shows which one it is.\n",
    )  # fmt: skip


def test_a_shell(clients: BothClients) -> None:
    for program in (STOCK, OURS):
        words = (
            f"{program} --quiet --setenv=WORD=value --uid=daemon shell box /bin/sh -c 'echo $WORD; id -un'"
        )
        # With marks for the terminal around it, from the init of the guest.
        done = on_a_terminal(clients, words)
        assert "value\ndaemon\n" in done, done
        assert "rc=0" in done, done


def test_a_life_of_a_machine_of_systemds(clients: BothClients) -> None:
    """Started, listed, told to reboot, killed and powered off by our client alone."""
    if clients.ours_serves:
        pytest.skip("machined starts machines itself: test_lifecycle.py")
    clients.host.add_guest("life")
    unit = "systemd-nspawn@life.service"
    active = f"systemctl show -P ActiveState {unit}"
    gone = f"until [ $({active}) = inactive ]; do sleep 0.05; done; systemctl reset-failed {unit} || true"
    ready = f"until systemctl show -P StatusText {unit} | grep -q Ready; do sleep 0.05; done"
    try:
        assert clients.ours("start", "life") == Said(0, "", "")
        clients.sh(ready)
        leader = clients.ours("show", "-P", "Leader", "life").out
        assert clients.ours("reboot", "life") == Said(0, "", "")
        # The unit is started anew, and the machine is another one with the same name.
        now = f"P=$({STOCK} show -P Leader life || echo none)"
        clients.sh(f"while {now}; [ $P = {leader.strip()} -o $P = none ]; do sleep 0.05; done; {ready}")
        assert clients.ours("kill", "--kill-whom=leader", "--signal=SIGRTMIN+4", "life") == Said(0, "", "")
        clients.sh(gone)
        assert clients.ours("start", "life").status == 0
        clients.sh(ready)
        assert clients.ours("poweroff", "life") == Said(0, "", "")
        clients.sh(gone)
        assert clients.ours("start", "life").status == 0
        clients.sh(ready)  # or the guest's PID 1 misses the signal, and systemd waits for it 90 s
        assert clients.ours("terminate", "life") == Said(0, "", "")
        clients.sh(f"until [ $({active}) != active ]; do sleep 0.05; done")
    finally:
        clients.sh(f"systemctl stop {unit} || true; systemctl reset-failed {unit} || true")


def test_enabling_as_a_virtual_machine(clients: BothClients) -> None:
    """257 has no template to enable: both clients say what systemd says."""
    link = "/etc/systemd/system/machines.target.wants/systemd-vmspawn@tree.service"
    there = f"test -L {link} && echo yes || echo no"
    found = []
    for run in (clients.stock, clients.ours):
        on = run("enable", "--quiet", "--runner=vmspawn", "tree")
        seen = clients.sh(there)
        found.append((on.status, seen, run("disable", "-q", "-V", "tree").status, clients.sh(there)))
    assert found[1] == found[0]
    assert found[1][:2] == ((0, "yes\n") if clients.modern else (1, "no\n"))


def test_transfers(clients: BothClients) -> None:
    """The same without importctl, and without its advice to use that."""
    for line in ("list-transfers", "list-transfers --no-legend", "list-transfers --quiet"):
        theirs, ours = clients.stock(*line.split()), clients.ours(*line.split())
        assert ours == Said(theirs.status, theirs.out, "")
    clients.sh("mkdir -p /tmp/fs/etc; echo ID=x >/tmp/fs/etc/os-release")
    for run, name in ((clients.stock, "imported"), (clients.ours, "imported2")):
        assert run("import-fs", "--quiet", "/tmp/fs", name) == Said(0, "", "")
        assert name in clients.ours("list-images").out
        again = run("import-fs", "--quiet", "/tmp/fs", name)
        assert (again.status, again.out) == (1, "")
        assert f"'{name}' " in again.err
        assert run("--quiet", "export-tar", name, f"/tmp/{name}.tar.gz") == Said(0, "", "")
    listed = [clients.sh(f"tar -tzf /tmp/{name}.tar.gz | sort") for name in ("imported", "imported2")]
    assert "./etc/os-release" in listed[0]
    assert listed[1] == listed[0]
    for line in (
        "import-tar -", "import-tar /nonexist", "pull-tar frob", "pull-raw", "export-tar a/b /tmp/x",
        "export-tar nope /tmp/fs/x", "cancel-transfer", "cancel-transfer x",
    ):  # fmt: skip
        theirs, ours = clients.stock(*line.split()), clients.ours(*line.split())
        assert (ours.status, ours.out) == (theirs.status, theirs.out) == (1, ""), line
    clients.sh("rm -r /tmp/fs /tmp/imported*.gz")


def test_an_unprivileged_user_is_told_the_same(clients: BothClients) -> None:
    for line in ("remove tree", "--no-ask-password remove tree", "copy-to box /etc/hostname /x", "clean"):
        _, ours = clients.compare(*line.split(), user="tester")
        assert "try 'sudo machinectl" in ours.err


@pytest.mark.parametrize(
    ("editor", "settings"),
    [("sed -i s/yes/true/", "[Exec]\nBoot=true\n"), ("true", "[Exec]\nBoot=yes\n")],
)
def test_edit(clients: BothClients, editor: str, settings: str) -> None:
    file = "/etc/systemd/nspawn/one.nspawn"
    for run in (clients.stock, clients.ours):
        clients.sh(f"printf '[Exec]\\nBoot=yes\\n' >{file}")
        program = "/usr/bin/machinectl" if run == clients.stock else "/usr/local/bin/machinectl"
        done = on_a_terminal(clients, f"EDITOR='{editor}' {program} edit one")
        assert "rc=0" in done, done
        assert clients.sh(f"cat {file}; ls -A /etc/systemd/nspawn") == settings + "one.nspawn\n"


def test_edit_moves_what_came_with_an_image_to_etc(clients: BothClients) -> None:
    for program in ("/usr/bin/machinectl", "/usr/local/bin/machinectl"):
        done = on_a_terminal(clients, f"EDITOR='sed -i 1s/c/d/' {program} edit three fresh")
        assert "rc=0" in done, done
        assert clients.sh("cat /etc/systemd/nspawn/three.nspawn") == "# d\n[Exec]\n"
        assert clients.sh("cat /var/lib/machines/three.nspawn") == "# c\n[Exec]\n"
        # Left empty, so not made.
        assert clients.sh("ls -A /etc/systemd/nspawn") == "one.nspawn\nthree.nspawn\n"
        clients.sh("rm /etc/systemd/nspawn/three.nspawn")


@pytest.mark.parametrize("editor", ["false", "/nonexistent/editor"])
def test_edit_with_an_editor_that_fails(clients: BothClients, editor: str) -> None:
    for program in ("/usr/bin/machinectl", "/usr/local/bin/machinectl"):
        done = on_a_terminal(clients, f"EDITOR={editor} {program} edit one")
        assert "rc=1" in done, done
        assert clients.sh("ls -A /etc/systemd/nspawn") == "one.nspawn\n"


def on_a_terminal(clients: BothClients, command: str) -> str:
    script = f"{command} </dev/tty; echo rc=$?"
    return clients.host.run(["script", "-qec", f"sh -c {quoted(script)}", "/dev/null"]).stdout


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
