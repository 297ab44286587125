# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of transfers need in a host: a bad server, archives, and what is in the pool."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any, Final

from tests.integration.driver import OURS, Done, Driver

WORK: Final = "/tmp/imports"
POOL: Final = "/var/lib/machines"

# Run by the Python of the host, on its own loopback. The first word of a path says how a file is served:
# files (as it is), cut (hangs up half way), stall (stops half way, until the other side hangs up).
# What is beside the archives (checksums, signatures, settings) always comes whole.
SERVER: Final = """
import http.server, os, sys
BIG = (".tar", ".gz", ".bz2", ".xz", ".zst", ".raw")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        way, _, name = self.path.strip("/").partition("/")
        try:
            with open(os.path.join(sys.argv[1], name), "rb") as file:
                data = file.read()
        except OSError:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        whole = way == "files" or not name.endswith(BIG)
        self.close_connection = True
        try:
            self.wfile.write(data if whole else data[: len(data) // 2])
            print(way, name, flush=True)
            if way == "stall" and not whole:
                self.connection.recv(1)
        except ConnectionError:
            pass
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""

# Every file with what makes it what it is, but directories without their sizes.
LOOK: Final = """
import hashlib, os, stat, sys
top = sys.argv[1]
for folder, folders, files in os.walk(top):
    for name in folders + files:
        path = os.path.join(folder, name)
        found = os.lstat(path)
        kind = stat.S_IFMT(found.st_mode)
        fields = [os.path.relpath(path, top), oct(found.st_mode), found.st_uid, found.st_gid, found.st_rdev]
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                fields += [found.st_mtime_ns // 10**9, hashlib.sha256(file.read()).hexdigest()]
        if kind == stat.S_IFLNK:
            fields.append(os.readlink(path))
        for key in sorted(os.listxattr(path, follow_symlinks=False)):
            fields.append((key, os.getxattr(path, key, follow_symlinks=False)))
        print(fields)
"""

# An OpenPGP key of which the other half was thrown away, and its signature under SIGNED_SUMS.
PUBLIC_KEY: Final = (
    "mDMEXgvhABYJKwYBBAHaRw8BAQdAL9L14fgcnyBP4lmC4SeUQhnp/y0pkbs5vHh6+ycV0JG0IVRlc3RzIG9mIG1hY2hpbmVk"
    "IDx0ZXN0c0BpbnZhbGlkPoiQBBMWCAA4FiEELKcouQMOmzJFtrcGhyTxY0KKDjAFAl4L4QACGwMFCwkIBwIGFQoJCAsCBBYC"
    "AwECHgECF4AACgkQhyTxY0KKDjAWQAD+JuIZtOLL3btuwe7PB40YETB0/S6lqeioPILgVauLg5gBANBuVMWSibv/6CMiNVeY"
    "o+OzGWAMA1xRU84Ygao76AkI"
)
SIGNATURE: Final = (
    "iHUEABYIAB0WIQQspyi5Aw6bMkW2twaHJPFjQooOMAUCXgvhAAAKCRCHJPFjQooOMFP4AQDobk21vCGCfGQavutdo1mHxXcp"
    "JTrLJpdHzVBV7N6s2AEA6TYfvHxW4k6CESAWLX9nwU7WdxmRIYUe/3nHWv82zQM="
)
SIGNED_SUMS: Final = "91919ce93d40986118b0e4b86ebcf6613f9b0164a1fa86bb99927a81d134410c  signed.tar\n"


class Member:
    """One entry of an archive: a directory, a file with `text`, or what `kind` and `link` say."""

    def __init__(self, name: str, text: str | None = None, *, kind: bytes = b"", link: str = "") -> None:
        self.name = name
        self.kind = kind or (tarfile.DIRTYPE if text is None else tarfile.REGTYPE)
        self.link = link
        self.data = (text or "").encode()

    def info(self) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self.name)
        info.type, info.linkname, info.size = self.kind, self.link, len(self.data)
        info.mode = 0o755 if self.kind == tarfile.DIRTYPE else 0o644
        info.devmajor, info.devminor = (1, 3) if self.kind == tarfile.CHRTYPE else (0, 0)
        return info


def archive(*members: Member) -> bytes:
    """A tar, of the same bytes every time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member in members:
            tar.addfile(member.info(), io.BytesIO(member.data))
    return out.getvalue()


def small_tree(word: str) -> list[Member]:
    return [Member("etc"), Member("etc/os-release", f"ID={word}\n")]


class Server:
    """The server in the host, and what it tells of the requests it has served."""

    def __init__(self, process: Popen[str]) -> None:
        assert process.stdout is not None
        self._lines = process.stdout
        self.port = int(self._lines.readline())

    def url(self, way: str, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{way}/{name}"

    def wait(self, way: str, name: str) -> None:
        """Until that has been sent, as far as it will be."""
        for line in self._lines:
            if line == f"{way} {name}\n":
                return
        raise AssertionError("the server has ended")


class Lab:
    """A host to make transfers in."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.host = driver.host

    def sh(self, script: str) -> str:
        return self.host.run(["sh", "-ec", f"cd {WORK}\n{script}"]).stdout

    def write(self, name: str, data: bytes) -> str:
        """A file below WORK; its path in the host."""
        path = self.host.path(f"{WORK}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return f"{WORK}/{name}"

    def publish(self, folder: str, name: str, data: bytes, *, sums: str | None = None) -> str:
        """A file of the server and its SHA256SUMS beside it; the path for `Server.url`.

        `sums`: in place of the right ones.
        """
        right = f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        self.write(f"www/{folder}/SHA256SUMS", (right if sums is None else sums).encode())
        self.write(f"www/{folder}/{name}", data)
        return f"{folder}/{name}"

    @contextmanager
    def server(self) -> Iterator[Server]:
        self.write("www/.here", b"")
        command = ["/usr/bin/python3", "-c", SERVER, f"{WORK}/www"]
        with self.driver.background(command) as process:
            yield Server(process)

    @contextmanager
    def trusting(self, key: str = PUBLIC_KEY) -> Iterator[None]:
        """importd trusts this key inside the block."""
        suffix = "pgp" if self.driver.modern else "gpg"
        ring = self.host.path(f"/etc/systemd/import-pubring.{suffix}")
        ring.write_bytes(base64.b64decode(key))
        try:
            yield
        finally:
            ring.unlink()

    def ctl(self, *args: str, user: str | None = None) -> Done:
        return self.driver.ctl(*args, check=False, user=user)

    def good(self, *args: str) -> Done:
        done = self.ctl(*args)
        assert done.returncode == 0, done.stderr
        return done

    def bad(self, *args: str) -> str:
        """What it says to a command line that has to fail."""
        done = self.ctl(*args)
        assert done.returncode == 1, (args, done)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def pool(self) -> list[str]:
        """All there is, whatever begins with a dot too; locks of systemd-nspawn are not images."""
        names = self.sh(f"ls -A {POOL}").splitlines()
        return [name for name in names if not name.endswith(".lck") and name != ".spare"]

    def transfers(self) -> list[dict[str, Any]]:
        return list(json.loads(self.good("list-transfers", "--json").stdout))

    def images(self) -> list[str]:
        return [image["name"] for image in json.loads(self.good("list-images", "--json").stdout)]

    def look(self, path: str) -> list[str]:
        """All that is in a tree, and how."""
        done = self.host.run(["/usr/bin/python3", "-c", LOOK, path])
        return sorted(done.stdout.splitlines())

    def path(self, inside: str) -> Path:
        return self.host.path(inside)

    def clear(self) -> None:
        """What the tests have made."""
        self.host.run(["sh", "-c", f"rm -rf {WORK}; mkdir {WORK}"])
        for name in self.pool():
            self.host.run(["sh", "-c", 'chattr -R -i "$1" 2>/dev/null; rm -rf "$1"', "sh", f"{POOL}/{name}"])

    @contextmanager
    def begun(self, *args: str) -> Iterator[tuple[Popen[str], int, Iterator[dict[str, Any]]]]:
        """Our client with --json in the background: (process, its id in the host, its events)."""
        words = " ".join(f"'{arg}'" for arg in args)
        command = ["sh", "-c", f"echo $$; exec {OURS} --json {words}"]
        with self.driver.background(command) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            yield process, pid, map(json.loads, process.stdout)
