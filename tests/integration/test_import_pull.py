# SPDX-License-Identifier: LGPL-2.1-or-later
"""Downloads by our client through systemd-importd: good ones, and servers that are not."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from tests.integration.driver import Driver
from tests.integration.import_lab import (
    POOL,
    SIGNATURE,
    SIGNED_SUMS,
    WORK,
    Lab,
    Server,
    archive,
    small_tree,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def lab(managed: Driver) -> Iterator[Lab]:
    lab = Lab(managed)
    lab.clear()
    yield lab
    lab.host.run(["rm", "-rf", WORK])


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[Server]:
    with lab.server() as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    yield
    assert lab.transfers() == []
    for name in lab.pool():
        lab.host.run(["sh", "-c", 'chattr -R -i "$1" 2>/dev/null; rm -rf "$1"', "sh", f"{POOL}/{name}"])


def packed(lab: Lab, way: str, data: bytes) -> bytes:
    path = lab.write("packed", data)
    lab.sh(f"{way} -c packed >packed.out")
    return lab.path(f"{path}.out").read_bytes()


@pytest.mark.parametrize(
    ("suffix", "program"), [("", ""), (".gz", "gzip"), (".xz", "xz"), (".bz2", "bzip2"), (".zst", "zstd")]
)
def test_a_tar(lab: Lab, server: Server, suffix: str, program: str) -> None:
    data = archive(*small_tree("pulled"))
    data = packed(lab, program, data) if program else data
    url = server.url("files", lab.publish(f"tar{suffix}", f"web.tar{suffix}", data))
    if suffix == ".zst" and not lab.driver.modern:
        # systemd-importd knows zstd since 258.
        assert "compressed in a way" in lab.bad("pull-tar", "--verify=checksum", url)
        assert lab.pool() == []
        return
    done = lab.good("pull-tar", "--verify=checksum", url)
    assert done.stdout == ""
    assert f"Pulled '{url}' as image 'web'" in done.stderr.splitlines()[-1]
    assert "web" in lab.images()
    assert lab.sh(f"cat {POOL}/web/etc/os-release") == "ID=pulled\n"


def test_a_disk_image(lab: Lab, server: Server) -> None:
    data = bytes(range(256)) * 4096
    url = server.url("files", lab.publish("raw", "disk.raw.xz", packed(lab, "xz", data)))
    lab.good("pull-raw", "--verify=checksum", "--read-only", "-q", url, "other")
    assert lab.path(f"{POOL}/other.raw").read_bytes() == data
    (image,) = [i for i in json.loads(lab.good("list-images", "--json").stdout) if i["name"] == "other"]
    assert (image["type"], image["ro"]) == ("raw", True)
    lab.good("read-only", "other", "no")


def test_quiet_and_again(lab: Lab, server: Server) -> None:
    """--quiet says nothing; what is there is replaced with --force alone."""
    url = server.url("files", lab.publish("again", "web.tar", archive(*small_tree("first"))))
    done = lab.good("pull-tar", "--quiet", "--verify=no", url)
    assert (done.stdout, done.stderr) == ("", "")
    other = server.url("files", lab.publish("again2", "web.tar", archive(*small_tree("second"))))
    said = lab.bad("pull-tar", "--verify=no", other)
    assert "image 'web' exists already" in said
    assert "--force replaces it" in said
    assert lab.sh(f"cat {POOL}/web/etc/os-release") == "ID=first\n"
    lab.good("pull-tar", "--verify=no", "--force", other)
    assert lab.sh(f"cat {POOL}/web/etc/os-release") == "ID=second\n"


def test_events_are_json_lines(lab: Lab, server: Server) -> None:
    url = server.url("files", lab.publish("json", "web.tar", archive(*small_tree("json"))))
    done = lab.good("pull-tar", "--json", "--verify=no", url)
    assert done.stderr == ""
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"] == "started"
    assert events[0]["remote"] == url
    assert {event["event"] for event in events} <= {"started", "log", "progress", "ended"}
    assert (events[-1]["event"], events[-1]["result"], events[-1]["error"]) == ("ended", "done", None)
    assert (events[-1]["type"], events[-1]["local"]) == ("pull-tar", "web")
    failed = lab.ctl("pull-tar", "--json", "--verify=no", url)
    last = json.loads(failed.stdout.splitlines()[-1])
    assert (failed.returncode, last["result"]) == (1, "failed")
    assert last["error"] in failed.stderr


def test_a_bar_on_a_terminal(lab: Lab, server: Server) -> None:
    url = server.url("files", lab.publish("bar", "web.raw", bytes(2**22)))
    command = f"TERM=xterm /usr/local/bin/machinectl pull-raw --verify=no {url}"
    shown = lab.host.run(["script", "-qec", command, "/dev/null"]).stdout
    # The carriage returns of the bar have been made line feeds on the way.
    assert "\nweb" in shown
    assert "\x1b[K\n" in shown
    assert shown.rstrip().endswith("s).")


@pytest.mark.parametrize(
    ("way", "reason"), [("cut", "the connection ended"), ("files", "no such file (404)")]
)
def test_servers_that_fail(lab: Lab, server: Server, way: str, reason: str) -> None:
    path = lab.publish("failing", "big.tar", archive(*small_tree("x")) + bytes(2**20))
    for verb in ("pull-tar", "pull-raw"):
        url = server.url(way, path if way == "cut" else "failing/nothing.tar")
        said = lab.bad(verb, "--verify=no", url, "failing")
        assert f"Failed pulling '{url}' as image 'failing': " in said
        assert reason in said
        assert lab.pool() == []


def test_nobody_serves(lab: Lab) -> None:
    said = lab.bad("pull-tar", "--verify=no", "http://127.0.0.1:1/web.tar")
    assert "Failed pulling" in said
    assert lab.pool() == []


def test_a_wrong_checksum(lab: Lab, server: Server) -> None:
    data = archive(*small_tree("wrong"))
    for sums, reason in (
        (f"{'0' * 64}  web.tar\n", "its checksum is not the one"),
        (f"{'0' * 64}  other.tar\n", "its checksum is not the one"),
    ):
        url = server.url("files", lab.publish("wrong", "web.tar", data, sums=sums))
        for verb in ("pull-tar", "pull-raw"):
            assert reason in lab.bad(verb, "--verify=checksum", url, "wrong")
            assert lab.pool() == []
    lab.sh("rm www/wrong/SHA256SUMS")
    assert "no checksum" in lab.bad("pull-tar", "--verify=checksum", url)
    assert lab.pool() == []


def test_signatures(lab: Lab, server: Server) -> None:
    data = archive(*small_tree("signed"))
    url = server.url("files", lab.publish("signed", "signed.tar", data))
    assert lab.sh("cat www/signed/SHA256SUMS") == SIGNED_SUMS
    with lab.trusting():
        assert "no signature" in lab.bad("pull-tar", url)
    lab.write("www/signed/SHA256SUMS.gpg", base64.b64decode(SIGNATURE))
    said = lab.bad("pull-tar", "--verify=signature", url)
    assert "nobody who is trusted here" in said
    assert "import-pubring" in said
    assert lab.pool() == []
    with lab.trusting():
        lab.good("pull-tar", url)
        assert "signed" in lab.images()
        lab.write("www/signed/SHA256SUMS", (SIGNED_SUMS + "\n").encode())
        assert "nobody who is trusted here" in lab.bad("pull-tar", url, "tampered")
        assert "tampered" not in lab.images()


def test_others_are_refused(lab: Lab, server: Server) -> None:
    url = server.url("files", "none.tar")
    done = lab.ctl("pull-tar", "--no-ask-password", url, user="tester")
    assert done.returncode == 1
    assert "try 'sudo machinectl pull-tar …'" in done.stderr
    assert lab.pool() == []


def test_oci(lab: Lab) -> None:
    """There is no registry in a test host; that systemd-importd is asked is seen by what it says."""
    said = lab.bad("pull-oci", "127.0.0.1:1/some/image:tag", "oci")
    assert ("too old" in said) is not lab.driver.modern
    if not lab.driver.modern:
        assert "since systemd 260" in said
    assert [name for name in lab.pool() if not name.startswith(".oci")] == []
