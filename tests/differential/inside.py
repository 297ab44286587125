# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the script as one user inside the host (`run VERSION SINCE PATTERN…`), or makes what it works on.

Writes {case: answers} as JSON to standard output.
"""

from __future__ import annotations

import faulthandler
import fnmatch
import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.differential import (
    calls_bus,
    calls_files,
    calls_images,
    calls_lifecycle,
    calls_programs,
    calls_reading,
    calls_registration,
    calls_varlink,
    calls_varlink_images,
    calls_varlink_machine,
    calls_varlink_others,
    calls_varlink_register,
)
from tests.differential.wire import Bus
from tests.differential.world import CASES, MACHINE, MANAGER, PROPERTIES, RECORDS, ROOT, World

# The process that registered the scope and the machine of class vm: its pid and the inode of its pidfd.
REGISTRANT: Final = Path("/run/differential-registrant")

# Importing them is what adds their cases.
SCRIPT: Final = (
    calls_bus,
    calls_reading,
    calls_lifecycle,
    calls_registration,
    calls_files,
    calls_images,
    calls_varlink,
    calls_varlink_register,
    calls_varlink_machine,
    calls_varlink_images,
    calls_varlink_others,
    calls_programs,
)

# `trusted` may do everything that polkit is asked about. The journal gets the details.
POLKIT_RULE: Final = """
polkit.addRule(function(action, subject) {
    if (action.id.indexOf("org.freedesktop.machine1.") != 0)
        return undefined;
    var keys = ["machine", "image", "name", "class", "verb", "user", "program", "command_line", "src",
                "dest",
                "new_name", "read_only", "mode", "polkit.gettext_domain", "polkit.message"];
    var text = "diff " + subject.user + " " + action.id;
    for (var i in keys) {
        var value = action.lookup(keys[i]);
        if (value)
            text += " " + keys[i] + "=" + value.substring(0, 80);
    }
    polkit.log(text);
    return subject.user == "trusted" ? polkit.Result.YES : undefined;
});
"""

SETUP: Final = """
set -eu
useradd --create-home --shell /bin/bash trusted
mkdir -p /etc/polkit-1/rules.d /etc/systemd/nspawn /usr/lib/machines /usr/local/lib/machines
cat >/etc/polkit-1/rules.d/10-differential.rules
# Or their addresses would be another with each daemon; link-local ones come whenever they like.
cd /etc/systemd/nspawn
printf '[Exec]\\nPrivateUsers=no\\n[Network]\\nPrivate=yes\\nVirtualEthernet=no\\n' >plain.nspawn
printf '[Network]\\nPrivate=yes\\nVirtualEthernet=no\\n' >private.nspawn
cd /var/lib/machines
tree() {
    mkdir -p "$1/etc" "$1/usr/lib"
    printf 'ID=%s\\nNAME="A \\\\"quoted\\\\" name"\\nVERSION_ID=1\\n' "$2" >"$1/etc/os-release"
    echo "$2-host" >"$1/etc/hostname"
    echo 0123456789abcdef0123456789abcdef >"$1/etc/machine-id"
    printf 'PRETTY_HOSTNAME="Of %s"\\nCHASSIS=container\\n' "$2" >"$1/etc/machine-info"
}
tree d-dir dir; tree .d-hidden hidden; tree 'd blank' blank; tree /srv/linked linked
tree /usr/lib/machines/d-vendor vendor; tree /usr/local/lib/machines/d-local local
tree d-ro ro; chmod a-w d-ro
mkdir d-empty; echo text >d-file
ln -s /srv/linked d-link; ln -s /nosuch d-broken; ln -s /dev/null d-null
truncate -s 1M d-raw.raw; truncate -s 1M d-readonly.raw; chmod a-w d-readonly.raw
mkdir -p 'not:valid' .#temporary d-dir.raw; touch .#x.lck
touch -d @1700000000 d-dir d-raw.raw d-ro d-empty d-file 'd blank' .d-hidden d-readonly.raw
mkdir -p /srv/d/sub; echo text >/srv/d/file; echo more >/srv/d/sub/file; ln -s file /srv/d/link
chmod 640 /srv/d/file; ln /srv/d/file /srv/d/hard; mkfifo /srv/d/fifo; chown -R 1000:1000 /srv/d/sub
for directory in usr/bin usr/lib etc proc sys dev; do mkdir -p /srv/nspawn/$directory; done
cp -a /usr/lib/os-release /srv/nspawn/usr/lib/
cp -L /usr/bin/sleep /srv/nspawn/usr/bin/
for library in $(ldd /usr/bin/sleep | grep -o '/[^ ]*'); do
    mkdir -p "/srv/nspawn$(dirname "$library")"; cp -L "$library" "/srv/nspawn$library"
