"""Remember the exported graphs of models: the model of another run with the same graph differs in its weights alone.

Exporting a graph and checking it imports torch's compiler and MLflow (2 s of one core), and then takes 0.15 s. Writing
the folder of a known graph with other weights takes 5 ms and no import.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import platform
import re
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import torch
from torch import Tensor, nn

from runner.rundir import layout
from runner.rundir.ownership import is_own_file, is_own_folder
from runner.util.code_state import code_state
from runner.util.files import keep_newest, replacing
from runner.util.operations import operations
from runner.util.trees import at, leaves, tree_map

MOST = 50
"""Graphs that are remembered; those that were not used for the longest time are forgotten."""

LARGEST = 64 << 20
"""Bytes of weights. With more, writing a model twice to compare takes longer than what is saved."""

LARGEST_GRAPH = 4 << 20
"""Bytes of a graph and the files beside it."""

PACKAGES = ("mlflow", "numpy", "pandas", "scikit-learn")
"""Packages whose versions are in a model's folder, besides torch."""

GRAPH = "data/model.pt2"
"""The exported graph in a model's folder."""

LONGEST_WAIT = 60.0
"""Seconds to wait for another process that exports the same graph."""

_POLL_SECONDS = 0.02
_LOCK = ".lock"
_KNOWN_FILES = re.compile(
    r"MLmodel|conda.yaml|python_env.yaml|requirements.txt|(serving_)?input_example.json|data/(inputs|table).json|code/.*"
)
_KNOWN_RECORDS = re.compile(
    r"archive_(format|version)|models/model.json|data/(weights|constants)/model_\w+_config.json|data/sample_inputs/model.pt"
)
_TARGET, _EXPRESSION = re.compile(r'"target": "([^"]*)"'), re.compile(r'"expr_str": "([^"]*)"')
_SIZE_OF_SAMPLES = re.compile(r"(Symbol\('\w+'(, \w+=True)*\)|Integer\(\d+\)|Mul|Add|[(), ])*")
_EQUAL_SIZES = re.compile(r"(L\['\w+'\]\.size\(\)\[\d+\]) == (L\['\w+'\]\.size\(\)\[\d+\])")
_PLAIN_TARGETS = {"_operator.mul", "_operator.add", "_operator.getitem"}
_INDEX = "index.json"
_FILES, _RECORDS = "files/", "records/"
_WEIGHTS = "data/weights/"
_WEIGHTS_INDEX = f"{_WEIGHTS}model_weights_config.json"
_CONSTANTS_INDEX = "data/constants/model_constants_config.json"
_SAMPLES = "data/sample_inputs/model.pt"
_WRITTEN_BY_TORCH = (".data/version", ".data/serialization_id", "byteorder")
_VERSION_OF_GRAPHS = 6  # of the zip file, as torch.export.save sets it

_UUID = re.compile(r"(?m)^model_uuid: .*$")
_CREATED = re.compile(r"(?m)^utc_time_created: .*$")
_SIZE = re.compile(r"(?m)^model_size_bytes: (\d+)$")


class Unsuitable(Exception):
    """A model that is not remembered."""


