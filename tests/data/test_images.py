"""Data sets of images: `fashion_mnist`, `cifar10` and `image_folder`, on files that the tests make."""

import gc
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import all_missing, dead_url, make_mirror, small_mnist, write
from torch.utils.data import DataLoader

from conftest import Called, run_folder
from helpers.composed import accuracy, trained
from helpers.problems import about, problem_of, problems_of
from helpers.training import loaders, same
from runner.assembly import checks
from runner.data.cifar10 import CLASSES, FOLDER, TEST_FILE, TRAIN_FILES, cifar10
from runner.data.fashion_mnist import CLASSES as FASHION_CLASSES
from runner.data.fashion_mnist import fashion_mnist
from runner.data.fetch import fetch
from runner.data.image_file import ImageError, read_image
from runner.data.image_files import ImageFiles
from runner.data.image_folder import image_folder
from runner.data.mnist import mnist
from runner.data.published import published
from runner.data.source import Source
from runner.data.splitting import split
from runner.errors import ConfigError, TrainingError
from runner.loss import CrossEntropy

__all__ = ["make_mirror"]  # a fixture

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


# --- fashion_mnist ---


@pytest.mark.parametrize(("folder", "packed"), [("FashionMNIST/raw", False), (".", True)])
def test_fashion_mnist_uses_either_layout(tmp_path: Path, folder: str, packed: bool) -> None:
    write(tmp_path / folder, small_mnist(), packed)
    source = fashion_mnist(tmp_path)
    assert source.train[0].shape == (12, 1, 28, 28) and source.train[0].dtype == torch.uint8
    assert source.test[1].tolist() == [0, 1, 2, 3, 4]
    assert source.classes[0] == "T-shirt/top" and len(source.classes) == 10
    assert (source.mean, source.std, source.name) == (0.2860, 0.3530, "fashion_mnist")


def test_fashion_mnist_classes_are_torchvisions() -> None:
    assert published("mnist", "FashionMNIST")["classes"] == list(FASHION_CLASSES)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_folder_of_debians_package() -> None:
    source = fashion_mnist(DEBIAN)
    images = source.train[0].double() / 255
    assert len(images) == 60_000 and source.origin == str(DEBIAN)
    assert source.mean == pytest.approx(images.mean().item(), abs=5e-5)
    assert source.std == pytest.approx(images.std(correction=0).item(), abs=5e-5)
    problem = problem_of(lambda: mnist(DEBIAN))
    assert about([problem]) == [("data.root", "data")] and "FashionMNIST" in problem.text


def test_fashion_mnist_trains(here: Path) -> None:
    files = small_mnist(train=200, test=40)
    images = striped(np.arange(200) % 10, 28)
    files["train-images-idx3-ubyte"] = files["train-images-idx3-ubyte"][:16] + images.tobytes()
    write(here / "data/FashionMNIST/raw", files, packed=True)
    assert accuracy(trained(here, "data=fashion_mnist", "trainer.epochs=3", "optimizer=adamw")) > 0.5


