# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes requirements.lock and requirements-dev.lock from pyproject.toml: `make lock`, which needs uv.

Only wheels for the interpreters and machines that are supported are listed: an installation never compiles,
and pip refuses whatever is not named here. No address is written: any index or directory of wheels will do.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")

HEADER = """\
# Exact versions and hashes, for Python {first} to {last} on Linux ({machines}).
# Written from pyproject.toml by `make lock`: change it there.
"""


def supported(wheel: str) -> bool:
    """Whether a wheel's tags (PEP 425, 427) suit one of our interpreters on one of our machines."""
    *_, pythons, abis, platforms = wheel.removesuffix(".whl").split("-")
    numbers = [version.replace(".", "") for version in PYTHONS]
    platform = platforms == "any" or any(
        re.fullmatch(rf"manylinux.*_{machine}|linux_{machine}", tag)
        for machine in MACHINES
        for tag in platforms.split(".")
    )
    if not platform:
        return False
    for python in pythons.split("."):
        if python == "py3":
            return True
        if not (match := re.fullmatch(r"(cp|py)(3\d*)", python)):
            continue
        for abi in abis.split("."):
            # cp3Xt is the build without the interpreter lock, which no distribution has as python3.
            if abi == "abi3" and int(match[2]) <= int(numbers[-1]):
                return True
            if abi in ("none", f"cp{match[2]}") and match[2] in numbers:
                return True
    return False


def packages(uv: str, extras: list[str], constraints: Path | None) -> Iterator[dict[str, Any]]:
    """What uv resolves pyproject.toml to, for all supported interpreters at once (a PEP 751 file)."""
    with tempfile.TemporaryDirectory() as directory:
        lock = Path(directory) / "pylock.toml"
        command = [uv, "pip", "compile", "--quiet", "--universal", f"--python-version={PYTHONS[0]}"]
        command += ["--no-emit-index-url", "--format=pylock.toml", f"--output-file={lock}"]
        command += [f"--extra={extra}" for extra in extras]
        if constraints is not None:
            command += [f"--constraints={constraints}"]
        subprocess.run([*command, "pyproject.toml"], check=True, cwd=ROOT)
        data = tomllib.loads(lock.read_text(encoding="utf-8"))
    for package in data["packages"]:
        if "win32" not in package.get("marker", ""):
            yield package


def requirement(package: dict[str, Any]) -> str:
    """One entry of the lock file."""
    wheels = [wheel for wheel in package["wheels"] if supported(wheel["url"].rpartition("/")[2])]
    if not wheels:
        raise SystemExit(f"no wheel of '{package['name']}' {package['version']} suits {', '.join(PYTHONS)}")
    lines = [f"{package['name']}=={package['version']}"]
    lines += sorted(f"    --hash=sha256:{wheel['hashes']['sha256']}" for wheel in wheels)
    return " \\\n".join(lines) + "\n"


def write(path: Path, uv: str, extras: list[str], constraints: Path | None = None) -> None:
    """Write one lock file. constraints is a lock whose versions are to be kept."""
    header = HEADER.format(first=PYTHONS[0], last=PYTHONS[-1], machines=", ".join(MACHINES))
    entries = [requirement(package) for package in packages(uv, extras, constraints)]
    path.write_text(header + "".join(entries), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--uv", default="uv", help="the uv to use")
    uv = parser.parse_args().uv
    lock = ROOT / "requirements.lock"
    write(lock, uv, [])
    write(ROOT / "requirements-dev.lock", uv, ["dev"], constraints=lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
