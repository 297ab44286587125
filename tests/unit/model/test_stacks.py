# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layered images on disk: what is one, what is not, and under which name it is found."""

from __future__ import annotations

import shutil
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
    found = stacks.read(str(tmp_path / "x.mstack"), [tmp_path])
    assert found is not None
    assert found.layers == (str(other), str(base))
    assert Path(found.written).is_dir()
    assert Path(found.writable, "work").is_dir()
    assert (tmp_path / "x.mstack/layer@0").readlink() == Path("../base")


def test_the_layers_are_in_the_order_of_versions(tmp_path: Path) -> None:
    stack = tmp_path / "x.mstack"
    stack.mkdir()
    mstack.make_writable(str(stack / "rw"), str(tmp_path))
    for number in (1, 2, 10):
        (stack / f"layer@{number}").mkdir()
    found = stacks.read(str(stack), [tmp_path])
    assert found is not None
    assert found.layers == tuple(str(stack / f"layer@{number}") for number in (10, 2, 1))


@pytest.mark.parametrize("entry", ["bind@srv", "root", "layer@9.raw", "note"])
def test_what_has_more_in_it_is_not_ours(tmp_path: Path, base: Path, entry: str) -> None:
    write(tmp_path / "x.mstack", (str(base),))
    if entry.endswith(".raw"):
        (tmp_path / "x.mstack" / entry).touch()
    else:
        (tmp_path / "x.mstack" / entry).mkdir()
    assert stacks.read(str(tmp_path / "x.mstack"), [tmp_path]) is None


def test_what_lacks_a_layer_is_still_one(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "x.mstack", (str(base),))
    base.rmdir()
    found = stacks.read(str(tmp_path / "x.mstack"), [tmp_path])
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


def test_the_pool_may_be_a_link(tmp_path: Path) -> None:
    """To a directory that is deeper, so that a relative link counts from there."""
    real = tmp_path / "srv/a/b/machines"
    (real / "base").mkdir(parents=True)
    pool = tmp_path / "pool"
    pool.symlink_to(real)
    partial = pool / ".#machined-0123456789abcdef"
    mstack.write(str(partial), [str(real / "base")], beside=str(pool / "x.mstack"))
    mstack.make_writable(str(partial / "rw"), str(pool / "base"))
    partial.rename(pool / "x.mstack")
    assert (real / "x.mstack/layer@0").readlink() == Path("../base")
    found = stacks.read(str(pool / "x.mstack"), [pool])
    assert found is not None
    assert found.layers == (str(real / "base"),)


def hostile(stack: Path, outside: Path, what: str) -> None:
    """Make something of a good stack that leads out of the pool."""
    if what.startswith("layer"):
        goal = {
            "layer-etc": outside,
            "layer-inside": outside.parent / "pool/base/etc",
            "layer-root": Path("/"),
        }
        (stack / "layer@1").symlink_to(goal[what])
        return
    place = {"rw": "rw", "data": "rw/data", "work": "rw/work", "note": ".flattened"}[what]
    if (stack / place).exists():
        (stack / place).rename(stack.parent / what)
    (stack / place).symlink_to(outside)


@pytest.mark.parametrize("version", [257, 262])
@pytest.mark.parametrize("what", ["layer-etc", "layer-inside", "layer-root", "rw", "data", "work", "note"])
def test_an_archive_of_somebody_is_no_layered_image(tmp_path: Path, what: str, version: int) -> None:
    pool, outside = tmp_path / "pool", tmp_path / "outside"
    (pool / "base/etc").mkdir(parents=True)
    outside.mkdir()
    for name in ("data", "work"):
        (outside / name).mkdir()
    write(pool / "x.mstack", (str(pool / "base"),))
    images = Images((pool,), version)
    image = images.find("x")
    assert image is not None
    assert image.stack is not None
    hostile(pool / "x.mstack", outside, what)
    assert stacks.read(str(pool / "x.mstack"), [pool]) is None
    for image in images.list():
        assert image.stack is None


def test_trees_that_are_elsewhere(tmp_path: Path) -> None:
    """An image may be a link; and one of several versions."""
    pool, elsewhere = tmp_path / "pool", tmp_path / "srv/tree"
    elsewhere.mkdir(parents=True)
    (pool / "many.v/many_1").mkdir(parents=True)
    for tree in (elsewhere, pool / "many.v/many_1"):
        write(pool / "x.mstack", (str(tree),))
        read = stacks.read(str(pool / "x.mstack"), [pool])
        assert (read is not None) == (tree != elsewhere)
        (pool / "link").symlink_to(tree)
        read = stacks.read(str(pool / "x.mstack"), [pool])
        assert read is not None
        assert read.layers == (str(tree),)
        (pool / "link").unlink()
        shutil.rmtree(pool / "x.mstack")


@pytest.mark.parametrize("name", ["..", ".#machined-0123456789abcdef"])
def test_what_is_no_tree_of_an_image(tmp_path: Path, name: str) -> None:
    assert stacks.is_tree_of_image(str(tmp_path / "web"), [tmp_path])
    assert not stacks.is_tree_of_image(str(tmp_path / name), [tmp_path])
    assert not stacks.is_tree_of_image("/", [tmp_path])