def striped(labels: Any, side: int) -> np.ndarray:
    """Noise (N, side, side) with two light rows, whose place is the class."""
    images = np.random.RandomState(0).randint(0, 60, (len(labels), side, side)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 180
    return images


# --- cifar10 ---


def small_cifar(samples: int = 8) -> dict[str, Any]:
    """The contents of the six files, with few images, whose class can be seen."""
    random = np.random.RandomState(0)
    contents = {}
    for name in (*TRAIN_FILES, TEST_FILE):
        labels = random.randint(0, 10, samples).tolist()
        pixels = np.tile(striped(labels, 32).reshape(samples, -1), 3) + random.randint(9, size=(samples, 3072))
        pixels = pixels.astype(np.uint8)
        contents[name] = {"data": pixels, "labels": labels, "batch_label": name, "filenames": ["x.png"] * samples}
    return contents


def pickled(contents: dict[str, Any], protocol: int = 2) -> dict[str, bytes]:
    return {name: pickle.dumps(content, protocol) for name, content in contents.items()}


@pytest.mark.parametrize("protocol", range(6))
def test_cifar10_reads_torchvisions_layout(tmp_path: Path, protocol: int) -> None:
    contents = small_cifar()
    write(tmp_path / FOLDER, pickled(contents, protocol))
    source = cifar10(tmp_path)
    images, labels = source.train
    assert images.shape == (40, 3, 32, 32) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    third = contents["data_batch_3"]
    np.testing.assert_array_equal(images[16:24].flatten(1), third["data"])
    assert labels[16:24].tolist() == third["labels"]
    # The 3,072 values are 1,024 of red, then of green, then of blue, row by row.
    assert images[16, 2, 1, 5] == third["data"][0, 2 * 1024 + 32 + 5]
    assert source.test[1].tolist() == contents[TEST_FILE]["labels"]
    assert source.classes == list(CLASSES) and len(source.mean) == len(source.std) == 3
    assert cifar10(tmp_path / FOLDER).origin == source.origin


def test_cifar10_reads_what_python_2_wrote(tmp_path: Path) -> None:
    # As in the original: numpy's old module names, and the bytes of the array as a Python 2 string.
    contents = small_cifar(2)
    for name, content in contents.items():
        pixels = content["data"]
        text = pickle.dumps({"labels": content["labels"]}, 2)[:-2]  # up to the key's value
        array = (
            b"U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01"
            + b"(K\x02M\x00\x0ctcnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
            + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            + b"\x89T"
            + len(pixels.tobytes()).to_bytes(4, "little")
            + pixels.tobytes()
            + b"tbs."
        )
        (tmp_path / name).write_bytes(text + b"s" + array)
    source = cifar10(tmp_path)
    np.testing.assert_array_equal(source.train[0][2:4].flatten(1), contents["data_batch_2"]["data"])


class Payload:
    """Pickles into a call, as an attacker's file would."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("the-payload-ran",))


@pytest.mark.parametrize(
    ("damage", "shown"),
    [
        (lambda content, whole: whole[: len(whole) // 2], ""),
        (lambda content, whole: b"", ""),
        (lambda content, whole: b"<html>not found</html>", ""),
        (lambda content, whole: pickle.dumps(content | {"more": Payload()}), ".mkdir"),
    ],
)
def test_cifar10_names_a_damaged_file_and_runs_nothing_in_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[..., bytes], shown: str
) -> None:
    offline(monkeypatch)
    contents = small_cifar()
    files = pickled(contents)
    files["data_batch_2"] = damage(contents["data_batch_2"], files["data_batch_2"])
    write(here / "data" / FOLDER, files)
    problem = problem_of(lambda: cifar10(here / "data"))
    assert about([problem]) == [("data.root", "unavailable")]
    assert f"{FOLDER}/data_batch_2 (damaged" in problem.text and shown in problem.text
    assert "data_batch_1" not in problem.text
    for way in (f"cifar-10-python.tar.gz into {here / 'data'}", "data.root=", "data=digits"):
        assert way in problem.suggestion
    assert not (here / "the-payload-ran").exists()
    assert (here / "data" / FOLDER / "data_batch_2").read_bytes() == files["data_batch_2"]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"labels": [10] * 8}, "10 to 10"),
        ({"labels": [1] * 7}, "8 images"),
        ({"labels": ["cat"] * 8}, "8 images"),
        ({"data": np.zeros((8, 3000), np.uint8)}, "3072"),
        ({"data": [1, 2]}, "3072"),
    ],
)
def test_cifar10_refuses_files_that_hold_something_else_and_keeps_them(
    tmp_path: Path, change: dict[str, Any], shown: str
) -> None:
    contents = small_cifar()
    contents[TEST_FILE] |= change
    write(tmp_path / FOLDER, pickled(contents))
    problem = problem_of(lambda: cifar10(tmp_path))
    assert about([problem]) == [("data.root", "data")] and "data.root=" in problem.suggestion
    assert shown in problem.text and str(tmp_path / FOLDER / TEST_FILE) in problem.text
    (tmp_path / FOLDER / TEST_FILE).write_bytes(pickle.dumps([1, 2]))
    problem = problem_of(lambda: cifar10(tmp_path))
    assert about([problem]) == [("data.root", "data")] and str(tmp_path / FOLDER / TEST_FILE) in problem.text


def archive_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in {**files, "readme.html": b"<html>"}.items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def offline(monkeypatch: pytest.MonkeyPatch, mirror: str | None = None, archive: bytes = b"") -> None:
    """Let torchvision's own list point at a server of the test, or at nothing."""
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{mirror or dead_url()}cifar-10-python.tar.gz")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(archive).hexdigest())


def test_cifar10_takes_what_is_missing_out_of_the_archive_and_nothing_else(
    tmp_path: Path, make_mirror: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, own = pickled(small_cifar()), pickled(small_cifar(5))
    archive = archive_of(original)
    mirror = make_mirror({"cifar-10-python.tar.gz": archive})
    offline(monkeypatch, mirror.url, archive)
    del own["data_batch_4"]
    own[TEST_FILE] = own[TEST_FILE][:100]
    folder = write(tmp_path / FOLDER, own)
    source = cifar10(tmp_path)
    assert len(source.train[0]) == 4 * 5 + 8 and len(source.test[0]) == 8
    assert sorted(path.name for path in folder.iterdir()) == sorted(original)
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]
    assert mirror.requests == ["cifar-10-python.tar.gz"]
    cifar10(tmp_path)
    assert len(mirror.requests) == 1  # what is there is not asked for again


def test_cifar10_unpacks_an_archive_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_of(pickled(small_cifar()))
    offline(monkeypatch, archive=archive)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    assert len(cifar10(tmp_path).train[0]) == 40
    assert (tmp_path / "cifar-10-python.tar.gz").read_bytes() == archive
    # Another archive of that name is not trusted.
    other = tmp_path / "other"
    other.mkdir()
    (other / "cifar-10-python.tar.gz").write_bytes(archive + b"?")
    assert about([problem_of(lambda: cifar10(other))]) == [("data.root", "unavailable")]


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    archive = archive_of({**pickled(small_cifar()), "../../outside": b"!", "../../../outside": b"!"})
    offline(monkeypatch, archive=archive)
    (root / "cifar-10-python.tar.gz").write_bytes(archive)
    cifar10(root)
    assert {path.name for path in root.iterdir()} == {"cifar-10-python.tar.gz", FOLDER}
    assert not list(tmp_path.rglob("outside"))


def test_cifar10_verifies_the_archive(
    tmp_path: Path, make_mirror: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(pickled(small_cifar()))
    offline(monkeypatch, make_mirror({"cifar-10-python.tar.gz": archive[:-1] + b"?"}).url, archive)
    assert "MD5" in problem_of(lambda: cifar10(tmp_path / "data")).text
    assert not (tmp_path / "data").exists()


def test_cifar10_trains(here: Path) -> None:
    write(here / "data" / FOLDER, pickled(small_cifar(40)))
    assert accuracy(trained(here, "data=cifar10", "trainer.epochs=3", "optimizer=adamw")) > 0.5


# --- what a download that came to nothing leaves ---


def test_offline_the_errors_are_alike_and_nothing_is_left(
    here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    offline(monkeypatch)
    for layout in ("MNIST", "FashionMNIST"):
        monkeypatch.setattr(getattr(torchvision.datasets, layout), "mirrors", [dead_url()])
    for name in ("mnist", "fashion_mnist", "cifar10"):
        called = runner("tracking=off", f"data={name}")
        assert called.code == 2 and len(called.errors) == 1, called.err
        assert called.about == [("data.root", "unavailable")] and "Connection refused" in called.errors[0]
        assert "data.root=<another folder>" in called.err and "data=digits" in called.err
        assert list(here.iterdir()) == []


def test_what_was_there_before_a_failed_download_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "there"
    kept.mkdir()
    folder = kept / "MNIST/raw"
    with pytest.raises(ConfigError):
        fetch(lambda: all_missing(folder), folder, [dead_url()], dict.fromkeys(all_missing(folder), ""))
    assert kept.is_dir() and list(kept.iterdir()) == []


def test_those_that_wait_for_one_that_fails_take_over(tmp_path: Path, make_mirror: Callable[..., Any]) -> None:
    """Each finds the lock's file, or the folder, gone under its hands; one after the other, all come to an end."""
    mirror = make_mirror({})
    mirror.delay = 0.2
    folder = tmp_path / "MNIST/raw"

    def attempt(_: int) -> str:
        # A lock is one open file's, so two threads exclude each other as two processes do.
        return problem_of(lambda: fetch(lambda: all_missing(folder), folder, [mirror.url], checksums)).text

    checksums = dict.fromkeys(all_missing(folder), "")
    with ThreadPoolExecutor(5) as pool:
        start = time.monotonic()
        answers = list(pool.map(attempt, range(5)))
    assert all("404" in answer for answer in answers)
    assert len(mirror.requests) == 5
    assert time.monotonic() - start >= 5 * mirror.delay  # never two at once
    assert not list(folder.glob("*"))


def test_nobody_imports_torchvision_to_find_that_there_is_no_network(tmp_path: Path) -> None:
    code = (
        "import sys; from runner.data.published import published\n"
        "print(published('cifar', 'CIFAR10')['tgz_md5'], published('mnist', 'MNIST')['mirrors'][0])\n"
        "print('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import torchvision.datasets as theirs

    words = done.stdout.split()
    assert words == [theirs.CIFAR10.tgz_md5, theirs.MNIST.mirrors[0], "False"]


# --- image_folder ---


def picture(colour: tuple[int, int, int] = (200, 30, 90), width: int = 20, height: int = 16) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def photos(folder: Path, count: int = 6, suffix: str = ".png", **colours: tuple[int, int, int]) -> Path:
    """Folders of images that a straight line can tell apart."""
    random = np.random.RandomState(0)
    for label, colour in (colours or {"cat": (200, 40, 40), "dog": (40, 40, 200)}).items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.array(colour) + random.randint(-40, 40, (16, 20, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}{suffix}")
    return folder


def test_folders_are_classes_and_a_fifth_is_the_test_part(tmp_path: Path) -> None:
    photos(tmp_path / "p", 10)
    source = image_folder(tmp_path / "p", size=8)
    assert source.classes == ["cat", "dog"] and source.origin == str(tmp_path / "p")
    assert (len(source.train), len(source.test)) == (16, 4)
    names = source.train.names + source.test.names
    assert sorted(names) == sorted(f"{label}/{number}.png" for label in ("cat", "dog") for number in range(10))
    image, label = source.train[0]
    assert image.shape == (3, 8, 8) and image.dtype == torch.uint8 and label == 0
    assert [source.train[i][1] for i in range(16)] == source.train.targets
    np.random.seed(7)
    assert image_folder(tmp_path / "p", size=8).test.names == source.test.names
    assert image_folder(tmp_path / "p", test_fraction=0).test is None
    assert len(image_folder(tmp_path / "p", test_fraction=0.5).test) == 10
    assert (source.mean, source.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("other", ["test", "Testing", "EVAL"])
def test_train_and_test_folders_are_the_parts(tmp_path: Path, train: str, other: str) -> None:
    photos(tmp_path / train, 5)
    photos(tmp_path / other, 2, dog=(0, 0, 200))
    source = image_folder(tmp_path)
    assert (len(source.train), len(source.test)) == (10, 2) and source.val is None
    assert source.test.targets == [1, 1]  # as the training part counts them
    assert source.notes == [f"{train}/ trains, {other}/ tests", "2 classes (cat, dog)"]
    problem = problem_of(lambda: image_folder(tmp_path, test_fraction=0.3))
    assert about([problem]) == [("data.test_fraction", "conflict")] and str(tmp_path / other) in problem.text


@pytest.mark.parametrize("part", ["val", "test"])
def test_an_error_of_another_part_names_its_key(part: str, tmp_path: Path) -> None:
    photos(tmp_path / "train", 5)
    photos(tmp_path / part / "inner", 2)
    keys = {f"{part}_path": tmp_path / part}
    problem = problem_of(lambda: image_folder(tmp_path / "train", **keys))
    assert about([problem]) == [(f"data.{part}_path", "data")] and "data.path" not in str(problem)
    assert problem.suggestion == f"write data.{part}_path={tmp_path}/{part}/inner"
    photos(tmp_path / "birds", 2, owl=(0, 0, 200))
    problem = problem_of(lambda: image_folder(tmp_path / "train", **{f"{part}_path": tmp_path / "birds"}))
    assert about([problem]) == [(f"data.{part}_path", "data")] and problem.text.endswith(": owl")
    (tmp_path / part / "inner").rename(tmp_path / "moved")
    damaged = photos(tmp_path / "damaged", 2) / "cat" / "0.png"
    damaged.write_bytes(b"x")
    problem = problem_of(lambda: image_folder(tmp_path / "train", **{f"{part}_path": tmp_path / "damaged"}))
    assert about([problem]) == [(f"data.{part}_path", "file")] and str(damaged) in problem.text


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "dev"])
def test_a_validation_folder_validates_and_there_is_no_test_part(tmp_path: Path, name: str) -> None:
    photos(tmp_path / "train", 5)
    photos(tmp_path / name, 2)
    source = image_folder(tmp_path)
    assert (len(source.train), len(source.val), source.test) == (10, 4, None)
    assert source.notes[0] == f"train/ trains, {name}/ validates, no test part"
    held_out = image_folder(tmp_path, test_fraction=0.2)
    assert [len(part) for part in (held_out.train, held_out.val, held_out.test)] == [8, 4, 2]
    assert held_out.notes[0] == f"train/ trains, {name}/ validates, a share of train/ tests"
    splits = split(source, val_fraction=None, limit=3, seed=0)
    assert [len(part) for part in (splits.train, splits.val)] == [3, 3]


def test_with_all_three_each_is_what_it_says(tmp_path: Path) -> None:
    for name, count in (("train", 5), ("test", 3), ("val", 4)):
        photos(tmp_path / name, count)
    source = image_folder(tmp_path)
    assert [len(part) for part in (source.train, source.val, source.test)] == [10, 8, 6]
    old = image_folder(tmp_path, old_rules=True)  # which held its validation samples out of the training part
    assert [len(part) for part in (old.train, old.test)] == [10, 6] and old.val is None
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    assert len(image_folder(tmp_path, old_rules=True).test) == 8  # `val` was the test part


def test_parts_may_be_named_by_keys(tmp_path: Path) -> None:
    for name, count in (("a", 5), ("b", 3), ("c", 4)):
        photos(tmp_path / name, count)
    source = image_folder(tmp_path / "a", val_path=tmp_path / "b", test_path=tmp_path / "c")
    assert [len(part) for part in (source.train, source.val, source.test)] == [10, 6, 8]
    held_out = image_folder(tmp_path / "a", val_path=tmp_path / "b")
    assert [len(part) for part in (held_out.train, held_out.val, held_out.test)] == [8, 6, 2]
    photos(tmp_path / "all/train", 5)
    photos(tmp_path / "all/val", 1)
    problem = problem_of(lambda: image_folder(tmp_path / "all", val_path=tmp_path / "b"))
    assert about([problem]) == [("data.val_path", "conflict")] and "data.val_path=null" in problem.suggestion


@pytest.mark.parametrize(
    ("folders", "key", "shown"),
    [
        (("train", "Train"), "data.path", "Train/ and train/"),
        (("train", "val", "valid"), "data.path", "val/ and valid/"),
        (("train", "test", "eval", "x"), "data.path", "eval/ and test/"),
        (("train", "extra"), "data.path", "train/ beside extra/"),
        (("valid", "test"), "data.path", "test/ and valid/, but no train/"),
        (("training_set", "test_set"), "data.classes", "test_set/ and training_set/"),
        (("train2017", "val2017"), "data.classes", "train2017/ and val2017/"),
        (("tr", "te"), "data.classes", "te/ and tr/"),
        (("a", "b", "c"), "data.classes", "a/, b/ and c/"),
        (("data",), "data.path", "data/, with cat/ and dog/"),
        (("train/train",), "data.path", "train/, with cat/ and dog/"),
        (("data/train", "data/test"), "data.path", "data/, with test/ and train/"),
    ],
)
def test_folders_that_may_be_parts_or_classes_are_refused(
    tmp_path: Path, folders: tuple[str, ...], key: str, shown: str
) -> None:
    for name in folders:
        photos(tmp_path / name, 1)
    problem = problem_of(lambda: image_folder(tmp_path))
    assert about([problem]) == [(key, "data")] and shown in problem.text
    if key == "data.classes":  # what it suggests
        assert f"data.classes=[{','.join(sorted(folders))}]" in problem.suggestion
        assert image_folder(tmp_path, classes=sorted(folders)).classes == sorted(folders)
    elif "with" in shown:
        assert problem.suggestion == f"write data.path={tmp_path / folders[0].split('/')[0]}" + (
            "/train" if folders == ("train/train",) else ""
        )


@pytest.mark.parametrize("pair", [("images", "labels"), ("Img", "Masks"), ("imgs", "annotations", "other")])
@pytest.mark.parametrize("below", [".", "train"])
def test_images_and_their_answers_are_not_taken_for_classes(tmp_path: Path, pair: tuple[str, ...], below: str) -> None:
    photos(tmp_path / below, 2, **dict.fromkeys(pair, (9, 99, 200)))
    problem = problem_of(lambda: image_folder(tmp_path))
    assert about([problem]) == [("data.classes", "data")] and all(f"{name}/" in problem.text for name in pair[:2])
    assert f"write data.classes=[{','.join(sorted(pair))}]" in problem.suggestion
    assert image_folder(tmp_path, classes=list(pair)).classes == list(pair)


def test_labels_in_text_beside_images_are_no_class_without_images(tmp_path: Path) -> None:
    photos(tmp_path, 2, images=(9, 99, 200))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/0.txt").write_text("0 0.5 0.5 1 1")
    problem = problem_of(lambda: image_folder(tmp_path))
    assert about([problem]) == [("data.classes", "data")] and "images/ and labels/" in problem.text


def test_what_programs_leave_in_a_folder_is_left_out_and_said(tmp_path: Path) -> None:
    folder = photos(tmp_path / "p", 2)
    for name in ("__MACOSX/cat", ".ipynb_checkpoints", "@eaDir", "cat/@eaDir/0.png", "dog/.thumbnails", "$RECYCLE.BIN"):
        (folder / name).mkdir(parents=True)
        picture().save(folder / name / "x.png")
    for name in ("Thumbs.db", "cat/Thumbs.db", "cat/.DS_Store", "cat/._0.png", "dog/film.gif", "dog/notes.txt"):
        (folder / name).write_text("x")
    picture().save(folder / "stray.png")
    os.mkfifo(folder / "dog/pipe.png")
    (folder / "dog/zero.png").symlink_to("/dev/zero")
    source = image_folder(folder, test_fraction=0)
    assert source.classes == ["cat", "dog"] and names(source) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert source.notes[1:] == [
        "2 classes (cat, dog)",
        "1 hidden image left out",
        "1 image outside of the classes left out",
        "5 files of other kinds (no regular file, .db, .gif, .txt) left out",
        "$RECYCLE.BIN/, .ipynb_checkpoints/, @eaDir/, __MACOSX/, cat/@eaDir/ and 1 more left out",
    ]
    (folder / "@eaDir").rename(folder / "train")  # a class, as its images lie directly in it
    assert image_folder(folder).classes == ["cat", "dog", "train"]


def test_parts_are_found_beside_what_programs_leave(tmp_path: Path) -> None:
    for name in ("train", "test", "__MACOSX/train"):
        photos(tmp_path / name, 2)
    source = image_folder(tmp_path)
    assert (len(source.train), len(source.test)) == (4, 4) and source.notes[0] == "train/ trains, test/ tests"


def test_classes_may_be_chosen_and_decide_a_doubt(tmp_path: Path) -> None:
    photos(tmp_path, 2, cat=(1, 99, 3), dog=(200, 2, 3), bird=(4, 5, 200))
    chosen = image_folder(tmp_path, classes=["dog", "cat"], test_fraction=0)
    assert chosen.classes == ["dog", "cat"] and names(chosen)[0] == "dog/0.png" and chosen.train.targets[0] == 0
    assert chosen.notes[-1] == "bird/ left out"
    problem = problem_of(lambda: image_folder(tmp_path, classes=["dog", "cow"]))
    assert about([problem]) == [("data.classes", "unknown")] and "bird, cat, dog" in problem.suggestion
    problem = problem_of(lambda: image_folder(tmp_path, classes=["dog", "bord"]))
    assert problem.suggestion == "write data.classes=[dog,bird]"
    for part in ("train", "val"):
        photos(tmp_path / "parts" / part, 2, cat=(1, 99, 3), dog=(200, 2, 3), bird=(4, 5, 200))
    parts = image_folder(tmp_path / "parts", classes=["dog", "cat"])
    assert parts.val.targets == [0, 0, 1, 1] and len(parts.train) == 4
    for year in ("2023", "2024"):
        photos(tmp_path / "years", 1, **{f"cat/{year}": (1, 99, 3), f"dog/{year}": (200, 2, 3)})
    assert "write data.classes=[cat,dog]" in problem_of(lambda: image_folder(tmp_path / "years")).suggestion
    assert len(image_folder(tmp_path / "years", classes=["cat", "dog"], test_fraction=0).train) == 4
    photos(tmp_path / "flat", 2, train=(1, 99, 3), test=(200, 2, 3))
    problem = problem_of(lambda: image_folder(tmp_path / "flat"))
    assert about([problem]) == [("data.classes", "data")] and "data.classes=[test,train]" in problem.suggestion
    assert image_folder(tmp_path / "flat", classes=["test", "train"]).classes == ["test", "train"]


def test_image_files_that_use_little_of_a_byte_are_not_guessed(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.fromarray(np.random.RandomState(number).randint(0, 4, (9, 9), np.uint8)).save(
                tmp_path / label / f"{number}.png"
            )
    with pytest.raises(ConfigError) as caught:
        image_folder(tmp_path, size=9)
    assert about(caught) == [("data.scale", "data")]
    assert "write data.scale=3 " in caught.value.problems[0].suggestion
    for scale, white in ((3, 255), (255, 3), ("none", 3)):  # as it says
        assert max(int(image.max()) for image, _ in image_folder(tmp_path, size=9, scale=scale).train) == white
    assert image_folder(tmp_path, size=9, old_rules=True).train is not None


def test_a_folder_of_one_class_is_no_classification(tmp_path: Path) -> None:
    photos(tmp_path, 9, cat=(90, 90, 90))
    one = split(image_folder(tmp_path, size=8), val_fraction=0, limit=None, seed=0)
    with pytest.raises(ConfigError, match=r"all 9 samples have class cat\b") as caught:
        checks.classes(CrossEntropy(), one)
    assert about(caught) == [("data", "data")]


def names(source: Source) -> list[str]:
    return [*source.train.names, *source.val.names] if source.val is not None else source.train.names


def test_a_file_is_taken_once_whatever_links_there_are(tmp_path: Path) -> None:
    folder = photos(tmp_path / "p", 3)
    plain = names(image_folder(folder, test_fraction=0))
    (folder / "cat/up").symlink_to("..")
    (folder / "cat/further").symlink_to(tmp_path)
    (folder / "dog/other").symlink_to("../cat")
    (folder / "loop").symlink_to(".")
    (folder / "cat/again.png").symlink_to("0.png")
    (folder / "cat/hard.png").hardlink_to(folder / "cat/0.png")
    source = image_folder(folder, test_fraction=0)
    assert names(source) == plain and source.classes == ["cat", "dog"]
    assert source.notes == [
        "no folders of parts", "2 classes (cat, dog)", "5 links to what is there anyway left out"
    ]  # fmt: skip


def test_links_to_images_elsewhere_are_followed_once(tmp_path: Path) -> None:
    pool = photos(tmp_path / "pool", 3)
    (pool / "cat/round").symlink_to(pool / "cat")
    for label in ("cat", "dog"):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / label).symlink_to(pool / label)
    assert names(image_folder(tmp_path / "p", test_fraction=0)) == [
        f"{c}/{n}.png" for c in ("cat", "dog") for n in range(3)
    ]
    (tmp_path / "p/bird").symlink_to(pool / "cat")
    problem = problem_of(lambda: image_folder(tmp_path / "p"))
    assert about([problem]) == [("data.path", "data")] and f"cat of {tmp_path / 'p'}" in problem.text
    (tmp_path / "p/bird").unlink()
    (tmp_path / "p/bird").mkdir()
    (tmp_path / "p/bird/x.png").symlink_to(pool / "cat/1.png")
    problem = problem_of(lambda: image_folder(tmp_path / "p"))
    assert about([problem]) == [("data.path", "data")] and "bird/x.png and cat/1.png" in problem.text


def test_what_is_hidden_or_no_image_is_passed_over_and_a_class_may_be_called_train(tmp_path: Path) -> None:
    photos(tmp_path, 3, train=(1, 2, 3), plane=(200, 200, 200))
    (tmp_path / "plane/sub").mkdir()
    picture().save(tmp_path / "plane/sub/UPPER.JPG")
    (tmp_path / "plane/notes.txt").write_text("x")
    (tmp_path / "plane/._0.png").write_text("x")
    (tmp_path / ".thumbnails").mkdir()
    source = image_folder(tmp_path, test_fraction=0)
    assert source.classes == ["plane", "train"]
    assert source.train.names[:4] == ["plane/0.png", "plane/1.png", "plane/2.png", "plane/sub/UPPER.JPG"]


def test_the_folders_mistakes(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "file").write_text("x")

    def refused(path: Path | None, **keys: Any) -> tuple[list[tuple[str, str]], str]:
        """What the problems are about, and their sentences."""
        problems = problems_of(lambda: image_folder(path, **keys))
        return about(problems), "\n".join(map(str, problems))

    assert refused(None)[0] == [("data.path", "missing")]
    assert "photos?" in refused(tmp_path / "phtos")[1]
    assert refused(tmp_path / "file")[0][0][0] == "data.path"
    (tmp_path / "photos/bird").mkdir()
    key, said = refused(tmp_path / "photos")
    assert key == [("data.path", "data")] and ": bird;" in said
    key, said = refused(tmp_path / "photos/cat")
    assert key == [("data.path", "data")] and "images lie directly in it" in said
    photos(tmp_path / "parts/train", 2)
    photos(tmp_path / "parts/test", 2, cow=(1, 1, 1))
    key, said = refused(tmp_path / "parts")
    assert key == [("data.path", "data")] and ": cow;" in said
    photos(tmp_path / "one", 1, cat=(1, 1, 1))
    key, said = refused(tmp_path / "one")
    assert key == [("data.test_fraction", "data")] and "write data.test_fraction=0" in said
    keys, said = refused(tmp_path, size=0, channels=2, test_fraction=1.0)
    assert keys == [("data.size", "range"), ("data.channels", "choice"), ("data.test_fraction", "range")]
    assert all(f"write {key}=" in said for key, _ in keys)


# --- one image ---


def test_the_shorter_side_becomes_the_size_and_the_middle_is_taken(tmp_path: Path) -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 255  # the middle square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "high.png")
    for name in ("wide.png", "high.png"):
        for size in (10, 40, 64):
            assert read_image(tmp_path / name, size).eq(255).all()


@pytest.mark.parametrize("size", [16, 100, 224])
def test_resizing_is_pillows_within_a_step(tmp_path: Path, size: int) -> None:
    random = np.random.RandomState(0)
    small = Image.fromarray(random.randint(0, 256, (12, 12, 3)).astype(np.uint8))
    image = small.resize((150, 150), Image.Resampling.BICUBIC)
    image.save(tmp_path / "x.png")
    expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).astype(int).transpose(2, 0, 1)
    assert np.abs(read_image(tmp_path / "x.png", size).numpy().astype(int) - expected).max() <= 1


def test_a_large_photograph_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    small = Image.fromarray(random.randint(0, 256, (8, 12, 3)).astype(np.uint8))
    image = small.resize((1200, 800), Image.Resampling.BICUBIC)
    image.save(tmp_path / "x.jpg", quality=95)
    image.save(tmp_path / "x.png")
    jpeg, whole = (read_image(tmp_path / name, 64).double() for name in ("x.jpg", "x.png"))
    assert (jpeg - whole).abs().mean() < 2


def test_a_photograph_stands_as_its_exif_orientation_says(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = 250  # light above
    upright = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    upright.rotate(90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright.save(tmp_path / "upright.jpg", quality=95)
    for size in (8, 64):
        turned, plain = (read_image(tmp_path / name, size).int() for name in ("turned.jpg", "upright.jpg"))
        assert (turned - plain).abs().max() < 12


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".ppm", ".tif", ".webp"])
def test_every_format_gives_colours_or_grey(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    picture((200, 30, 90)).save(file)
    assert read_image(file, 8)[:, 4, 4].tolist() == pytest.approx([200, 30, 90], abs=4)
    grey = read_image(file, 8, channels=1)
    assert grey.shape == (1, 8, 8) and int(grey[0, 4, 4]) == pytest.approx(0.299 * 200 + 0.587 * 30 + 0.114 * 90, abs=3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_8_bits_of_three_channels(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((9, 9), 128 << 8, np.uint16))
    else:
        image = Image.new("L", (9, 9), 128).convert(mode)
    file = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(file)
    pixels = read_image(file, 4)
    assert pixels.shape == (3, 4, 4)
    if mode != "1":
        assert (pixels.int() - 128).abs().max() <= 2


def deep(folder: Path, dtype: type, white: float, suffix: str = ".tif") -> Path:
    """Two classes of grey images, of which one is white in half of them."""
    for label, high in (("dark", white / 2), ("light", white)):
        (folder / label).mkdir(parents=True)
        for number in range(2):
            pixels = np.zeros((8, 8), dtype)
            pixels[:, 4:] = high
            Image.fromarray(pixels).save(folder / label / f"{number}{suffix}")
    return folder


@pytest.mark.parametrize(
    ("dtype", "white", "suffix"),
    [
        (np.uint16, 1023, ".png"), (np.uint16, 4095, ".tif"), (np.uint16, 4095, ".png"), (np.uint16, 16383, ".tif"),
        (np.uint16, 65535, ".png"), (np.int32, 255, ".tif"), (np.int32, 4095, ".tif"), (np.int32, 65535, ".tif"),
        (np.uint8, 255, ".png"),
    ],
)  # fmt: skip
def test_pixels_of_any_depth_are_scaled_by_what_they_hold(
    tmp_path: Path, dtype: type, white: float, suffix: str
) -> None:
    source = image_folder(deep(tmp_path, dtype, white, suffix), size=8, channels=1, test_fraction=0)
    dark, *_, light = (source.train[index][0] for index in range(4))
    assert light[0, 0, 7] == 255 and dark[0, 0, 7] in (127, 128) and dark[0, 0, 0] == 0
    assert any(f"hold 0 to {white:,}" in note for note in source.notes) == (dtype is not np.uint8)
    normalize = split(source, val_fraction=0, limit=None, seed=0).normalize
    assert normalize.scale == 255


def test_a_range_that_is_not_known_is_asked_for(tmp_path: Path) -> None:
    floats = deep(tmp_path / "f", np.float32, 0.5)
    problems = problems_of(lambda: image_folder(floats))
    assert about(problems) == [("data.scale", "data")] * 4
    assert all("floating-point" in problem.text and "data.scale=<" in problem.suggestion for problem in problems)
    assert image_folder(floats, size=8, scale=1, test_fraction=0).train[3][0][0, 0, 7] == 128
    problem = problems_of(lambda: image_folder(floats, scale=0.4))[0]
    assert about([problem]) == [("data.scale", "data")] and "0 to 0.5" in problem.text and "0 to 0.4" in problem.text
    large = deep(tmp_path / "i", np.int32, 100_000)
    problem = problem_of(lambda: image_folder(large))
    assert about([problem]) == [("data.scale", "data")] and problem.suggestion == "write data.scale=100000"
    assert image_folder(large, size=8, scale=100_000, test_fraction=0).train[3][0][0, 0, 7] == 255
    problem = problem_of(lambda: image_folder(large, scale="none"))
    assert about([problem]) == [("data.scale", "data")] and problem.suggestion == "write data.scale=100000"
    masks = deep(tmp_path / "m", np.uint8, 2, ".png")
    assert image_folder(masks, size=8, scale=2, test_fraction=0).train[0][0][0, 0, 7] == 128
    raw = split(image_folder(masks, size=8, scale="none", mean=0.0, std=1.0), val_fraction=0.5, limit=None, seed=0)
    assert raw.normalize(raw.train.sample(0)[0], torch.float32).max() in (1, 2)
    prints = {fingerprint(deep(tmp_path / str(s), np.uint16, 4095), scale=s, channels=1) for s in ("auto", 4095, 5000)}
    assert len(prints) == 2


def test_colours_of_16_bits_that_use_few_of_them_are_refused(tmp_path: Path) -> None:
    for value, label in ((4000, "a"), (60_000, "b")):
        pixels = b"".join(b"\0" + np.full((4, 3), value, ">u2").tobytes() for _ in range(4))
        chunks = (
            (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(pixels)),
            (b"IEND", b""),
        )
        content = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
        for name in ("x", "y"):
            (tmp_path / label / name).mkdir(parents=True)
            (tmp_path / label / name / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
    problem = problem_of(lambda: image_folder(tmp_path / "a"))
    assert about([problem]) == [("data.path", "data")] and "8 bits" in problem.suggestion
    assert "16-bit colours: the upper 8 bits" in image_folder(tmp_path / "b").notes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda whole: whole[: len(whole) // 2], "truncated"),
        (lambda whole: b"not an image at all", "not an image"),
        (lambda whole: b"", "not an image"),
        (None, "No such file"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_damaged_image_is_named_in_one_line(
    tmp_path: Path, content: Callable[[bytes], bytes] | None, words: str, suffix: str
) -> None:
    file = tmp_path / f"x{suffix}"
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content(file.read_bytes()))
    with pytest.raises(ImageError) as reason:
        read_image(file, 32)
    assert words in str(reason.value)
    images = ImageFiles(tmp_path, [(file.name, 0)], 32, 3)
    problem = images.problem(0, reason.value)
    assert about([problem]) == [("data.path", "file")]
    with pytest.raises(TrainingError) as caught:
        images[0]
    message = str(caught.value)
    assert message == str(problem) and str(file) in message and words in message and "\n" not in message


# --- damaged images in a folder ---


def test_damaged_images_are_found_before_anything_starts(tmp_path: Path) -> None:
    photos(tmp_path, 20)
    for number in range(7):
        (tmp_path / "cat" / f"{number}.png").write_bytes(b"x")
    problems = problems_of(lambda: image_folder(tmp_path))
    assert about(problems) == [("data.path", "file")] * 6
    damaged = {str(tmp_path / "cat" / f"{number}.png") for number in range(7)}
    assert len({name for name in damaged for problem in problems[:-1] if f" {name} " in problem.text}) == 5
    assert "2 more of the 40 files" in problems[-1].text


def damaged_photos(folder: Path) -> Path:
    """Many images, one of them damaged that is not among those tried first."""
    photos(folder, 70)
    source = image_folder(folder, test_fraction=0)
    tried = range(0, len(source.train), -(-len(source.train) // 64))
    damaged = folder / source.train.names[next(index for index in range(5, 20) if index not in tried)]
    damaged.write_bytes(damaged.read_bytes()[:100])
    return damaged


def test_one_that_was_not_tried_ends_the_run_in_one_line(
    here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = damaged_photos(here / "photos")
    folder = ("data=image_folder", "data.path=photos", "data.size=8", "data.test_fraction=0", "data.val_fraction=0")
    held = runner("tracking=off", *folder)
    assert held.code == 2 and len(held.errors) == 1 and str(damaged) in held.errors[0]
    assert not (here / "outputs").exists()
    for workers in (0, 1):
        called = runner(
            "tracking=off", *folder, "data.in_memory=false", f"data.num_workers={workers}", f"hydra.run.dir=r{workers}"
        )
        assert called.code == 1 and "Traceback" not in called.err
        (line,) = [line for line in called.err.splitlines() if str(damaged) in line]
        assert "truncated" in line
        assert json.loads((here / f"r{workers}/result.json").read_text())["status"] == "FAILED"


# --- the data set ---


def fingerprint(folder: Path, **arguments: Any) -> str:
    source = image_folder(folder, **({"size": 8} | arguments))
    return split(source, val_fraction=0.2, limit=None, seed=0).fingerprint


def test_one_pixel_of_any_file_changes_the_fingerprint(tmp_path: Path) -> None:
    photos(tmp_path / "a", 80)
    first = fingerprint(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint(tmp_path / "b") == first  # it doesn't matter where they are
    prints = {first, fingerprint(tmp_path / "b", size=9), fingerprint(tmp_path / "b", channels=1)}
    assert len(prints) == 3

    part = image_folder(tmp_path / "b", size=8).train
    known = {part.fingerprint()}
    for index in (1, len(part) // 2, len(part) - 1):
        file = part.folder / part.names[index]
        before, times = file.read_bytes(), file.stat()
        image = Image.open(file)
        image.putpixel((3, 3), (image.getpixel((3, 3))[0] ^ 1, 0, 0))
        image.save(file)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        known.add(part.fingerprint())
        file.write_bytes(before)
    assert len(known) == 4
    part.targets[0] = 1 - part.targets[0]
    assert part.fingerprint() not in known


def test_beyond_the_limit_name_and_length_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.data.image_files.HASHED_BYTES", 100)
    photos(tmp_path, 3, suffix=".bmp", cat=(1, 2, 3))
    first = fingerprint(tmp_path, test_fraction=0)
    file = tmp_path / "cat/2.bmp"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert fingerprint(tmp_path, test_fraction=0) == first
    file.write_bytes(file.read_bytes() + b"?")
    assert fingerprint(tmp_path, test_fraction=0) != first


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_of_either_kind_can_load_it(tmp_path: Path, method: str) -> None:
    photos(tmp_path, 4)
    part = image_folder(tmp_path, size=8, test_fraction=0).train
    loaded = DataLoader(part, batch_size=8, num_workers=1, multiprocessing_context=method)
    (batch,) = list(loaded)
    assert torch.equal(batch[0], torch.stack([image for image, _ in part])) and batch[1].tolist() == part.targets


def test_threads_load_what_one_after_the_other_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = image_folder(photos(tmp_path, 4), size=8, test_fraction=0).train
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    together = part.__getitems__([5, 1, 3])
    assert same(together, [part[5], part[1], part[3]])


def batches(source: Source, in_memory: bool, num_workers: int = 0, channels_last: bool = False) -> Any:
    splits = split(source, val_fraction=0.25, limit=None, seed=0)
    made = loaders(splits, batch_size=5, in_memory=in_memory, num_workers=num_workers, channels_last=channels_last)
    return made, [list(part.epoch(1)) for part in (made.train, made.val, made.test)]


def test_in_memory_images_stay_bytes_and_give_the_same_batches(tmp_path: Path) -> None:
    source = image_folder(photos(tmp_path, 10), size=8)
    for channels_last in (False, True):
        made, memory = batches(source, True, channels_last=channels_last)
        assert made.train.inputs.dtype == torch.uint8
        assert same(memory, batches(source, False, channels_last=channels_last)[1])
        inputs, _ = memory[0][0]
        assert inputs.dtype == torch.float32 and inputs.shape == (5, 3, 8, 8)
        assert inputs.is_contiguous(memory_format=torch.channels_last) == channels_last
    splits = split(source, val_fraction=0.25, limit=None, seed=0)
    assert splits.nbytes(torch.float32) == 20 * 3 * 8 * 8
    images = torch.stack([image for image, _ in source.train])
    held = Source("tensors", train=(images, torch.tensor(source.train.targets)))
    assert split(held, val_fraction=0, limit=None, seed=0).nbytes(torch.float32) == 16 * 3 * 8 * 8 * 4


def test_workers_decode_what_goes_into_memory(tmp_path: Path) -> None:
    source = image_folder(photos(tmp_path, 10), size=8)
    assert same(batches(source, True)[1], batches(source, True, num_workers=2)[1])


@pytest.mark.parametrize("damaged", [False, True])
def test_workers_end_as_soon_as_they_are_not_needed(
    tmp_path: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker that is not told to end is waited for so long: instead of 5 s, which a busy machine may take for the end.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 60.0)
    if damaged:
        damaged_photos(tmp_path)
    source = image_folder(tmp_path if damaged else photos(tmp_path, 10), size=8, test_fraction=0)
    splits = split(source, val_fraction=0, limit=None, seed=0)
    made = loaders(splits, batch_size=5, in_memory=False, num_workers=1)
    failed = False
    try:
        for _ in made.train.epoch(1):
            pass
    except TrainingError:
        failed = True
    assert failed == damaged
    start = time.monotonic()
    del made
    gc.collect()
    assert time.monotonic() - start < 30


def test_mean_and_std_are_computed_where_they_are_null_and_averaged_for_grey(tmp_path: Path) -> None:
    photos(tmp_path, 10)
    source = image_folder(tmp_path, size=8, mean=None, std=None, test_fraction=0)
    normalize = split(source, val_fraction=0, limit=None, seed=0).normalize
    images = torch.stack([image for image, _ in source.train]).double() / 255
    torch.testing.assert_close(normalize.mean.flatten(), images.mean((0, 2, 3)))
    torch.testing.assert_close(normalize.std.flatten(), images.std((0, 2, 3), correction=0))
    grey = image_folder(tmp_path, size=8, channels=1)
    assert grey.mean == pytest.approx(0.449) and grey.std == pytest.approx(0.226)
    assert split(grey, val_fraction=0.2, limit=None, seed=0).input_shape == (1, 8, 8)


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_image_folder_trains(here: Path, in_memory: str) -> None:
    photos(here / "photos", 30)
    state = trained(
        here, "data=image_folder", "data.path=photos", "data.size=12", "model=cnn", "model.channels=[4,4,4]",
        "trainer.epochs=6", "optimizer=adamw", "optimizer.lr=1e-2", f"data.in_memory={in_memory}",
        "data.augment.crop=1", "data.augment.flip=true", "data.batch_size=8",
    )  # fmt: skip
    assert accuracy(state) > 0.8


def test_a_whole_run_on_photographs(here: Path, runner: Callable[..., Called]) -> None:
    photos(here / "photos", 10, suffix=".jpg")
    called = runner(
        "data=image_folder", "data.path=photos", "data.size=8", "data.channels=1", "tracking=off", "debug=fast"
    )
    assert called.code == 0, called.err
    assert "image_folder: 13 train, 3 validation, 4 test samples of 1x8x8" in called.err
    assert json.loads((run_folder(here) / "result.json").read_text())["status"] == "FINISHED"


def test_image_files_can_be_pickled(tmp_path: Path) -> None:
    part = image_folder(photos(tmp_path, 2), size=8, test_fraction=0).train
    again = pickle.loads(pickle.dumps(part))
    assert isinstance(again, ImageFiles) and same(again[1], part[1])
