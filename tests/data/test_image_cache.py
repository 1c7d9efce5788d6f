"""The cache of decoded images: the same tensors as decoding, never those of another file."""

import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Called
from helpers.killed import measured
from helpers.problems import about, problem_of
from runner.data import image_cache, image_files
from runner.data.image_cache import HIDDEN, ImageCache
from runner.data.image_file import read_image
from runner.data.image_files import ImageFiles
from runner.data.image_folder import image_folder


@pytest.fixture(autouse=True)
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the tests are new, and the user's cache is another folder."""
    monkeypatch.setattr(image_cache, "RECENT_SECONDS", 0.0)
    monkeypatch.setattr(image_cache, "USERS", tmp_path / "home")


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(20):
        write(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png", number)
    return tmp_path / "photos"


def cached(photos: Path, required: bool = False, size: int = 8) -> ImageFiles:
    images = image_folder(photos, size=size, test_fraction=0, cache=required or "auto").train
    assert isinstance(images, ImageFiles)
    images.prepare_epochs()
    return images


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    names: list[str] = []

    def noting(path: Path, *arguments: Any) -> Any:
        names.append(path.name)
        return read_image(path, *arguments)

    monkeypatch.setattr(image_files, "read_image", noting)
    return names


def everything(images: ImageFiles) -> list[tuple[torch.Tensor, int]]:
    return [images[index] for index in range(len(images))]


def same(one: list[Any], other: list[Any]) -> bool:
    return all(torch.equal(a, b) and c == d for (a, c), (b, d) in zip(one, other, strict=True))


def test_the_second_epoch_decodes_nothing_nor_does_the_next_run(photos: Path, decoded: list[str]) -> None:
    plain = image_folder(photos, size=8, test_fraction=0, cache=False).train
    expected = everything(plain)
    assert not (photos / HIDDEN).exists()
    images = cached(photos)
    decoded.clear()
    assert same(everything(images), expected) and len(decoded) == 20
    assert same(images.__getitems__(range(20)), expected) and len(decoded) == 20
    again = cached(photos)
    decoded.clear()
    assert same(everything(again), expected) and decoded == []
    assert same(everything(pickle.loads(pickle.dumps(again))), expected) and decoded == []
    image, _ = again[0]
    image.zero_()
    assert same(everything(again), expected), "what a user changes is a copy"


def test_a_file_that_has_changed_is_decoded_again(photos: Path, decoded: list[str]) -> None:
    everything(images := cached(photos))
    first, second, third = (photos / images.names[index] for index in range(3))
    times = first.stat()
    write(first, 100)
    first.write_bytes(first.read_bytes().ljust(times.st_size + 9, b"\0"))
    os.truncate(first, times.st_size + 9)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` and archives do
    shutil.copy2(photos / images.names[5], second.with_suffix(".new"))
    second.with_suffix(".new").replace(second)
    data = third.read_bytes()
    write(third, 101)
    changed = third.read_bytes()
    size = max(len(data), len(changed))
    third.write_bytes(changed.ljust(size, b"\0"))
    decoded.clear()
    read = everything(images)
    assert sorted(decoded) == sorted(path.name for path in (first, second, third))
    assert same(read, everything(image_folder(photos, size=8, test_fraction=0, cache=False).train))
    decoded.clear()
    assert same(everything(images), read) and decoded == []


def test_a_file_that_was_just_written_is_not_kept(
    photos: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "RECENT_SECONDS", 3600)
    everything(images := cached(photos))
    decoded.clear()
    everything(images)
    assert len(decoded) == 20


def test_a_file_that_changes_while_it_is_decoded_is_not_kept(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(path: Path, *arguments: Any) -> Any:
        image = read_image(path, *arguments)
        write(path, 200)
        return image

    images = cached(photos)
    monkeypatch.setattr(image_files, "read_image", changed)
    images[0]
    monkeypatch.setattr(image_files, "read_image", read_image)
    assert torch.equal(images[0][0], read_image(photos / images.names[0], 8, 3))


@pytest.mark.parametrize("damage", ["pixels", "records", "both", "gone", "short"])
def test_damage_is_noticed(photos: Path, damage: str) -> None:
    expected = everything(cached(photos))
    (folder,) = (photos / HIDDEN).iterdir()
    for name in ("pixels", "records"):
        path = folder / name
        if damage in (name, "both"):
            data = bytearray(path.read_bytes())
            data[40:300] = bytes(260)  # as after a power failure
            path.write_bytes(data)
    if damage == "gone":
        shutil.rmtree(folder)
    if damage == "short":
        os.truncate(folder / "records", 5)
    assert same(everything(cached(photos)), expected)


def test_what_decodes_otherwise_has_a_cache_of_its_own(photos: Path) -> None:
    everything(cached(photos))
    everything(cached(photos, size=9))
    assert cached(photos)[0][0].shape == (3, 8, 8) and cached(photos, size=9)[0][0].shape == (3, 9, 9)
    assert len(list((photos / HIDDEN).iterdir())) == 2
    write(photos / "a" / "more.png", 7)
    old = next(iter((photos / HIDDEN).iterdir()))
    for folder in (photos / HIDDEN).iterdir():
        os.utime(folder, (0, 0))
    everything(images := cached(photos, size=8))
    assert len(images) == 21 and len(list((photos / HIDDEN).iterdir())) == 2, "the old list of size 8 is gone"
    assert old.parent == photos / HIDDEN


def test_parts_that_are_divided_otherwise_share_it(photos: Path, decoded: list[str]) -> None:
    everything(cached(photos))
    source = image_folder(photos, size=8, test_fraction=0.3, cache=True)
    decoded.clear()
    assert len(everything(source.train)) + len(everything(source.test)) == 20 and decoded == []


def test_a_folder_that_cannot_be_written_has_it_in_the_users_cache(
    photos: Path, tmp_path: Path, decoded: list[str]
) -> None:
    (photos / HIDDEN).write_text("a file where the folder would be")
    expected = everything(images := cached(photos))
    decoded.clear()
    assert same(everything(images), expected) and decoded == []
    assert images.cache is not None and images.cache.folder is not None
    assert images.cache.folder.is_relative_to(tmp_path / "home")


def test_without_room_there_is_none(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(photos)._replace(free=4000)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: full)
    images = cached(photos)
    assert images.cache is not None and images.cache.folder is None and len(everything(images)) == 20
    problem = problem_of(lambda: image_folder(photos, size=8, cache=True))
    assert about([problem]) == [("data.cache", "unavailable")] and "write data.cache=auto" in problem.suggestion


def _read_all(photos: Path) -> list[int]:
    image_cache.RECENT_SECONDS = 0.0
    cache = ImageCache(photos, sorted(str(path.relative_to(photos)) for path in photos.glob("*/*.png")), 8, 3, None)
    cache.open(required=True)
    order = np.random.default_rng(os.getpid()).permutation(len(cache.names))
    found = {name: cache.read(name, lambda name=name: read_image(photos / name, 8)) for name in
             (cache.names[index] for index in order)}  # fmt: skip
    return [int(found[name].sum()) for name in cache.names]


def test_several_processes_fill_it_at_once(photos: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        results = list(pool.map(_read_all, [photos] * 3))
    assert results[0] == results[1] == results[2]
    assert len(list((photos / HIDDEN).iterdir())) == 1


def test_a_run_with_workers_is_the_same_with_and_without(
    photos: Path, runner: Callable[..., Called], here: Path
) -> None:
    arguments = (
        "data=image_folder", f"data.path={photos}", "data.size=8", "data.in_memory=false", "trainer.epochs=2",
        "data.batch_size=4", "model.hidden=[4]", "device.threads=1", "tracking=off", "data.scale=255",
        "data.augment.flip=true",
    )  # fmt: skip
    found = {}
    for cache, workers in (("false", 0), ("auto", 2), ("true", 0)):
        called = runner(*arguments, f"data.cache={cache}", f"data.num_workers={workers}", f"hydra.run.dir={cache}")
        assert called.code == 0, called.err
        assert ("decoded images stay in" in called.err) == (cache != "false")
        found[cache] = measured(here / cache)
    assert found["false"] == found["auto"] == found["true"]