done
for unit in d-scope-leader d-vm-leader; do systemd-run --quiet --unit=$unit sleep 86400; done
"""

# What a run has left in the containers' trees, in the pool and beside it is not for the next one to find.
RENEW: Final = """
cd /var/lib/machines
systemctl stop systemd-nspawn@plain.service systemd-nspawn@private.service
for name in plain private; do
    rm -rf $name/srv/* $name/root/d $name/root/d-file $name/root/escape
done
rm -rf d-new d-new.raw d-clone d-clone.raw d-other d-other.raw /srv/back /srv/out /srv/stolen /root/d
for name in plain private; do systemctl start systemd-nspawn@$name.service; done
"""


def setup() -> None:
    """What both daemons find: users, images, leaders of two machines."""
    subprocess.run(["sh", "-c", SETUP], input=POLKIT_RULE, text=True, check=True, timeout=120)


def containers() -> None:
    """Boot the two containers anew, so that they register with the daemon in charge."""
    subprocess.run(["sh", "-ec", RENEW], check=True, timeout=120)
    for name in ("plain", "private"):
        wait = [
            "systemd-run",
            "-M",
            name,
            "--quiet",
            "--pipe",
            "--wait",
            "systemctl",
            "is-system-running",
            "--wait",
        ]
        deadline = time.monotonic() + 90
        while (
            done := subprocess.run(wait, check=False, capture_output=True, timeout=90, text=True)
        ).stdout.strip() not in {
            "running",
            "degraded",
        }:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} did not come up: {done.stdout}{done.stderr}")
            time.sleep(0.2)


def machines() -> None:
    """Two containers, a scope and a machine of class vm, registered with the daemon in charge."""
    containers()
    bus = Bus()
    # A process of its own for the scope: it is ended with it.
    scope = _main_pid("d-scope-leader.service")
    arguments: tuple[object, ...] = (
        "d-scope",
        bytes(range(16)),
        "diff-test",
        "container",
        scope,
        "",
        [("TasksMax", ("t", 77))],
    )
    answers = [bus.call(ROOT, MANAGER, "CreateMachine", "sayssusa(sv)", arguments)]
    arguments = (
        "d-vm",
        bytes(range(16, 32)),
        "diff-test",
        "vm",
        _main_pid("d-vm-leader.service"),
        "/srv/root",
        [1],
    )
    answers += [bus.call(ROOT, MANAGER, "RegisterMachineWithNetwork", "sayssusai", arguments)]
    bus.close()
    # From 258 on this process is what the daemon calls their supervisor.
    pidfd = os.pidfd_open(os.getpid())
    REGISTRANT.write_text(f"{os.getpid()} {os.fstat(pidfd).st_ino}", encoding="ascii")
    os.close(pidfd)
    if any("reply" not in answer for answer in answers):
        raise ValueError(f"the machines cannot be registered: {answers}")


def forget_machines() -> None:
    """The reverse of machines(); the leader of the scope goes back into a unit that stays."""
    bus = Bus()
    bus.call(ROOT, MANAGER, "UnregisterMachine", "s", ("d-vm",))
    bus.call(ROOT, MANAGER, "TerminateMachine", "s", ("d-scope",))
    bus.wait_signal("MachineRemoved", "d-scope")
    bus.close()
    for verb in (["stop", "d-scope-leader"], ["reset-failed", "d-scope-leader"]):
        subprocess.run(["systemctl", *verb], check=False, capture_output=True, timeout=30)
    subprocess.run(
        ["systemd-run", "--quiet", "--unit=d-scope-leader", "sleep", "86400"], check=True, timeout=30
    )


def _main_pid(unit: str) -> int:
    show = ["systemctl", "show", "--value", "--property=MainPID", unit]
    return int(subprocess.run(show, check=True, capture_output=True, text=True, timeout=30).stdout)


# The machines that are there for the whole run.
STAYING: Final = ("plain", "private", "d-scope", "d-vm")


def _labels(world: World) -> None:
    """Names for the processes that the answers about these machines are full of."""
    world.label(_main_pid("d-scope-leader.service"), "<scope's leader>")
    world.label(_main_pid("d-vm-leader.service"), "<vm's leader>")
    pid, inode = REGISTRANT.read_text(encoding="ascii").split()
    world.labels |= {int(pid): "<registrant>", int(inode): "<registrant> pidfd"}
    for name in ("plain", "private"):
        nspawn = _main_pid(f"systemd-nspawn@{name}.service")
        world.label(nspawn, f"<nspawn of {name}>")
        path = f"{ROOT}/machine/{name}"
        answer = world.bus.call(path, PROPERTIES, "Get", "ss", (MACHINE, "Leader"))
        world.label(answer["reply"][1][0][1], f"<leader of {name}>")


def _let_go(bus: Bus) -> None:
    """Wait until nothing is left of the machine that cases register: stock collects it when it has time."""
    deadline = time.monotonic() + 5
    while "reply" in bus.call(ROOT, MANAGER, "GetMachine", "s", ("d-one",)) and time.monotonic() < deadline:
        time.sleep(0.01)


def run(version: int, since: int, patterns: list[str]) -> dict[str, list[object]]:
    """{case: answers} of the cases of this user."""
    user = pwd.getpwuid(os.getuid()).pw_name
    world = World(user, version, since)
    _labels(world)
    answers: dict[str, list[object]] = {}
    for case in CASES:
        if (
            user not in case.who
            or not case.since <= version < case.until
            or not any(fnmatch.fnmatchcase(case.name, pattern) for pattern in patterns)
        ):
            continue
        world.answers = []
        _let_go(world.bus)
        Path(f"/tmp/differential-{user}").write_text(case.name, encoding="utf-8")
        # One that hangs tells where, and ends the run.
        faulthandler.dump_traceback_later(60, exit=True)
        began = time.monotonic()
        try:
            case.run(world)
        except Exception as error:
            world.answers.append(f"the case failed: {type(error).__name__}: {error}")
        answers[case.name] = world.answers
        if not all((RECORDS / name).exists() for name in STAYING):
            raise RuntimeError(f"'{case.name}' ends a machine that the cases after it need")
        if (took := time.monotonic() - began) > 2:
            print(f"{case.name} as {user} took {took:.1f} s", file=sys.stderr, flush=True)
    faulthandler.cancel_dump_traceback_later()
    return answers


def main() -> None:
    match sys.argv[1]:
        case "setup":
            setup()
        case "machines":
            machines()
        case "forget":
            forget_machines()
        case "run":
            json.dump(run(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]), sys.stdout)


if __name__ == "__main__":
    main()
