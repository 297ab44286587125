# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machinectl of systemd against machined: every verb and option of its help, alike to the stock daemon.

Scripts are played line by line on a host with the stock daemon and one with machined; status and output of
every line have to be the same. `!` marks what has to fail on both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.integration.pair import GUEST, GUEST_UNIT, Pair, Side, steps
from tests.integration.terminals import Terminal
from tests.integration.test_ways_in import ESCAPE

pytestmark = pytest.mark.integration

STOCK = "/usr/bin/machinectl"

LISTS = """
machinectl
machinectl list
machinectl list --no-legend
machinectl list --all --full --no-pager
machinectl list -a -l --max-addresses=0
machinectl list --max-addresses=all --no-legend
machinectl list --output=json | sed 's/"addresses":"[^"]*"//'
machinectl list -o json-pretty | grep -v addresses
! machinectl list --output=nonsense
! machinectl list --max-addresses=-1
! machinectl frobnicate
! machinectl list web extra
machinectl help
machinectl --help
machinectl -h
machinectl --version
# There is no machined in the guest, no other host, and no machined of root's own.
! machinectl --machine=web list
! machinectl -M nobody-knows list
! machinectl -H root@localhost --no-ask-password list 2>/dev/null
! machinectl --host=localhost list 2>/dev/null
"""

USER_SCOPE = """
machinectl --system list --no-legend
! machinectl --user list
"""

STATUS = """
machinectl status web --lines=0
machinectl status web -n 0 --full --no-pager
machinectl status .host -n0 -l | head -n 1
machinectl status web -n 1 -o cat | grep -c Unit:
machinectl status web -n 0 --max-addresses=1
! machinectl status nobody-knows
! machinectl status
machinectl show
machinectl show --all
machinectl show web
machinectl show web --all
machinectl show web --property=Name --property=Class
machinectl show web -p Unit -p Service --value
machinectl show web -P RootDirectory
machinectl show -P PoolPath
machinectl show .host -p Class,State,Name
machinectl show web .host -P Class
! machinectl show nobody-knows
! machinectl show -- -bad-
"""

TOOLS_OF_USERS = """
machinectl list --no-legend
machinectl show web -P Class
machinectl status web -n0 | head -n 1
machinectl list-images --no-legend
! machinectl terminate web --no-ask-password
! machinectl poweroff web --no-ask-password
! machinectl kill web --no-ask-password
! machinectl shell web --no-ask-password /bin/true
! machinectl login web --no-ask-password
! machinectl bind web /tmp /mnt --no-ask-password
! machinectl copy-to web /etc/hostname /root/ --no-ask-password
! machinectl copy-from web /etc/hostname /tmp/stolen --no-ask-password
! machinectl remove web --no-ask-password
! machinectl clone web copy --no-ask-password
! machinectl rename web other --no-ask-password
! machinectl read-only web --no-ask-password
! machinectl set-limit web 1G --no-ask-password
! machinectl set-limit 1G --no-ask-password
! machinectl clean --no-ask-password
! machinectl start web --no-ask-password
! machinectl enable web --no-ask-password
"""

SHELL = """
machinectl shell web /bin/echo out in
machinectl -q shell web /bin/echo out in
machinectl --quiet shell daemon@web /usr/bin/id -un
machinectl -q --uid=daemon shell web /usr/bin/id -un
machinectl -q -E WORD=some --setenv=OTHER=thing shell web /usr/bin/printenv WORD OTHER
machinectl -q shell web /bin/sh -c 'exit 3'
machinectl -q shell web /bin/no-such-program
machinectl -q shell .host /bin/hostname
machinectl -q shell tester@.host /usr/bin/id -un
machinectl -q shell tester@ /usr/bin/id -un
! machinectl -q shell nobody-knows /bin/true
! machinectl -q shell web relative/path
machinectl -q shell no-such-user@web /bin/true
! machinectl -q --setenv==bad shell web /bin/true
! machinectl -q login nobody-knows
! machinectl -q --uid=daemon login web
"""