class ModelMemory:
    """The graphs that are remembered in a folder of outputs.

    Args:
        outputs: the folder; None, or one that does not exist, remembers nothing.
    """

    def __init__(self, outputs: Path | None) -> None:
        self._folder = outputs / layout.GRAPHS if outputs is not None and outputs.is_dir() else None

    def key(self, model: nn.Module, example: Any, asked: Any) -> str | None:
        """Return what is the same for models with the same graph; None for one that is not remembered.

        It has the code and the versions of all that the model is made of, the names and types of its weights, and the
        operations that the model makes for one sample and for five.

        Args:
            model: on the CPU, in evaluation mode; its buffers may change.
            example: at least two samples.
            asked: what else the folder depends on; JSON can hold it.
        """
        if self._folder is None:
            return None
        try:
            weights = _weights(model)
            if sum(weight.untyped_storage().nbytes() for weight in weights.values()) > LARGEST:
                return None
            made = []
            for index in ([0], [0, 1, 0, 1, 0]):
                inputs = at(example, index)
                called = (lambda: model(inputs)) if isinstance(inputs, Tensor) else (lambda: model(**inputs))  # noqa: B023
                made.append(operations(called, [*weights.values(), *leaves(inputs)]))
            kinds = [f"{type(module).__module__}.{type(module).__qualname__}" for module in model.modules()]
            parts = [
                _describe(weights),
                kinds,
                made,
                str(tree_map(_kind, example)),
                asked,
                code_state(model),
                _versions(),
            ]
            return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
        except Exception:  # a user's model may raise anything; exporting it reports that
            return None

    @contextlib.contextmanager
    def one_at_a_time(self, key: str | None) -> Iterator[None]:
        """Wait while another process writes a model with this key: it may be exporting the graph."""
        with contextlib.ExitStack() as closing:
            with contextlib.suppress(OSError):
                if key is not None and self._folder is not None and self._make():
                    file = closing.enter_context((self._folder / _LOCK).open("a"))
                    deadline = time.monotonic() + LONGEST_WAIT
                    while not _lock(file, key) and time.monotonic() < deadline:
                        time.sleep(_POLL_SECONDS)
            yield

    def write(self, key: str | None, model: nn.Module, example: Any, folder: Path) -> bool:
        """Write the folder of a model whose graph is known.

        Args:
            key: of the model.
            model: on the CPU, in evaluation mode.
            example: at least two samples.
            folder: is made.

        Returns:
            Whether it is written; otherwise a part of it may be left.
        """
        file = self._file(key)
        if file is None or not is_own_file(file):
            return False
        try:
            with zipfile.ZipFile(file) as remembered:
                _write_folder(remembered, model, example, folder)
            file.touch()  # the last one to be forgotten
        except Exception:  # a damaged file, or another example in a folder that depends on it
            return False
        return True

    def remember(self, key: str | None, model: nn.Module, example: Any, folder: Path) -> None:
        """Remember the graph of a model's folder, if a folder written from it would be the same to the last byte.

        Args:
            key: of the model.
            model: on the CPU, in evaluation mode.
            example: that the folder was made with.
            folder: the complete folder.
        """
        file = self._file(key)
        if file is None:
            return
        with contextlib.suppress(Exception):  # then it is exported again
            if not self._make():
                return
            with replacing(file, private=True) as temporary, TemporaryDirectory(dir=file.parent) as beside:
                _collect(model, example, folder, temporary)
                with zipfile.ZipFile(temporary) as collected:
                    _write_folder(collected, model, example, Path(beside) / folder.name)
                if not _same(folder, Path(beside) / folder.name):
                    raise Unsuitable
            keep_newest(file.parent, "*.zip", MOST)

    def _make(self) -> bool:
        """Make the folder; return whether it is this user's own."""
        assert self._folder is not None
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return is_own_folder(self._folder)

    def _file(self, key: str | None) -> Path | None:
        return None if key is None or self._folder is None else self._folder / f"{key}.zip"


def _lock(file: IO[str], key: str) -> bool:
    """Try to lock the byte of a key in a file; whether that succeeded."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(key[:8], 16))
    except BlockingIOError:
        return False
    return True


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that are saved, by name."""
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}


def _describe(weights: Mapping[str, Tensor]) -> list[Any]:
    """Describe all but the values: also which share their memory."""
    memory: dict[int, int] = {}
    return [
        (
            name,
            *_kind(weight),
            weight.requires_grad,
            type(weight).__name__,
            memory.setdefault(weight.untyped_storage().data_ptr(), len(memory)),
        )
        for name, weight in weights.items()
    ]


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), str(tensor.dtype)


def _versions() -> list[Any]:
    found = []
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append((name, version(name)))
    return [*found, platform.platform()]


def _collect(model: nn.Module, example: Any, folder: Path, target: Path) -> None:
    """Write what a model's folder holds besides its weights and its example."""
    rendered = _render(example)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in _files(folder) if path != folder / GRAPH}
    index: dict[str, Any] = {"rendered": [], "example": None}
    with zipfile.ZipFile(folder / GRAPH) as graph, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as kept:
        records = {name.partition("/")[2]: name for name in graph.namelist()}
        if json.loads(graph.read(records[_CONSTANTS_INDEX]))["config"]:
            raise Unsuitable  # values that the model holds outside of its state
        index["weights"] = {
            _WEIGHTS + entry["path_name"]: name
            for name, entry in reversed(json.loads(graph.read(records[_WEIGHTS_INDEX]))["config"].items())
        }
        contents = {
            name: graph.read(whole)
            for name, whole in records.items()
            if name not in index["weights"] and name not in _WRITTEN_BY_TORCH
        }
        known = all(map(_KNOWN_FILES.fullmatch, files)) and all(map(_KNOWN_RECORDS.fullmatch, contents))
        if not known or not _is_free(json.loads(contents["models/model.json"])):
            raise Unsuitable
        if sum(map(len, [*contents.values(), *files.values()])) > LARGEST_GRAPH:
            raise Unsuitable
        index["records"] = [name for name in records if name not in _WRITTEN_BY_TORCH]
        of_example = {name: content for name, content in (files | contents).items() if name in rendered}
        index["rendered"] = [name for name, content in of_example.items() if rendered[name] == content]
        if len(index["rendered"]) < len(of_example):
            index["example"] = _hash(example)
        for prefix, group in ((_FILES, files), (_RECORDS, contents)):
            for name, content in group.items():
                if name not in index["rendered"]:
                    kept.writestr(prefix + name, content)
        index["sizes"] = {name: len(content) for name, content in of_example.items()}
        kept.writestr(_INDEX, json.dumps(index))


