"""The sources: what they return, and how they fail. Files, servers and processes are real."""

import gzip
import hashlib
import http.server
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.composed import built, trained
from helpers.problems import about, problem_of, problems_of
from runner.assembly import build, checks
from runner.config.hydra_job import without_hydra
from runner.config.keys import format_value
from runner.data.csv_file import csv_file
from runner.data.digits import digits
from runner.data.fetch import fetch
from runner.data.idx import IdxError, read_idx
from runner.data.mnist import FILES, load_four_files, mnist
from runner.data.source import Source
from runner.data.splitting import split
from runner.data.tensors import tensors
from runner.loss import MSE, CrossEntropy, Loss
from runner.runs.resume import compose_saved
from runner.saved.run import SavedRun

REPOSITORY = Path(__file__).parents[2]


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_mnist(train: int = 12, test: int = 5) -> dict[str, bytes]:
    """The four files of a data set with a handful of samples."""
    random = np.random.RandomState(0)
    files = {}
    for part, samples in {"train": train, "t10k": test}.items():
        images = random.randint(0, 256, (samples, 28, 28)).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(images)
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes((np.arange(samples) % 10).astype(np.uint8))
    return files


def write(folder: Path, files: dict[str, bytes], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


# --- digits ---


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = digits()
    assert source.test is not None
    (images, labels), (test_images, test_labels) = source.train, source.test
    assert images.shape == (1437, 1, 8, 8) and test_images.shape == (360, 1, 8, 8)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64

    pixels, expected = load_digits(return_X_y=True)
    found = torch.cat([torch.cat([images, test_images]).flatten(1) * 16, torch.cat([labels, test_labels])[:, None]], 1)
    both = sorted(map(tuple, np.column_stack([pixels, expected])))
    assert sorted(map(tuple, found.numpy())) == both


def test_digits_test_part_is_balanced_and_always_the_same():
    labels = digits().test[1]
    torch.manual_seed(1)
    np.random.seed(1)
    assert labels.bincount().tolist() == [36] * 10
    assert torch.equal(labels, digits().test[1])
    # The very samples: figures published today are comparable with tomorrow's.
    assert labels[:12].tolist() == [4, 5, 6, 9, 4, 7, 8, 9, 9, 6, 9, 9]


def test_digits_default_mean_and_std_are_those_of_the_training_part():
    source = digits()
    images = source.train[0].double()
    assert source.mean == pytest.approx(images.mean().item(), abs=5e-5)
    assert source.std == pytest.approx(images.std(correction=0).item(), abs=5e-5)
    assert (digits(mean=0.5, std=[0.2]).mean, digits(mean=0.5, std=[0.2]).std) == (0.5, [0.2])


def test_digits_and_mnist_import_neither_scikit_learn_nor_torchvision(tmp_path):
    write(tmp_path, small_mnist())
    code = (
        "import sys; from runner.data.digits import digits; from runner.data.mnist import mnist;"
        f"digits(); mnist({str(tmp_path)!r});"
        "print([name for name in ('sklearn', 'torchvision', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- IDX files ---


@pytest.mark.parametrize("packed", [False, True])
def test_idx_reads_what_was_written(tmp_path, packed):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write(tmp_path, {"images": idx_bytes(array)}, packed)
    read = read_idx(tmp_path / ("images.gz" if packed else "images"), ndim=3)
    assert read.dtype == np.uint8 and read.flags.writeable
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"", "too short"),
        (lambda content: content[:9], "too short"),
        (lambda content: content[:-1], r"39 bytes.* 40$"),
        (lambda content: content + b"x", r"41 bytes.* 40$"),
        (lambda content: b"\0\0\x0d" + content[3:], "first bytes are"),  # floats
        (lambda content: b"<htm" + content[4:], "first bytes are"),
        (lambda content: gzip.compress(content)[:-5], "damaged gzip"),
        (lambda content: gzip.compress(content)[:12] + b"\xff" * 20, "damaged gzip"),
        (lambda content: gzip.compress(content[:-4]), r"36 bytes.* 40$"),
    ],
)
def test_idx_says_what_is_wrong_with_a_file(tmp_path, damage, words):
    file = tmp_path / "images"
    file.write_bytes(damage(idx_bytes(np.zeros((2, 3, 4), np.uint8))))
    with pytest.raises(IdxError, match=words):
        read_idx(file, ndim=3)


# --- MNIST on disk ---