COPY = """
printf 'a file\\n' >/tmp/a-file; mkdir -p /tmp/a-tree/below; printf 'deep\\n' >/tmp/a-tree/below/file
machinectl copy-to web /tmp/a-file /root/a-copy
systemd-run -q -P --wait -M web -- sh -c 'cat /root/a-copy; stat -c %u:%g /root/a-copy'
! machinectl copy-to web /tmp/a-file /root/a-copy
machinectl copy-to web /tmp/a-file /root/a-copy --force
machinectl copy-to web /tmp/a-tree /root/a-tree
systemd-run -q -P --wait -M web -- cat /root/a-tree/below/file
machinectl copy-to web /tmp/a-file
systemd-run -q -P --wait -M web -- cat /tmp/a-file
machinectl copy-from web /root/a-copy /tmp/came-back
cat /tmp/came-back; stat -c %u:%g /tmp/came-back
! machinectl copy-from web /root/a-copy /tmp/came-back
machinectl copy-from web /root/a-copy /tmp/came-back --force
machinectl copy-from web /root/a-tree /tmp/tree-back
cat /tmp/tree-back/below/file
! machinectl copy-from web /root/missing /tmp/missing
! machinectl copy-to web /tmp/missing /root/missing
! machinectl copy-to nobody-knows /tmp/a-file /tmp/a-file
! machinectl copy-to .host /tmp/a-file /tmp/b-file
! machinectl copy-to web
systemd-run -q -P --wait -M web -- rm -rf /root/a-copy /root/a-tree /tmp/a-file
rm -rf /tmp/came-back /tmp/tree-back /tmp/a-file /tmp/a-tree
"""

# Of a guest without private users: with them stock refuses it.
BIND = """
mkdir -p /tmp/bound; printf 'bound\\n' >/tmp/bound/file
machinectl bind plain /tmp/bound /mnt
nsenter -at $(machinectl show plain -P Leader) -- cat /mnt/file
nsenter -at $(machinectl show plain -P Leader) -- touch /mnt/written
! machinectl bind plain /tmp/bound /new/place
machinectl bind --mkdir --read-only plain /tmp/bound /new/place
nsenter -at $(machinectl show plain -P Leader) -- cat /new/place/file
! nsenter -at $(machinectl show plain -P Leader) -- touch /new/place/refused
machinectl bind --mkdir plain /tmp/bound
nsenter -at $(machinectl show plain -P Leader) -- cat /tmp/bound/file
! machinectl bind plain /no/such/source /mnt
! machinectl bind plain relative /mnt
! machinectl bind web /tmp/bound /mnt
! machinectl bind nobody-knows /tmp/bound /mnt
! machinectl bind .host /tmp/bound /mnt
rm -rf /tmp/bound
"""

IMAGES = """
mkdir -p /var/lib/machines/img/usr/lib /var/lib/machines/img/etc
printf 'ID=test\\nPRETTY_NAME="A test"\\n' >/var/lib/machines/img/usr/lib/os-release
echo image-host >/var/lib/machines/img/etc/hostname
echo 0123456789abcdef0123456789abcdef >/var/lib/machines/img/etc/machine-id
echo DEPLOYMENT=testing >/var/lib/machines/img/etc/machine-info
machinectl list-images
machinectl list-images --no-legend --all
machinectl list-images -o json | sed 's/"\\(created\\|modified\\)":[0-9]*//g'
machinectl image-status img
machinectl image-status
machinectl image-status web
! machinectl image-status nobody-knows
machinectl show-image img
machinectl show-image img -p Name -p ReadOnly --value
machinectl show-image img --all
machinectl show-image
! machinectl show-image nobody-knows
machinectl clone img copy
cat /var/lib/machines/copy/etc/hostname
! machinectl clone img copy
! machinectl clone nobody-knows other
! machinectl clone img bad/name
machinectl clone --read-only img frozen
machinectl show-image frozen -P ReadOnly
machinectl rename copy moved
! machinectl rename moved img
! machinectl rename nobody-knows other
ls /var/lib/machines
machinectl read-only moved
machinectl show-image moved -P ReadOnly
machinectl read-only moved no
machinectl show-image moved -P ReadOnly
! machinectl read-only moved perhaps
! machinectl read-only nobody-knows
! machinectl read-only web
! machinectl set-limit img 1G
! machinectl set-limit 1G
! machinectl set-limit img nonsense
! machinectl set-limit nobody-knows 1G
mkdir /var/lib/machines/.hidden
machinectl list-images --all --no-legend
machinectl clean
ls -A /var/lib/machines | grep -v lck
machinectl read-only frozen false
machinectl remove moved frozen
! machinectl remove nobody-knows
! machinectl remove web
ls /var/lib/machines
machinectl remove img
"""

