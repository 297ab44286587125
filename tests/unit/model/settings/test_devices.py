# SPDX-License-Identifier: LGPL-2.1-or-later
"""Device=, what CDI files say of it, and the presets that use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from machined.linux import inifile
from machined.model.settings import cdi, layers, presets, sources
from machined.model.settings.devices import DEVICE, Device, parse
from machined.model.settings.layers import Severity, Source
from machined.model.settings.merge import Effective
from tests.fakes.sandbox import Sandbox

GPU = {
    "cdiVersion": "0.5.0",
    "kind": "example.com/gpu",
    "containerEdits": {
        "env": ["EXAMPLE=all"],
        "deviceNodes": [{"path": "/dev/example-ctl"}],
        "mounts": [
            {"hostPath": "/usr/lib/a:b.so", "containerPath": "/usr/lib/a:b.so", "options": ["ro", "nosuid"]},
            {"hostPath": "/run/example", "containerPath": "/run/example"},
        ],
        "hooks": [
            {"hookName": "createContainer", "path": "/usr/bin/tool", "args": ["tool", "update-ldcache"]},
            {"hookName": "createContainer", "path": "/usr/bin/other"},
        ],
    },
    "devices": [
        {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/example0", "permissions": "mrw"}]}},
        {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/ex1"}]}},
    ],
}
YAML = """
kind: example.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/example0
"""


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setattr(cdi, "DIRECTORIES", (tmp_path / "cdi", tmp_path / "run-cdi"))
    return Sandbox.make(tmp_path, monkeypatch)


@pytest.fixture
def describe(box: Sandbox, tmp_path: Path) -> Callable[[str, str | dict[str, Any]], Path]:
    def write(name: str, content: str | dict[str, Any]) -> Path:
        path = tmp_path / "cdi" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def load(*words: str) -> Effective:
    return sources.load("web", None, 257, words)


def texts(effective: Effective, section: str, key: str) -> list[str]:
    return [value.text for value in effective.all(section, key)]


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("/dev/fuse", Device("/dev/fuse", "/dev/fuse", "rw")),
        ("/dev//dri/", Device("/dev/dri", "/dev/dri", "rw")),
        ("/dev/sda:r", Device("/dev/sda", "/dev/sda", "r")),
        ("/dev/sda:/dev/vda", Device("/dev/sda", "/dev/vda", "rw")),
        ("/dev/sda:/dev/vda:rwm", Device("/dev/sda", "/dev/vda", "rwm")),
        ("/dev/serial/by-id/a\\:b:/dev/ttyS9:rw", Device("/dev/serial/by-id/a:b", "/dev/ttyS9", "rw")),
    ],
)
def test_what_a_value_means(text: str, device: Device) -> None:
    once = DEVICE.read(text)
    assert parse(once) == device
    assert DEVICE.read(once) == once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/etc/passwd", "must be below /dev"),
        ("/dev", "must be below /dev"),
        ("/dev/../etc/shadow", "without '..'"),
        ("/dev/sda:/etc/passwd", "must be below /dev"),
        ("/dev/sda:/dev/vda:x", "must be of the letters"),
        ("/dev/sda:mr", "must be of the letters"),
        ("/dev/sda:", "must be of the letters"),
        ("/dev/a:/dev/b:/dev/c:rw", "must be PATH"),
        ("/dev/shm/x", "no place of devices"),
        ("/dev/fd/0", "no place of devices"),
        ("/dev/machined/other/0", "no place of devices"),
        ("fuse", "must be a path below /dev"),
        ("vendor/class", "must be a path below /dev"),
    ],
)
def test_what_no_value_is(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        DEVICE.read(text)
    assert said in str(raised.value)


def test_not_from_an_image() -> None:
    document = inifile.parse(b"[Machine]\nDevice=/dev/kmsg\n", "web.nspawn")
    layer = layers.read(document, Source.IMAGE, 257)
    assert not layer.lines
    assert layer.findings


class TestDescriptions:
    def test_everything_but_hooks_becomes_settings(
        self, describe: Callable[[str, str | dict[str, Any]], Path]
    ) -> None:
        path = describe("example.json", GPU)
        effective = load("Device=example.com/gpu=0")
        assert texts(effective, "Machine", "Device") == [
            "example.com/gpu=0", "/dev/example-ctl:rw", "/dev/example0:rwm",
        ]  # fmt: skip
        assert texts(effective, "Files", "BindReadOnly") == ["/usr/lib/a\\:b.so:/usr/lib/a\\:b.so"]
        assert texts(effective, "Files", "Bind") == ["/run/example:/run/example"]
        [variable] = effective.all("Exec", "Environment")
        assert (variable.text, variable.origin, variable.source) == (
            "EXAMPLE=all", str(path), Source.COMMAND,
        )  # fmt: skip
        assert not effective.errors()
        assert [finding.text for finding in effective.findings] == [
            "The hook 'tool update-ldcache' is not run: run 'ldconfig' inside once the machine is up.",
            "The hook '/usr/bin/other' is not run: systemd-nspawn has none; what it does is to be done "
            "inside.",
        ]

    def test_other_names_inside(self, describe: Callable[[str, str | dict[str, Any]], Path]) -> None:
        describe("example.json", GPU)
        assert texts(load("Device=example.com/gpu=all"), "Machine", "Device")[-1] == ("/dev/ex1:/dev/x:rw")

    def test_twice_is_once_and_none_is_none(
        self, describe: Callable[[str, str | dict[str, Any]], Path]
    ) -> None:
        describe("example.json", GPU)
        word = "Device=example.com/gpu=0"
        assert len(texts(load(word, word), "Files", "Bind")) == 1
        assert texts(load(word, "Device="), "Machine", "Device") == []
        assert len(texts(load(word, "Device=", word), "Machine", "Device")) == 3

    def test_yaml(self, describe: Callable[[str, str | dict[str, Any]], Path]) -> None:
        describe("example.yaml", YAML)
        assert texts(load("Device=example.com/gpu=0"), "Machine", "Device")[1:] == ["/dev/example0:rw"]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.json", "{"),
            ("a.json", "[" * 10_000),
            ("a.json", "[]"),
            ("a.yaml", "a: [b"),
            ("a.yaml", "a: &x [1]\nb: [*x, *x]"),
            ("a.yaml", "#" * (cdi.SIZE_MAX + 1)),
        ],
    )
    def test_a_bad_file_is_passed_over(
        self, name: str, content: str, describe: Callable[[str, str | dict[str, Any]], Path]
    ) -> None:
        bad = describe(name, content)
        describe("good.yaml", YAML)
        effective = load("Device=example.com/gpu=0")
        assert not effective.errors()
        [finding] = effective.findings
        assert str(bad) in finding.text
        assert finding.severity is Severity.WARNING

    def test_a_file_that_changes(self, describe: Callable[[str, str | dict[str, Any]], Path]) -> None:
        path = describe("example.yaml", "kind: a/b")
        assert load("Device=example.com/gpu=0").errors()
        path.unlink()
        describe("example.yaml", YAML)
        assert not load("Device=example.com/gpu=0").errors()

    def test_what_all_of_a_file_need_is_there_once(
        self, describe: Callable[[str, str | dict[str, Any]], Path], tmp_path: Path
    ) -> None:
        describe("example.json", GPU)
        effective = load("Device=example.com/gpu=0", "Device=example.com/gpu=all")
        assert texts(effective, "Files", "Bind") == ["/run/example:/run/example"]
        # What is in /run counts more.
        (tmp_path / "run-cdi").mkdir()
        (tmp_path / "run-cdi/example.yaml").write_text(YAML, encoding="utf-8")
        assert texts(load("Device=example.com/gpu=0"), "Files", "Bind") == []

    @pytest.mark.parametrize("hooks", [5, [5], [{"args": 5}], [{"args": []}], [{}]])
    def test_odd_hooks(self, hooks: Any, describe: Callable[[str, str | dict[str, Any]], Path]) -> None:
        edits = {"hooks": hooks, "env": 7, "mounts": {}, "deviceNodes": "x"}
        describe("a.json", {"kind": "a/b", "devices": [{"name": "c", "containerEdits": edits}, 5]})
        assert not load("Device=a/b=c").errors()

    def test_what_nobody_describes(self, describe: Callable[[str, str | dict[str, Any]], Path]) -> None:
        describe("example.json", GPU)
        [finding] = load("Device=example.com/gpu=7").errors()
        assert "of example.com/gpu there are: 0, all" in finding.text
        [finding] = load("Profile=nvidia").errors()
        assert "nvidia-ctk cdi generate" in finding.text

    def test_what_is_no_device(self, describe: Callable[[str, str | dict[str, Any]], Path]) -> None:
        mounts = [{"hostPath": "a", "containerPath": "b"}]
        edits = {"deviceNodes": [{"path": "/etc/shadow"}], "mounts": mounts}
        describe("a.json", {"kind": "a/b", "devices": [{"name": "c", "containerEdits": edits}]})
        assert len(load("Device=a/b=c").errors()) == 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    for path in ("dev/dri", "dev/kfd", "dev/fuse", "dev/kvm", "dev/vhost-vsock", "dev/net/tun", "proc/net"):
        (top / path).mkdir(parents=True)
    sockets(top, "/tmp/.X11-unix/X12", "/run/user/1000/wayland-1")
    return top


def sockets(top: Path, *paths: str, flags: str = "00010000") -> None:
    lines = ["Num       RefCount Protocol Flags    Type St Inode Path"]
    lines += ["0000000000000000: 00000003 00000000 00000000 0001 03 1472", "@/tmp/.X11-unix/X1"]
    lines += [f"0000000000000000: 00000002 00000000 {flags} 0001 01 {n} {p}" for n, p in enumerate(paths)]
    (top / "proc/net/unix").write_text("\n".join(lines), encoding="utf-8")


class TestPresets:
    @pytest.mark.parametrize("name", [name for name in presets.PRESETS if name != "nvidia"])
    @pytest.mark.parametrize("version", [257, 262])
    def test_every_one_is_valid_where_there_is_all(self, name: str, version: int, root: Path) -> None:
        text = presets.text(name, presets.Host(version, root))
        assert text
        layer = layers.read(inifile.parse(text.encode(), f"preset {name}"), Source.PROFILE, version)
        assert layer.lines
        assert not layer.findings

    def test_for_this_host(self, root: Path) -> None:
        host = presets.Host(257, root)
        assert presets.text("gpu", host) == (
            "# Graphics cards: drawing and computing through /dev/dri\n"
            "[Machine]\nDevice=/dev/dri\nDevice=/dev/kfd\n"
        )
        (root / "dev/kfd").rmdir()
        assert "kfd" not in (presets.text("gpu", host) or "")
        assert "DISPLAY=:12\n" in (presets.text("x11", host) or "")
        wayland = presets.text("wayland", host) or ""
        assert "BindReadOnly=/run/user/1000/wayland-1:/run/host/wayland-0:idmap\n" in wayland

    @pytest.mark.parametrize(
        "path",
        [
            "/tmp/.X11-unix/X1/../../a",
            "/tmp/.X11-unix/X",
            "/tmp/.X11-unix/X1 b",
            "@/tmp/.X11-unix/X1",
            "/X11",
        ],
    )
    def test_sockets_with_other_names(self, path: str, root: Path) -> None:
        sockets(root, path, path + "\n[Files]")
        with pytest.raises(presets.NotHereError):
            presets.text("x11", presets.Host(257, root))

    def test_only_one_that_listens(self, root: Path) -> None:
        sockets(root, "/tmp/.X11-unix/X1", flags="00000000")
        with pytest.raises(presets.NotHereError):
            presets.text("x11", presets.Host(257, root))
        sockets(root, "/run/user/1000/wayland-0", "/run/user/1000/wayland-1")
        with pytest.raises(presets.NotHereError, match="2"):
            presets.text("wayland", presets.Host(257, root))

    @pytest.mark.parametrize("name", ["fuse", "gpu", "kvm", "tun", "wayland", "x11"])
    def test_not_on_a_host_without(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(presets.NotHereError):
            presets.text(name, presets.Host(257, tmp_path))

    def test_settings_know_them(self, box: Sandbox) -> None:
        effective = load("Profile=hardened")
        [value] = effective.all("Exec", "NoNewPrivileges")
        assert (value.text, value.source) == ("yes", Source.PROFILE)
        assert value.origin.startswith("preset hardened:")
        assert not effective.errors()
        [finding] = load("Profile=hardend").errors()
        assert "hardened" in finding.text

    def test_an_administrators_is_instead(self, box: Sandbox) -> None:
        path = box.configuration / "profiles/hardened.conf"
        path.parent.mkdir(parents=True)
        path.write_text("[Exec]\nHostname=mine\n", encoding="utf-8")
        effective = load("Profile=hardened")
        assert effective.get("Exec", "Hostname") == "mine"
        assert not effective.all("Exec", "NoNewPrivileges")