def _is_free(graph: Mapping[str, Any]) -> bool:
    """Whether a graph depends on the number of samples only in ways that one and five samples show.

    The limit of an attribute, in a comparison or a minimum, is in the graph and not in the operations for few samples.
    """
    sizes = [value["max_val"] for value in graph["range_constraints"].values()]
    text = json.dumps(graph)
    targets = {target for target in _TARGET.findall(text) if not target.startswith("torch.ops.")}
    higher = "torch.ops.higher_order" in text
    plain = all(_SIZE_OF_SAMPLES.fullmatch(expression) for expression in _EXPRESSION.findall(text))
    equal = all(map(_EQUAL_SIZES.fullmatch, graph["guards_code"]))
    return equal and not higher and plain and targets <= _PLAIN_TARGETS and set(sizes) <= {None}


def _write_folder(remembered: zipfile.ZipFile, model: nn.Module, example: Any, folder: Path) -> None:
    """Write the folder of a model; what it has written is left if it cannot be completed."""
    index = json.loads(remembered.read(_INDEX))
    if index["example"] not in (None, _hash(example)):
        raise Unsuitable
    rendered = {name: content for name, content in _render(example).items() if name in index["rendered"]}
    files = {
        name.removeprefix(_FILES): remembered.read(name) for name in remembered.namelist() if name.startswith(_FILES)
    }
    files |= {name: content for name, content in rendered.items() if name not in index["records"]}
    longer = sum(len(content) - index["sizes"][name] for name, content in rendered.items())
    files["MLmodel"] = _renew(files["MLmodel"].decode(), longer).encode()
    weights = _weights(model)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / GRAPH).parent.mkdir(exist_ok=True)
    graph = torch._C.PyTorchFileWriter(str(folder / GRAPH))
    graph.set_min_version(_VERSION_OF_GRAPHS)
    for record in index["records"]:
        if record in index["weights"]:
            storage = weights[index["weights"][record]].untyped_storage()
            graph.write_record(record, storage, storage.nbytes())  # type: ignore[arg-type]
        else:
            content = rendered[record] if record in rendered else remembered.read(_RECORDS + record)
            graph.write_record(record, content, len(content))
    graph.write_end_of_file()


def _renew(description: str, longer: int) -> str:
    """Return MLflow's description of a model for another one, made now.

    Args:
        description: the file `MLmodel`.
        longer: by how many bytes the other one is larger.
    """
    size = _SIZE.search(description)
    if size is None or not _UUID.search(description) or not _CREATED.search(description):
        raise Unsuitable
    now = datetime.now(UTC).replace(tzinfo=None)
    description = _UUID.sub(f"model_uuid: {uuid.uuid4().hex}", description)
    description = _CREATED.sub(f"utc_time_created: '{now}'", description)
    return _SIZE.sub(f"model_size_bytes: {int(size[1]) + longer}", description)


def _render(example: Any) -> dict[str, bytes]:
    """Return the files and records that hold the example, by name, as MLflow and torch write them."""
    values = tree_map(lambda leaf: leaf.numpy().tolist(), example)
    stream = io.BytesIO()
    torch.save(((example,), {}) if isinstance(example, Tensor) else ((), dict(example)), stream)
    return {
        "input_example.json": json.dumps(values).encode(),
        "serving_input_example.json": json.dumps({"inputs": values}, indent=2).encode(),
        _SAMPLES: stream.getvalue(),
    }


def _hash(example: Any) -> str:
    return hashlib.sha256(repr([leaf.tolist() for leaf in leaves(example)]).encode()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _same(one: Path, other: Path) -> bool:
    """Whether two folders of a model are the same but for the model's name and time."""
    names = [path.relative_to(one) for path in _files(one)]
    if names != [path.relative_to(other) for path in _files(other)]:
        return False
    return all(_comparable(one / name) == _comparable(other / name) for name in names)


def _comparable(file: Path) -> bytes:
    content = file.read_bytes()
    return _CREATED.sub("", _UUID.sub("", content.decode())).encode() if file.name == "MLmodel" else content