SETTINGS = """
mkdir -p /etc/systemd/nspawn; printf '[Exec]\\nBoot=yes\\n' >/etc/systemd/nspawn/kept.nspawn
machinectl cat kept
machinectl cat kept.nspawn --no-pager
! machinectl cat nobody-knows
! machinectl edit kept
script -qec "env SYSTEMD_EDITOR=/bin/true machinectl edit kept" /dev/null
rm /etc/systemd/nspawn/kept.nspawn
"""

AUTOSTART = """
! machinectl enable nobody-knows
machinectl enable web
systemctl is-enabled systemd-nspawn@web.service machines.target
! machinectl disable nobody-knows
machinectl disable web
! systemctl is-enabled systemd-nspawn@web.service
! machinectl enable --now --runner=nonsense web
! machinectl start nobody-knows
"""

# Of what has a control socket of its own; nspawn has none.
PAUSE = """
! machinectl pause web
! machinectl resume web
! machinectl pause nobody-knows
! machinectl bind-volume web block:disk
! machinectl unbind-volume web block:disk
"""

KILL = """
machinectl kill web --signal=help
machinectl kill web -s list
! machinectl kill web --signal=NONSENSE
! machinectl kill web --kill-whom=nobody
! machinectl kill nobody-knows
! machinectl kill .host
! machinectl terminate .host
! machinectl poweroff nobody-knows
! machinectl reboot nobody-knows
! machinectl terminate nobody-knows
"""

SCRIPTS = {
    "lists": LISTS,
    "status": STATUS,
    "settings": SETTINGS,
    "autostart": AUTOSTART,
    "kill": KILL,
    "shell": SHELL,
    "copy": COPY,
    "bind": BIND,
    "images": IMAGES,
}
MODERN_SCRIPTS = {"user scope": USER_SCOPE, "pause": PAUSE}

# What is not played because it needs a terminal or ends the guest, and the test below that does it.
BY_TESTS = {
    "login": "test_login",
    "start": "test_start_and_stop",
    "poweroff": "test_start_and_stop",
    "reboot": "test_start_and_stop",
    "terminate": "test_start_and_stop",
    "kill": "test_start_and_stop",
    "--now": "test_start_and_stop",
    "--kill-whom": "test_start_and_stop",
    "-s": "test_start_and_stop",
    "-V": "test_start_and_stop",
}


def words_played(scripts: dict[str, str]) -> set[str]:
    """Verbs and options with which scripts call machinectl."""
    words: set[str] = set()
    for script in scripts.values():
        for step in steps(script):
            if step.command.startswith("machinectl"):
                words |= {word.partition("=")[0] for word in step.words()}
            elif "machinectl edit" in step.command:
                words.add("edit")
    return words


def words_of_help(text: str) -> set[str]:
    """Verbs and options that the help lists."""
    words: set[str] = set()
    for line in text.splitlines():
        if match := re.match(r"  \[?([a-z][a-z-]+)\]?( |$)", line):
            words.add(match[1])
        elif match := re.match(r" +((-[a-zA-Z] )?--[a-z-]+|-[a-zA-Z]\b)", line):
            words |= set(match[1].split())
    return words