@pytest.mark.parametrize("folder", ["MNIST/raw", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_uses_either_layout(tmp_path, folder, packed):
    write(tmp_path / folder, small_mnist(), packed)
    source = mnist(tmp_path)
    (images, labels), (test_images, test_labels) = source.train, source.test
    assert images.shape == (12, 1, 28, 28) and images.dtype == torch.uint8
    assert test_images.shape == (5, 1, 28, 28)
    assert labels.tolist() == [*range(10), 0, 1] and labels.dtype == torch.int64
    assert test_labels.tolist() == [0, 1, 2, 3, 4]
    assert source.classes == [str(digit) for digit in range(10)]
    assert Path(source.origin) == (tmp_path / folder).resolve()
    assert (source.mean, source.std) == (0.1307, 0.3081)


def test_mnist_takes_a_whole_folder_over_a_partial_one(tmp_path):
    write(tmp_path / "MNIST/raw", {"train-images-idx3-ubyte": small_mnist()["train-images-idx3-ubyte"][:-1]})
    write(tmp_path, small_mnist(), packed=True)
    assert mnist(tmp_path).origin == str(tmp_path)


def test_mnist_takes_the_packed_file_where_the_unpacked_one_is_damaged(tmp_path):
    write(tmp_path, small_mnist(), packed=True)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0")
    assert mnist(tmp_path).test[1].tolist() == [0, 1, 2, 3, 4]


def test_mnist_root_may_be_relative_or_begin_with_a_tilde(tmp_path, monkeypatch):
    write(tmp_path / "here", small_mnist())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mnist("here").origin == mnist("~/here").origin == str(tmp_path / "here")
    empty = problem_of(lambda: mnist(""))
    assert about([empty]) == [("data.root", "missing")] and empty.suggestion == "write data.root=data"


def test_mnist_refuses_files_that_do_not_belong_together(tmp_path):
    files = small_mnist()
    files["train-labels-idx1-ubyte"] = idx_bytes(np.zeros(11, np.uint8))
    files["t10k-labels-idx1-ubyte"] = idx_bytes(np.full(5, 10, np.uint8))
    write(tmp_path, files)
    counts, labels = problems_of(lambda: mnist(tmp_path))
    assert about([counts, labels]) == [("data.root", "data")] * 2
    assert all(shown in counts.text for shown in ("train", "12 images", "11 labels", str(tmp_path)))
    assert "t10k" in labels.text and "10" in labels.text


def test_mnist_refuses_empty_parts_and_different_sizes(tmp_path):
    write(tmp_path / "empty", small_mnist(test=0))
    empty = problems_of(lambda: mnist(tmp_path / "empty"))
    assert set(about(empty)) == {("data.root", "data")} and "t10k" in empty[0].text
    files = small_mnist() | {"t10k-images-idx3-ubyte": idx_bytes(np.zeros((5, 20, 20), np.uint8))}
    write(tmp_path / "sizes", files)
    sizes = problem_of(lambda: mnist(tmp_path / "sizes"))
    assert about([sizes]) == [("data.root", "data")] and "28x28" in sizes.text and "20x20" in sizes.text


@pytest.mark.mnist
def test_mnist_is_read_from_the_real_files():
    roots = [Path(os.environ.get("RUNNER_DATA") or "missing"), REPOSITORY / "../shared/data"]
    root = next((root for root in roots if (root / "MNIST/raw/train-images-idx3-ubyte").is_file()), None)
    if root is None:
        pytest.skip("neither RUNNER_DATA nor ../shared/data has MNIST/raw/train-images-idx3-ubyte")
    source = mnist(root)
    images, labels = source.train
    assert images.shape == (60000, 1, 28, 28) and source.test[0].shape == (10000, 1, 28, 28)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert images.double().mean().item() / 255 == pytest.approx(source.mean, abs=5e-5)
    assert images.double().std(correction=0).item() / 255 == pytest.approx(source.std, abs=5e-5)


# --- downloading ---


class Mirror:
    """A web server on 127.0.0.1 that serves a dict of files and counts the requests.

    Attributes:
        url: its address.
        files: what it serves, by name; anything else is a 404.
        requests: the names asked for.
        delay: seconds it takes before it answers.
        cut: bytes of each file it keeps back after having promised them.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.requests = files, []
        self.delay, self.cut = 0.0, 0
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                mirror.requests.append(name)
                time.sleep(mirror.delay)
                if name not in mirror.files:
                    self.send_error(404)
                    return
                content = mirror.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) - mirror.cut])

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/mnist/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def packed_files() -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content) for name, content in small_mnist().items()}


@pytest.fixture
def make_mirror() -> Iterator[Callable[[dict[str, bytes]], Mirror]]:
    mirrors: list[Mirror] = []

    def make(files: dict[str, bytes]) -> Mirror:
        mirrors.append(Mirror(files))
        return mirrors[-1]

    yield make
    for mirror in mirrors:
        mirror.stop()


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def dead_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/"


def md5s(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(content).hexdigest() for name, content in files.items()}


def all_missing(folder: Path) -> dict[str, str]:
    return {f"{name}.gz": "missing" for name in FILES if not (folder / name).exists()}


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_fetch_stores_unpacked_files(tmp_path, packed_files, make_mirror):
    mirror = make_mirror(packed_files)
    folder = tmp_path / "MNIST/raw"
    fetch(lambda: all_missing(folder), folder, [mirror.url], md5s(packed_files))
    assert files_in(folder) == sorted(FILES)
    assert (folder / "train-images-idx3-ubyte").read_bytes() == small_mnist()["train-images-idx3-ubyte"]
    fetch(lambda: all_missing(folder), folder, [mirror.url], md5s(packed_files))
    assert len(mirror.requests) == 4  # what is there is not asked for again


def test_fetch_tries_each_mirror_and_stays_with_the_one_that_works(tmp_path, packed_files, make_mirror):
    wrong = make_mirror({name: content[:-1] + b"?" for name, content in packed_files.items()})
    good = make_mirror(packed_files)
    fetch(lambda: all_missing(tmp_path), tmp_path, [dead_url(), wrong.url, good.url], md5s(packed_files))
    assert files_in(tmp_path) == sorted(FILES)
    assert (len(wrong.requests), len(good.requests)) == (1, 4)


def test_fetch_says_what_each_mirror_did(tmp_path, packed_files, make_mirror):
    cut, wrong, empty = (
        make_mirror(packed_files),
        make_mirror(dict.fromkeys(packed_files, b"x")),
        make_mirror({}),
    )
    cut.cut = 7
    mirrors = [cut.url, wrong.url, empty.url, dead_url()]
    problem = problem_of(lambda: fetch(lambda: all_missing(tmp_path), tmp_path, mirrors, md5s(packed_files)))
    assert about([problem]) == [("data.root", "unavailable")]
    for words in ("the connection ended after", "wrong checksum", "404", "Connection refused"):
        assert words in problem.text
    assert all(name in problem.text for name in packed_files) and str(tmp_path) in problem.suggestion
    assert "data.root=" in problem.suggestion and "data=digits" in problem.suggestion
    assert files_in(tmp_path) == []  # nothing half-done is left
    assert len(cut.requests) == 1  # the first file nobody has ends it


def test_fetch_gives_up_on_silent_mirrors(tmp_path, packed_files, silent_url):
    start = time.monotonic()
    problem = problem_of(
        lambda: fetch(lambda: all_missing(tmp_path), tmp_path, [silent_url] * 2, md5s(packed_files), patience=1.0)
    )
    assert about([problem]) == [("data.root", "unavailable")]
    assert problem.text.count("no answer within") + problem.text.count("timed out") == 2
    assert time.monotonic() - start < 4


def test_fetch_gives_up_on_a_mirror_that_falls_silent_half_way(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nbeginning")
            time.sleep(3)
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        start = time.monotonic()
        problem = problem_of(lambda: fetch(lambda: {"a": "missing"}, tmp_path, [url], {"a": ""}, patience=0.5))
    assert about([problem]) == [("data.root", "unavailable")] and "timed out" in problem.text
    assert time.monotonic() - start < 2
    assert files_in(tmp_path) == []


def test_fetch_says_that_a_folder_cannot_be_written(tmp_path, packed_files):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "raw"
    problem = problem_of(lambda: fetch(lambda: all_missing(folder), folder, [dead_url()], md5s(packed_files)))
    assert about([problem]) == [("data.root", "file")]
    assert str(folder) in problem.text and "data.root=" in problem.suggestion


def test_fetch_in_two_processes_downloads_once(tmp_path, packed_files, make_mirror):
    mirror = make_mirror(packed_files)
    mirror.delay = 0.5
    code = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from runner.data.fetch import fetch\n"
        f"folder, checksums = Path({str(tmp_path)!r}), {md5s(packed_files)!r}\n"
        "print('ready', flush=True); sys.stdin.read()\n"
        "fetch(lambda: {name: 'missing' for name in checksums if not (folder / name[:-3]).exists()},\n"
        f"      folder, [{mirror.url!r}], checksums)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.close()
    messages = [process.stderr.read().decode() for process in processes]
    assert [process.wait(timeout=20) for process in processes] == [0, 0]
    assert sorted(mirror.requests) == sorted(packed_files)
    assert sorted("waiting for another process" in message for message in messages) == [False, True]


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], mirrors: list[str]) -> None:
    """Point torchvision's own list of mirrors and checksums at a server of the test."""
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", mirrors)
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", list(md5s(files).items()))


def test_mnist_downloads_what_is_missing_or_damaged_and_nothing_else(
    tmp_path, packed_files, make_mirror, monkeypatch, caplog
):
    mirror = make_mirror(packed_files)
    fake_torchvision(monkeypatch, packed_files, [mirror.url])
    files = small_mnist()
    del files["t10k-labels-idx1-ubyte"]
    files["train-images-idx3-ubyte"] = files["train-images-idx3-ubyte"][:500]
    write(tmp_path / "MNIST/raw", files)
    with caplog.at_level(logging.INFO, logger="runner"):
        train, test, _ = load_four_files(tmp_path, "MNIST", 10)
    assert len(train[0]) == 12 and test[1].tolist() == [0, 1, 2, 3, 4]
    assert sorted(mirror.requests) == ["t10k-labels-idx1-ubyte.gz", "train-images-idx3-ubyte.gz"]
    assert "damaged: 500 bytes" in caplog.text


def test_mnist_names_the_damaged_file_it_cannot_replace(tmp_path, packed_files, monkeypatch):
    fake_torchvision(monkeypatch, packed_files, [dead_url()])
    files = small_mnist()
    files["train-images-idx3-ubyte"] = files["train-images-idx3-ubyte"][:-1]
    folder = write(tmp_path / "MNIST/raw", files)
    problem = problem_of(lambda: mnist(tmp_path))
    assert about([problem]) == [("data.root", "unavailable")]
    assert "train-images-idx3-ubyte.gz (damaged:" in problem.text and str(folder) in str(problem)
    assert "t10k" not in str(problem)
    assert (folder / "train-images-idx3-ubyte").read_bytes() == files["train-images-idx3-ubyte"]


def test_mnist_reports_a_file_that_cannot_be_read(tmp_path):
    write(tmp_path, small_mnist())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte").mkdir()
    assert about([problem_of(lambda: mnist(tmp_path))]) == [("data.root", "file")]


# --- csv ---


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


NUMBERS = "a,b,y\n" + "".join(f"{i},{i * 0.5},{i % 3}\n" for i in range(20))


def test_csv_splits_off_the_same_fifth_every_time(tmp_path):
    source = csv_file(table(tmp_path / "t.csv", NUMBERS))
    (inputs, targets), (test_inputs, test_targets) = source.train, source.test
    assert inputs.shape == (16, 2) and test_inputs.shape == (4, 2) and inputs.dtype == torch.float32
    assert targets.dtype == test_targets.dtype == torch.int64 and source.classes is None
    assert sorted(torch.cat([inputs, test_inputs])[:, 0].tolist()) == list(range(20))
    assert torch.equal(test_targets, test_inputs[:, 0].long() % 3)
    np.random.seed(7)
    assert torch.equal(csv_file(tmp_path / "t.csv").test[0], test_inputs)
    assert (source.mean, source.std) == (None, None)


@pytest.mark.parametrize(("fraction", "samples"), [(0.5, 10), (0.01, 1), (0.99, 19), (0, None)])
def test_csv_test_fraction(tmp_path, fraction, samples):
    source = csv_file(table(tmp_path / "t.csv", NUMBERS), test_fraction=fraction)
    assert (source.test and len(source.test[0])) == samples


def test_csv_test_path(tmp_path):
    train = table(tmp_path / "train.csv", "a,b,y\n1,2,cat\n3,4,dog\n")
    test = table(tmp_path / "test.csv", "y,b,a\ndog,6,5\n")
    source = csv_file(train, target="y", test_path=test)
    assert source.train[0].tolist() == [[1, 2], [3, 4]] and source.train[1].tolist() == [0, 1]
    assert source.test[0].tolist() == [[5, 6]] and source.test[1].tolist() == [1]  # columns go by their names
    assert source.classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "inputs", "targets", "classes"),
    [
        ("a,b,y\n1,2,0\n3,4,1\n", [[1, 2], [3, 4]], [0, 1], None),
        ("1,2,0\n3,4,1\n", [[1, 2], [3, 4]], [0, 1], None),
        ("5.1,3.5,setosa\n7,3,virginica\n", [[5.1, 3.5], [7, 3]], [0, 1], ["setosa", "virginica"]),
        ("0,1,y\n5,6,2.5\n7,8,1\n", [[5, 6], [7, 8]], [2.5, 1], None),
        ("a;b;y\n1;2;0\n3;4;1\n", [[1, 2], [3, 4]], [0, 1], None),
        ("\ufeffa, b, y\n1, 2, True\n3, 4, False\n", [[1, 2], [3, 4]], [1, 0], ["False", "True"]),
        ("a,b,y\n1,2,-3\n3,4,7\n", [[1, 2], [3, 4]], [-3, 7], None),
        ('"a","b, or c","y"\n1,2,"z"\n3,4,"x"\n', [[1, 2], [3, 4]], [1, 0], ["x", "z"]),
    ],
)
def test_csv_reads_headers_delimiters_and_targets(tmp_path, text, inputs, targets, classes):
    source = csv_file(table(tmp_path / "t.csv", text), test_fraction=0)
    np.testing.assert_allclose(source.train[0].numpy(), inputs, rtol=1e-6)
    assert source.train[1].tolist() == targets
    assert source.train[1].dtype == (torch.float32 if 2.5 in targets else torch.int64)
    assert source.classes == classes and source.test is None


