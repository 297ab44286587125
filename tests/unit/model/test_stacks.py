# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layered images on disk: what is one, what is not, and under which name it is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from machined.linux import mstack
from machined.model import stacks
from machined.model.images import Images, ImageType


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tree = tmp_path / "base"
    tree.mkdir()
    return tree


def write(path: Path, layers: tuple[str, ...]) -> None:
    mstack.write(str(path), layers, beside=str(path))
    mstack.make_writable(str(path / "rw"), layers[0])


def test_what_was_written_is_read(tmp_path: Path, base: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write(tmp_path / "x.mstack", (str(other), str(base)))
    found = stacks.read(str(tmp_path / "x.mstack"))
    assert found is not None
    assert found.layers == (str(other), str(base))
    assert Path(found.written).is_dir()
    assert Path(found.writable, "work").is_dir()
    assert (tmp_path / "x.mstack/layer@0").readlink() == Path("../base")


def test_the_layers_are_in_the_order_of_versions(tmp_path: Path) -> None:
    stack = tmp_path / "x.mstack"
    (stack / "rw").mkdir(parents=True)
    for number in (1, 2, 10):
        (stack / f"layer@{number}").mkdir()
    found = stacks.read(str(stack))
    assert found is not None
    assert found.layers == tuple(str(stack / f"layer@{number}") for number in (10, 2, 1))


@pytest.mark.parametrize("entry", ["bind@srv", "root", "layer@9.raw", "note"])
def test_what_has_more_in_it_is_not_ours(tmp_path: Path, base: Path, entry: str) -> None:
    write(tmp_path / "x.mstack", (str(base),))
    if entry.endswith(".raw"):
        (tmp_path / "x.mstack" / entry).touch()
    else:
        (tmp_path / "x.mstack" / entry).mkdir()
    assert stacks.read(str(tmp_path / "x.mstack")) is None


def test_what_lacks_a_layer_is_still_one(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "x.mstack", (str(base),))
    base.rmdir()
    found = stacks.read(str(tmp_path / "x.mstack"))
    assert found is not None
    assert found.layers == (str(base),)


@pytest.mark.parametrize("version", [257, 262])
def test_it_is_found_by_its_name_alone(tmp_path: Path, base: Path, version: int) -> None:
    write(tmp_path / "x.mstack", (str(base),))
    (tmp_path / "plain.mstack").mkdir()
    images = Images((tmp_path,), version)
    listed = {image.name: image for image in images.list()}
    plain = "plain" if version >= 260 else "plain.mstack"
    assert set(listed) == {"x", "base", plain, ".host"}
    for image in (listed["x"], images.find("x")):
        assert image is not None
        assert image.type is ImageType.MSTACK
        assert image.stack is not None
        assert image.stack.layers == (str(base),)
        assert not image.is_tree
    assert images.find("x.mstack") is None
    assert listed[plain].stack is None
    assert listed[plain].type is (ImageType.MSTACK if version >= 260 else ImageType.DIRECTORY)