def test_nothing_of_the_help_is_forgotten(pair: Pair) -> None:
    scripts = SCRIPTS | (MODERN_SCRIPTS if pair.modern else {})
    known = words_of_help(pair.ours.sh("machinectl --help").stdout)
    assert {"list", "clean", "--help", "-V"} <= known
    assert len(known) > 50
    assert known - words_played(scripts) - BY_TESTS.keys() == set()
    assert {test for test in BY_TESTS.values() if test not in globals()} == set()


@pytest.fixture
def plain(pair: Pair) -> Iterator[None]:
    """A guest without private users on both hosts."""
    for side in pair:
        side.host.add_guest("plain")
        nspawn = "systemd-nspawn -q --register=yes --keep-unit -M plain sleep infinity"
        side.sh(f"systemd-run -q --unit=plain --slice=machine.slice -p Delegate=yes {nspawn}")
        side.until_registered("plain")
    yield
    for side in pair:
        side.sh("systemctl stop plain.service")
        side.until_gone("plain")
        side.sh("rm -rf /var/lib/machines/plain")


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(pair: Pair, name: str, request: pytest.FixtureRequest) -> None:
    if name == "bind":
        request.getfixturevalue("plain")
    pair.play(SCRIPTS[name])


@pytest.mark.parametrize("name", MODERN_SCRIPTS)
def test_script_of_newer_ones(pair: Pair, name: str) -> None:
    if not pair.modern:
        pytest.skip("this version has no such verbs and options")
    pair.play(MODERN_SCRIPTS[name])


def test_script_of_an_ordinary_user(pair: Pair) -> None:
    pair.play(TOOLS_OF_USERS, user="tester")


def test_login(side: Side) -> None:
    """A login on a terminal of the guest: it is a session of the guest's logind by PAM."""
    with Terminal(side, [STOCK, "login", GUEST]) as terminal:
        terminal.expect("login: ")
        terminal.type("root\r")
        terminal.expect(r"[#$] ")
        terminal.type("echo in:$(tty)\r")
        terminal.expect(r"\n\r?in:/dev/pts/\d+\r")
        sessions = side.sh(f"loginctl -M {GUEST} list-sessions --no-legend").stdout.split("\n")
        (session,) = (line.split() for line in sessions if "pts/" in line)
        assert session[1:3] == ["0", "root"]
        shown = side.sh(f"loginctl -M {GUEST} show-session {session[0]} -p Service -p Type -p Active").stdout
        assert set(shown.split()) == {"Service=login", "Type=tty", "Active=yes"}
        assert side.sh(f"loginctl -M {GUEST} session-status {session[0]} -n0").returncode == 0
        terminal.type(ESCAPE * 3)
        assert terminal.ended() == 0


def test_start_and_stop(side: Side) -> None:
    """The verbs that end a machine, and the ones that begin one again."""
    side.up()
    leader = side.fact(GUEST, "Leader")
    side.sh(f"machinectl reboot {GUEST}")
    side.until(f"machinectl show {GUEST} -P Leader 2>/dev/null | grep -vqx {leader}")
    side.until_up(GUEST)
    endings = (
        "poweroff {}", "terminate {}", "kill --kill-whom=leader -s SIGRTMIN+4 {}", "disable --now {}",
        "kill --signal=KILL {}",
    )  # fmt: skip
    for number, ending in enumerate(endings):
        start = "enable --now" if number % 2 else "start"
        side.sh(f"systemctl reset-failed {GUEST_UNIT}; machinectl {start} {GUEST}", timeout=90)
        side.until_up(GUEST)
        side.sh(f"machinectl {ending.format(GUEST)}")
        side.until_gone(GUEST)
        side.until(f"systemctl is-active {GUEST_UNIT} | grep -qx -e inactive -e failed")
    # 257's template has no way to clean what a killed nspawn leaves.
    side.sh(f"umount /run/systemd/nspawn/unix-export/{GUEST}", check=False)
    side.sh(f"machinectl disable {GUEST}")
    failed = side.sh(f"machinectl start -V {GUEST}", check=False)
    assert failed.returncode == 1
    side.sh("systemctl reset-failed")
    side.up()