def test_csv_target_by_name_or_number(tmp_path):
    named = table(tmp_path / "named.csv", "y,a,b\n0,1,2\n1,3,4\n")
    assert csv_file(named, target="y", test_fraction=0).train[0].tolist() == [[1, 2], [3, 4]]
    bare = table(tmp_path / "bare.csv", "0,1,2\n1,3,4\n")
    assert csv_file(bare, target=1, test_fraction=0).train[1].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("text", "options", "key", "topic", "shown"),
    [
        (NUMBERS, {"target": "yy"}, "data.target", "unknown", ["data.target=yy", "did you mean y?"]),
        ("a,b,y\n1,x,0\n2,z,1\n", {}, "data.path", "data", ["data.path=", "b ('x')"]),
        ("a,b,y\n1,2,0\n3,?,1\n", {}, "data.path", "data", ["b ('?')"]),
        ("a,b,y\n1,,0\n,,1\n3,4,\n", {}, "data.path", "data", ["a (1), b (2), y (1)"]),
        ("a,b,y\n1,inf,0\n1e300,2,1\n", {}, "data.path", "data", ["a (1), b (1)"]),
        ("a,b,y\n1,2,inf\n3,4,0.5\n", {}, "data.path", "data", ["y (1)"]),
        ("a,b,y\n", {}, "data.path", "data", ["no samples"]),
        ("y\n1\n2\n", {}, "data.path", "data", ["one column"]),
        (",a,y\n0,1,2\n1,3,4\n", {}, "data.path", "data", ["index=False"]),
        ("a,b,y\n1,2,3\n4,5,6,7\n8,9,1,2\n", {}, "data.path", "data", ["not a table"]),
        ("a,b,y\n1,2,0\n", {}, "data.test_fraction", "data", ["write data.test_fraction=0"]),
        ("", {}, "data.path", "file", ["is empty"]),
        (NUMBERS, {"test_fraction": 1.0}, "data.test_fraction", "range", ["data.test_fraction=1.0"]),
        (NUMBERS, {"test_fraction": "half"}, "data.test_fraction", "range", ["data.test_fraction=half"]),
    ],
)
def test_csv_names_what_is_wrong(tmp_path, text, options, key, topic, shown):
    file = table(tmp_path / "t.csv", text)
    problem = problem_of(lambda: csv_file(file, **options))
    assert about([problem]) == [(key, topic)]
    assert all(words in str(problem) for words in shown), problem


