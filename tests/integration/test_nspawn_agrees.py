# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd-nspawn itself is asked about every value that we take, and about those that we refuse."""

from __future__ import annotations

import pytest

from machined.model.settings import command, table
from machined.model.settings.layers import from_command_line
from machined.model.settings.merge import merge
from machined.model.settings.setting import Form
from tests.integration.driver import Driver
from tests.samples import PATHS, SAMPLES

pytestmark = pytest.mark.integration

VERSIONS = {"trixie": 257, "sid": 262}
# It reads options in their order, so all before this one are read; then it ends.
END = "--version"
# What has to be there when it reads the option: a credential, a signature.
LOOKS = frozenset({"Exec.LoadCredential", "Image.RootHashSignature"})
# What we do not take, and it does.
LAXER = frozenset(
    {
        ("Exec.Capability", "CAP_CHOWN,CAP_KILL"),
        ("Exec.CPUAffinity", "3-1"),
        ("Exec.PivotRoot", "/a:/b:/c"),
        ("Exec.PrivateUsers", "4294967295:1"),
        ("Exec.PrivateUsersDelegate", "70000"),
        ("Exec.User", "a b"),
        ("Exec.User", "x:y"),
        ("Exec.WorkingDirectory", "/x\x01"),
        ("Files.Bind", "/a:/b:c:d"),
        ("Files.Bind", "/a:/b:nothing"),
        ("Files.Overlay", "a:/b:/c"),
        ("Files.TemporaryFileSystem", "/a/../b:x"),
        ("Network.NamespacePath", "netns/x"),
        *(("Image.Template", text) for text in PATHS),
        *(("Image.VerityData", text) for text in PATHS),
    }
)


def accepted(managed: Driver, words: list[str]) -> str:
    """What it says against these options; nothing when it takes them."""
    done = managed.host.run(["systemd-nspawn", *words, END], check=False)
    return "" if done.returncode == 0 and done.stdout.startswith("systemd ") else done.stderr or "?"


def test_it_takes_what_we_take(managed: Driver) -> None:
    version = VERSIONS[managed.host.suite]
    refused = {}
    for name, (valid, _) in SAMPLES.items():
        setting = table.find(*name.split(".", 1))
        assert setting is not None
        if not setting.is_known_to(version) or setting.form in {Form.OWN, Form.VARIABLE} or name in LOOKS:
            continue
        for text in valid:
            effective = merge([from_command_line([f"{name}={text}"], version)])
            said = accepted(managed, command.options(effective, version))
            if said:
                refused[f"{name}={text}"] = said
    assert not refused


def test_it_refuses_what_we_refuse(managed: Driver) -> None:
    version = VERSIONS[managed.host.suite]
    taken = []
    for name, (_, refused) in SAMPLES.items():
        setting = table.find(*name.split(".", 1))
        assert setting is not None
        plain = setting.form in {Form.VALUE, Form.EACH, Form.JOINED} and setting.is_known_to(version)
        if not plain or name in LOOKS:
            continue
        taken += [
            (name, text)
            for text in refused
            if text
            and not text.startswith(('"', "'"))
            and not accepted(managed, [f"{setting.option_of(version)}={text}"])
        ]
    assert not "\n".join(f"{name}={text!r}" for name, text in sorted(set(taken) - LAXER))