def test_csv_reports_all_problems_at_once(tmp_path):
    several = problems_of(lambda: csv_file(None, test_path=tmp_path / "no.csv", test_fraction=0.5))
    assert about(several) == [
        ("data.path", "missing"), ("data.test_path", "file"), ("data.test_fraction", "conflict"),
    ]  # fmt: skip
    file = table(tmp_path / "t.csv", "a,b,c,y\n1,x,2,0\n2,z,,1\n3,w,inf,1\n")
    assert about(problems_of(lambda: csv_file(file))) == [("data.path", "data")] * 3


def test_csv_compares_the_test_file_with_the_training_file(tmp_path):
    train = table(tmp_path / "train.csv", "a,b,y\n1,2,cat\n3,4,dog\n")
    other = table(tmp_path / "other.csv", "a,c,y\n1,2,cat\n")
    columns = problem_of(lambda: csv_file(train, test_path=other))
    assert about([columns]) == [("data.test_path", "data")] and "b, c" in columns.text
    cow = table(tmp_path / "cow.csv", "a,b,y\n1,2,cow\n")
    classes = problem_of(lambda: csv_file(train, test_path=cow))
    assert about([classes]) == [("data.test_path", "data")] and "cow" in classes.text


def test_csv_that_is_no_text(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes(b"\x93NUMPY\xff\xfe\x00")
    problem = problem_of(lambda: csv_file(file))
    assert about([problem]) == [("data.path", "data")] and "UTF-8" in str(problem)
    assert about(problems_of(lambda: csv_file(file, test_path=file))) == [
        ("data.path", "data"), ("data.test_path", "data"),
    ]  # fmt: skip


# --- paths ---


@pytest.mark.parametrize("load", [csv_file, lambda path: tensors(path=path)])
def test_path_mistakes(tmp_path, monkeypatch, load):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text(NUMBERS)
    (tmp_path / "nothing.csv").touch()
    for path, shown in (
        ("tabel.csv", "did you mean table.csv?"),
        (".", "name a file in it"),
        ("no/table.csv", f"{tmp_path}/no"),
        ("nothing.csv", "name a file with samples"),
        ("~nobody-of-this-name/table.csv", "write the full path"),
    ):
        problem = problem_of(lambda path=path: load(path))
        assert about([problem]) == [("data.path", "file")] and f"data.path={path}" in problem.text
        assert shown in str(problem)


def test_path_may_be_relative_or_begin_with_a_tilde(tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text(NUMBERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert csv_file("table.csv").origin == csv_file("~/table.csv").origin == str(tmp_path / "table.csv")


# --- tensors ---


def test_tensors_from_lists():
    source = tensors(inputs=[[1, 2], [3, 4]], targets=[0, 1], test_inputs=[[4, 5]], test_targets=[1])
    assert source.train[0].tolist() == [[1, 2], [3, 4]] and source.train[0].dtype == torch.float32
    assert source.train[1].tolist() == [0, 1] and source.train[1].dtype == torch.int64
    assert source.test[0].tolist() == [[4, 5]] and source.test[1].tolist() == [1]
    assert (source.mean, source.std) == (0, 1)


def test_tensors_target_types():
    inputs = [[1.0], [2.0]]
    assert tensors(inputs, [0.5, 1]).train[1].dtype == torch.float32
    assert tensors(inputs, [[0, 1], [1, 0]]).train[1].shape == (2, 2)
    assert tensors(inputs, [True, False]).train[1].tolist() == [1, 0]
    both = tensors(inputs, [0, 1], test_inputs=[[3]], test_targets=[0.5])
    assert both.train[1].dtype == both.test[1].dtype == torch.float32


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_tensors_from_a_file(tmp_path, suffix):
    file = tmp_path / f"samples{suffix}"
    arrays = {
        "inputs": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "targets": np.array([1, 0], np.uint8),
        "test_inputs": np.zeros((1, 3, 4), np.uint8),
        "test_targets": np.array([1], np.int32),
    }
    if suffix == ".npz":
        np.savez(file, **arrays)
    else:
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, file)
    source = tensors(path=file)
    assert source.train[0].shape == (2, 1, 3, 4) and source.train[0].dtype == torch.uint8
    assert source.train[1].tolist() == [1, 0] and source.train[1].dtype == torch.int64
    assert source.test[1].dtype == torch.int64 and source.origin == str(file)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4", np.int64, np.uint16, np.bool_])
def test_tensors_numeric_features_become_float32(tmp_path, dtype):
    np.savez(tmp_path / "x.npz", inputs=np.ones((2, 3)).astype(dtype), targets=np.zeros(2))
    source = tensors(path=tmp_path / "x.npz")
    assert source.train[0].dtype == torch.float32 and source.train[0].sum() == 6
    assert source.train[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "key", "topic", "shown"),
    [
        ({}, "data", "missing", ["data.inputs=", "data.path="]),
        ({"inputs": [[1]]}, "data.targets", "missing", ["write data.targets="]),
        ({"targets": [1]}, "data.inputs", "missing", ["write data.inputs="]),
        ({"inputs": [[1]], "targets": [1], "test_inputs": [[1]]}, "data.test_targets", "missing", ["test_targets="]),
        ({"inputs": [[1]], "targets": [1], "path": "x.npz"}, "data.path", "conflict", ["path=x.npz", "data.inputs"]),
        ({"inputs": [[1], [2]], "targets": [1]}, "data.inputs", "shape", ["2 samples", "targets has 1"]),
        ({"inputs": [[1, 2], [3]], "targets": [0, 1]}, "data.inputs", "shape", ["item 2 has 1 values, item 1 has 2"]),
        ({"inputs": [[[1], [2, 3]]], "targets": [0]}, "data.inputs", "shape", []),
        ({"inputs": [1, 2], "targets": [0, 1]}, "data.inputs", "shape", ["[[1],[2]]"]),
        ({"inputs": 3, "targets": [0]}, "data.inputs", "shape", ["[[1],[2]]"]),
        ({"inputs": [], "targets": []}, "data.inputs", "shape", []),
        ({"inputs": [[]], "targets": [0]}, "data.inputs", "data", ["at least one"]),
        ({"inputs": [["a"], ["b"]], "targets": [0, 1]}, "data.inputs", "type", ["not text"]),
        ({"inputs": [[None]], "targets": [0]}, "data.inputs", "type", ["object"]),
        ({"inputs": [[1]], "targets": ["cat"]}, "data.targets", "type", ["not text"]),
        ({"inputs": [[float("nan")], [1e300]], "targets": [0, 1]}, "data.inputs", "data", ["2 NaN or infinite"]),
        ({"inputs": [[1]], "targets": [[[1]]]}, "data.targets", "shape", ["[0,1]"]),
        (
            {"inputs": [[1]], "targets": [0], "test_inputs": [[1, 2]], "test_targets": [0]},
            "data.test_inputs", "shape", ["(2,)", "(1,)"],
        ),
    ],
)  # fmt: skip
def test_tensors_names_what_is_wrong(arguments, key, topic, shown):
    problem = problem_of(lambda: tensors(**arguments))
    assert about([problem]) == [(key, topic)]
    assert all(words in str(problem) for words in shown), problem


def test_tensors_validation_part(tmp_path):
    lists = {"inputs": [[1], [2]], "targets": [0, 1]}
    source = tensors(**lists, val_inputs=[[3]], val_targets=[1])
    assert source.val[0].tolist() == [[3]] and source.val[1].tolist() == [1] and source.test is None
    arrays = {"inputs": np.ones((2, 3)), "targets": np.array([0, 1])}
    np.savez(tmp_path / "val.npz", **arrays)
    np.savez(tmp_path / "all.npz", **arrays, val_inputs=np.zeros((1, 3)), val_targets=np.array([1]))
    np.savez(tmp_path / "train.npz", **arrays)
    assert tensors(path=tmp_path / "all.npz").val[0].tolist() == [[0, 0, 0]]
    both = tensors(path=tmp_path / "train.npz", val_path=tmp_path / "val.npz")
    assert both.val[0].shape == (2, 3) and both.origin == f"{tmp_path / 'train.npz'}, {tmp_path / 'val.npz'}"
    np.savez(tmp_path / "half.npz", **arrays, val_inputs=np.zeros((1, 3)))
    for arguments, key, topic in (
        ({**lists, "val_inputs": [[3]]}, "data.val_targets", "missing"),
        ({"path": tmp_path / "half.npz"}, "data.path", "missing"),
        ({**lists, "val_inputs": [[3, 4]], "val_targets": [0]}, "data.val_inputs", "shape"),
        (
            {**lists, "val_inputs": [[3]], "val_targets": [0], "val_path": tmp_path / "val.npz"},
            "data.val_path", "conflict",
        ),
        ({"path": tmp_path / "all.npz", "val_path": tmp_path / "val.npz"}, "data.val_path", "conflict"),
        ({"path": tmp_path / "train.npz", "val_path": tmp_path / "valid.npz"}, "data.val_path", "file"),
        ({**lists, "val_path": tmp_path / "val.npz"}, "data.val_path", "shape"),
    ):  # fmt: skip
        problem = problem_of(lambda arguments=arguments: tensors(**arguments))
        assert about([problem]) == [(key, topic)], problem


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[2**24 + 1]], torch.float64), ([[2**24]], torch.float32), ([[0.1]], torch.float64), ([[0.5]], torch.float32),
        (np.array([[2**40]], np.int64), torch.float32), (np.array([[2**40 + 1]], np.uint64), torch.float64),
        (np.array([[0.1]], np.float16), torch.float32), (torch.tensor([[0.1]], dtype=torch.bfloat16), torch.float32),
        (np.array([[True]]), torch.float32), (np.array([[0.1]], np.longdouble), torch.float64),
        (np.array([[65535]], np.uint16), torch.float32), (np.array([[7]], np.uint8), torch.uint8),
    ],
)  # fmt: skip
def test_tensors_lose_no_digit(tmp_path, values, dtype):
    if isinstance(values, list):
        source = tensors(values, [0], val_inputs=[[1]], val_targets=[0])
    else:
        kind = torch.save if isinstance(values, torch.Tensor) else lambda content, path: np.savez(path, **content)
        path = tmp_path / ("x.pt" if isinstance(values, torch.Tensor) else "x.npz")
        one = torch.zeros_like(values) if isinstance(values, torch.Tensor) else np.zeros_like(values)
        kind({"inputs": values, "targets": np.zeros(1, int) if path.suffix == ".npz" else torch.zeros(1).long(),
              "val_inputs": one, "val_targets": one[0]}, path)  # fmt: skip
        source = tensors(path=path)
    assert source.train[0].dtype == source.val[0].dtype == dtype
    wanted = values.double().item() if isinstance(values, torch.Tensor) else np.array(values).item()
    assert source.train[0].item() == float(wanted)
    old = tensors([[0.1]], [0], old_rules=True)
    assert old.train[0].dtype == torch.float32


def test_tensors_targets_lose_no_digit_either():
    assert tensors([[1], [2]], [2**24 + 0.5, 0]).train[1].tolist() == [2**24 + 0.5, 0]
    beyond = problem_of(lambda: tensors([[2**53 + 1]], [0]))
    assert about([beyond]) == [("data.inputs", "range")] and "2^53" in beyond.text
    no_number = problem_of(lambda: tensors([[1j]], [0]))
    assert about([no_number]) == [("data.inputs", "type")] and "complex128" in no_number.text


@pytest.mark.parametrize("shape", [(2, 28, 28, 1), (2, 8, 9, 3), (2, 8, 8, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64, np.float16])
def test_tensors_images_have_their_channels_first(tmp_path, shape, dtype):
    np.savez(tmp_path / "x.npz", inputs=np.ones(shape, dtype), targets=np.array([0, 1]))
    problem = problem_of(lambda: tensors(path=tmp_path / "x.npz"))
    assert about([problem]) == [("data.path", "shape")] and str(shape) in problem.text
    assert "(N, channels, height, width)" in problem.suggestion
    np.savez(tmp_path / "x.npz", inputs=np.ones(shape, dtype).transpose(0, 3, 1, 2), targets=np.array([0, 1]))
    assert tensors(path=tmp_path / "x.npz").train[0].shape == (2, shape[3], *shape[1:3])


def test_tensors_say_what_they_were_taken_for(tmp_path):
    np.savez(tmp_path / "x.npz", inputs=np.ones((2, 5, 3)), targets=np.array([0, 1]))
    assert tensors(path=tmp_path / "x.npz").notes == [
        "float64 inputs, converted to float32: not scaled", "sequences of 5 steps of 3 features",
        "targets: whole numbers from 0 to 1",
    ]  # fmt: skip
    np.savez(tmp_path / "y.npz", inputs=np.ones((2, 5), np.uint16), targets=np.array([0, 1]))
    assert tensors(path=tmp_path / "y.npz").notes[0] == "uint16 inputs, converted to float32: not scaled"


@pytest.mark.parametrize(
    ("dtype", "shape", "scale", "note"),
    [
        (np.uint16, (2, 1, 4, 4), "auto", ": not scaled; if they are images, write data.scale=4095"),
        (
            np.int32,
            (2, 4, 4),
            "auto",
            ": not scaled; if they are images, write data.scale=4095 and store them as (N, 1, height, width)",
        ),
        (np.uint16, (2, 1, 4, 4), "none", ": not scaled"),
        (np.uint16, (2, 1, 4, 4), 4095.0, ""),
        (np.int64, (2, 5), "auto", ": not scaled"),
        (np.float64, (2, 1, 4, 4), "auto", ": not scaled"),
    ],
)
def test_whole_numbers_that_may_be_images_are_not_scaled_and_say_how_to(tmp_path, dtype, shape, scale, note):
    np.savez(tmp_path / "x.npz", inputs=np.full(shape, 2000, dtype), targets=np.array([0, 1]))
    source = tensors(path=tmp_path / "x.npz", scale=scale)
    assert source.notes[0] == f"{np.dtype(dtype)} inputs, converted to float32{note}"
    assert source.train[0].max() == 2000


@pytest.mark.parametrize("content", [b"hello", b"", b"PK\x03\x04", b"\x80\x02}q"])
@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_a_file_that_holds_something_else_is_named(tmp_path, suffix, content):
    (tmp_path / f"x{suffix}").write_bytes(content)
    problem = problem_of(lambda: tensors(path=tmp_path / f"x{suffix}"))
    assert about([problem]) == [("data.path", "file")] and f"x{suffix}" in problem.text


@pytest.mark.parametrize(
    ("targets", "shown", "suggested"),
    [
        ([1, 2], "there are 1, 2", "store them as 0 to 1, or"),
        ([0, 2], "there are 0, 2", "write data.classes=3"),
        ([4, 6, 8], "there are 4, 6, 8", "store them as 0 to 2"),
        ([200000, 201500], "there are 200000, 201500", "write loss=mse"),
        ([-1, 1], "these are -1, 1", "store them as 0, 1, ..."),
        (list(range(30)), "30 classes for 30 samples", "write data.classes=30"),
    ],
)
def test_classes_that_may_be_none(targets, shown, suggested):
    inputs = [[0]] * len(targets)

    def look(targets: list[int], loss: Loss, old_rules: bool = False, **given: object) -> None:
        source = tensors(inputs, targets, **given)
        checks.classes(loss, split(source, val_fraction=0, limit=1, seed=0, old_rules=old_rules))

    problem = problem_of(lambda: look(targets, CrossEntropy()))
    assert about([problem]) == [("data", "data")]
    assert shown in problem.text and suggested in problem.suggestion
    look(targets, MSE())
    look(targets, CrossEntropy(), old_rules=True)
    if len(targets) < 30:
        look([sorted(set(targets)).index(target) for target in targets], CrossEntropy())
    if min(targets) >= 0:
        look(targets, CrossEntropy(), classes=max(targets) + 1)


@pytest.mark.parametrize(("value", "count"), [(0, 2), (1, 2), (7, 8)])
def test_one_class_alone_is_no_classification(value, count):
    def look(loss: Loss, **given: object) -> None:
        source = tensors([[1], [2], [3]], [value] * 3, **given)
        checks.classes(loss, split(source, val_fraction=0, limit=None, seed=0))

    problem = problem_of(lambda: look(CrossEntropy()))
    assert about([problem]) == [("data", "data")]
    assert f"all 3 samples have class {value}" in problem.text
    assert f"write data.classes={count}; for numbers write loss=mse" in problem.suggestion
    look(CrossEntropy(), classes=count)  # as it says
    look(MSE())


def test_a_data_set_of_ones_own_is_asked_for_its_classes_too():
    targets = torch.tensor([0, 2, 2, 0])
    source = Source("own", (torch.zeros(4, 1), targets))
    splits = split(source, val_fraction=0, limit=None, seed=0)
    problem = problem_of(lambda: checks.classes(CrossEntropy(), splits))
    assert about([problem]) == [("data", "data")]
    assert problem.text.startswith("data=own: ") and "write Source(classes=[3 names])" in problem.suggestion
    checks.classes(CrossEntropy(ignore_index=1), splits)
    with_all = Source("own", (torch.zeros(4, 1), torch.tensor([0, 1, 2, 0])))
    checks.classes(CrossEntropy(ignore_index=1), split(with_all, val_fraction=0, limit=None, seed=0))


def test_a_limit_takes_no_class_away():
    samples = (
        f"data.inputs={format_value([[n] for n in range(40)])}",
        f"data.targets={format_value([0] * 38 + [1, 2])}",
    )
    assert built("data=tensors", *samples, "data.limit=4", "data.val_fraction=0").num_outputs == 3


def test_tensors_classes_by_number_or_name():
    assert tensors([[1], [2]], [0, 1]).classes is None
    assert tensors([[1], [2]], [0, 1], classes=3).classes == ["0", "1", "2"]
    assert tensors([[1], [2]], [0, 1], classes=["cat", "dog"]).classes == ["cat", "dog"]
    for classes, targets, topic, shown in (
        (2, [0, 2], "range", ["0 to 1", "0 to 2", "write data.classes=3"]),
        (["a", "b"], [0, 2], "range", ["0 to 1", "0 to 2", "name 3 classes"]),
        (2, [-1, 1], "data", ["-1 to 1", "store them as 0, 1, ..."]),
        (1, [0, 0], "range", ["write data.classes=2"]),
        (["a", "a"], [0, 1], "range", ["data.classes=[a,a]"]),
        (2, [0.5, 1], "conflict", ["write data.classes=null"]),
    ):
        problem = problem_of(lambda c=classes, t=targets: tensors([[1], [2]], t, classes=c))
        assert about([problem]) == [("data.classes", topic)], problem
        assert all(words in str(problem) for words in shown), problem
    assert tensors([[1], [2]], [0, 2], classes=3).classes == ["0", "1", "2"]  # as it says


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # by torch, of each that it loads
def test_tensors_that_are_not_dense_and_arrays_that_are_not_read(tmp_path):
    whole, targets = torch.ones(2, 2), torch.tensor([0, 1])
    for inputs, kind in ((whole.to_sparse(), "sparse_coo"), (whole.to("meta"), "meta")):
        torch.save({"inputs": inputs, "targets": targets}, tmp_path / "x.pt")
        problem = problem_of(lambda: tensors(path=tmp_path / "x.pt"))
        assert about([problem]) == [("data.path", "type")] and f"{kind} tensor" in problem.text
    torch.save({"inputs": whole.to(torch.float8_e4m3fn), "targets": targets}, tmp_path / "x.pt")
    problem = problem_of(lambda: tensors(path=tmp_path / "x.pt"))
    assert about([problem]) == [("data.path", "type")] and "torch.float8_e4m3fn" in problem.text
    np.savez(tmp_path / "x.npz", inputs=np.ones((2, 2)), targets=np.array([0, 1]), x_test=np.ones((2, 2)))
    assert tensors(path=tmp_path / "x.npz").notes[-1] == "x_test in x.npz: not read"


def test_other_arrays_of_a_file_are_groups_and_weights(tmp_path):
    arrays = {
        "inputs": np.arange(40.0).reshape(20, 2), "targets": np.arange(20) % 2, "site": np.array(list("abcd") * 5),
        "weight": np.array([1.0] * 5 + [0.0] * 15), "table": np.ones((20, 1)), "short": np.ones(3),
    }  # fmt: skip
    np.savez(tmp_path / "x.npz", **arrays)
    torch.save({name: torch.as_tensor(array) for name, array in arrays.items() if name != "site"}, tmp_path / "x.pt")
    typed = ["device=cpu", "tracking=off", "data=tensors", "trainer.epochs=1"]
    setup = built(*typed, f"data.path={tmp_path}/x.npz", "data.split_by=site", "data.val_fraction=0.25")
    assert setup.splits.sizes == {"train": 15, "val": 5, "test": 0}
    assert len(set((setup.splits.val.inputs[:, 0] / 2 % 4).tolist())) == 1
    notes = setup.splits.notes
    assert {"table in x.npz: not read", "short in x.npz: not read"} <= {*notes} and any(
        "site" in note for note in notes
    )
    weighted = [
        "data.sampler=weighted",
        "data.sample_weight=weight",
        "data.val_fraction=0",
        f"data.path={tmp_path}/x.pt",
    ]
    assert built(*typed, *weighted).splits.weights.count_nonzero() == 5
    problem = problem_of(lambda: built(*typed, f"data.path={tmp_path}/x.pt", "data.split_by=site"))
    assert about([problem]) == [("data.split_by", "unknown")] and "weight" in problem.text


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in ("/dev/null", tmp_path / "pipe.csv"):
        problem = problem_of(lambda path=path: csv_file(path))
        assert about([problem]) == [("data.path", "file")] and f"data.path={path} " in problem.text


LARGE = ("data=tensors", "data.inputs=[[16777216],[16777217]]", "data.targets=[0,1]")


def test_tensors_that_differ_beyond_float32_can_be_told_apart(tmp_path):
    state = trained(tmp_path, *LARGE, "data.mean=null", "data.std=null", "data.val_fraction=0", "precision=fp64")
    assert state.log.of("train/accuracy")[20] == 1


def test_a_config_knows_its_validation_part_and_a_share_that_was_typed():
    own = (*LARGE, "data.val_inputs=[[1],[2],[3]]", "data.val_targets=[0,1,0]")
    experiment = built(*own)
    assert (
        experiment.loaders.val.samples == 3
        and experiment.loaders.test is None
        and experiment.config["data"]["val_fraction"] is None
    )
    assert built(*own, "data.limit=2").loaders.val.samples == 2
    assert built().config["data"]["val_fraction"] == 0.2
    for preset in ("data.val_fraction=0.2", "data.val_fraction=0", "debug=overfit"):
        problem = problem_of(lambda preset=preset: built(*own, preset))
        assert about([problem]) == [("data.val_fraction", "conflict")]
        assert problem.suggestion == "write data.val_fraction=null"
        assert built(*own, preset, "data.val_fraction=null").loaders.val.samples == 3 or preset == "debug=overfit"
    gaps = problem_of(lambda: built(*LARGE[:2], "data.targets=[1,2]", "data.val_fraction=0"))
    assert about([gaps]) == [("data", "data")]
    assert built(*LARGE[:2], "data.targets=[1,2]", "data.val_fraction=0", "loss=mse").num_outputs == 1


@pytest.mark.parametrize(("part", "share"), [("val", "null"), ("test", "0")])
def test_classes_of_another_part_that_training_lacks_are_an_error(part, share):
    counted_from_1 = (
        *LARGE,
        f"data.{part}_inputs=[[1],[2]]",
        f"data.{part}_targets=[1,2]",
        f"data.val_fraction={share}",
    )
    problem = problem_of(lambda: built(*counted_from_1))
    assert about([problem]) == [("data", "data")]
    assert problem.text.endswith(": 2") and "write data.classes=3" in problem.suggestion
    assert built(*counted_from_1, "data.classes=3").num_outputs == 3
    assert built(*counted_from_1, "loss=mse").num_outputs == 1


def test_what_version_0_1_0_has_saved_is_read_by_its_rules(tmp_path):
    np.savez(tmp_path / "x.npz", inputs=np.random.RandomState(0).rand(6, 5, 3), targets=np.array([1, 4] * 3))
    now = ("data=tensors", f"data.path={tmp_path / 'x.npz'}", "data.mean=null", "data.std=null", "data.classes=5")
    saved = built(*now).config
    for key in ("scale", "classes", "val_path", "val_inputs", "val_targets"):
        del saved["data"][key]
    experiment = build.build(without_hydra(compose_saved(SavedRun("run=x", None, None, None, saved))[0]))
    assert (
        experiment.num_outputs == 5
        and experiment.splits.normalize.mean.shape == (5, 1)
        and "scale" not in experiment.config["data"]
    )
    assert experiment.splits.train.inputs.dtype == torch.float32
    assert built(*now).splits.normalize.mean.shape == (3,)


def test_tensors_reports_all_problems_at_once():
    several = problems_of(lambda: tensors([[1, 2], [3]], ["a", "b"], [[float("inf")]], [0, 1]))
    assert about(several) == [
        ("data.inputs", "shape"), ("data.targets", "type"), ("data.test_inputs", "data"), ("data.test_inputs", "shape"),
    ]  # fmt: skip


def test_tensors_names_found_in_a_file(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((2, 2)), y=np.ones(2))
    problem = problem_of(lambda: tensors(path=tmp_path / "x.npz"))
    assert about([problem]) == [("data.path", "missing")]
    assert all(name in problem.text for name in ("inputs", "targets", "x, y"))


class Payload:
    """Pickles into a call, as an attacker's file would."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('the payload ran')",))


def test_tensors_never_run_code_from_a_file(tmp_path):
    torch.save({"inputs": Payload(), "targets": torch.zeros(1)}, tmp_path / "x.pt")
    np.savez(tmp_path / "x.npz", inputs=np.array([Payload()], object), targets=np.zeros(1))
    for name in ("x.pt", "x.npz"):
        problem = problem_of(lambda path=tmp_path / name: tensors(path=path))
        assert about([problem]) == [("data.path", "file")] and "pickled" in problem.text


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_tensors_damaged_files(tmp_path, suffix):
    file = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(file, inputs=np.ones((99, 9)), targets=np.ones(99))
    else:
        torch.save({"inputs": torch.ones(99, 9), "targets": torch.ones(99)}, file)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"plain text", b"PK\x03\x04"):
        file.write_bytes(content)
        problem = problem_of(lambda: tensors(path=file))
        assert about([problem]) == [("data.path", "file")] and f"data.path={file}" in problem.text


def test_tensors_files_that_hold_something_else(tmp_path):
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    torch.save({"inputs": [1, 2], "targets": torch.ones(2)}, tmp_path / "list.pt")
    np.save(tmp_path / "array.npy", np.ones(3))
    np.savez(tmp_path / "hwc.npz", inputs=np.ones((2, 8, 8, 3), np.uint8), targets=np.zeros(2))
    for name, topic, shown in (
        ("tensor.pt", "file", "torch.save({'inputs': ..., 'targets': ...}, path)"),
        ("list.pt", "type", "not list"),
        ("array.npy", "file", ".npz or .pt"),
        ("hwc.npz", "shape", "(N, channels, height, width)"),
    ):
        problem = problem_of(lambda name=name: tensors(path=tmp_path / name))
        assert about([problem]) == [("data.path", topic)] and shown in str(problem)
