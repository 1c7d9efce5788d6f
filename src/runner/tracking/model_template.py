"""A template of a model's folder: all but its weights, from which the folder of a model with the same graph is written.

A file of `torch.export` is a zip file, in which the weights are raw bytes, each tensor in a record of its own.
"""

import hashlib
import io
import json
import re
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.util.trees import leaves, tree_map

GRAPH = "data/model.pt2"
"""The exported graph in a model's folder."""

LARGEST_GRAPH = 4 << 20
"""Bytes of a graph and the files beside it."""

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


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that are saved, by name."""
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}


def collect(model: nn.Module, example: Any, folder: Path, target: Path) -> None:
    """Write a template of a model's folder: what it holds besides its weights and its example.

    Raises:
        Unsuitable: the folder has something else that may depend on the weights, or is too large.
    """
    rendered = _render(example)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in files_in(folder) if path != folder / GRAPH}
    index: dict[str, Any] = {}
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
        index["example"] = _hash(example) if len(index["rendered"]) < len(of_example) else None
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


def write_folder(remembered: zipfile.ZipFile, model: nn.Module, example: Any, folder: Path) -> None:
    """Write the folder of a model from a template; what it has written is left if it cannot be completed.

    Raises:
        Unsuitable: the template holds another example.
    """
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
    weights = weights_of(model)
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


def files_in(folder: Path) -> Iterator[Path]:
    """Return all files in a folder and those below, in order."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def is_same(one: Path, other: Path) -> bool:
    """Whether two folders of a model are the same but for the model's name and time."""
    names = [path.relative_to(one) for path in files_in(one)]
    if names != [path.relative_to(other) for path in files_in(other)]:
        return False
    return all(comparable(one / name) == comparable(other / name) for name in names)


def comparable(file: Path) -> bytes:
    """Return the content of a file, of a model's description without its name and time."""
    content = file.read_bytes()
    return _CREATED.sub("", _UUID.sub("", content.decode())).encode() if file.name == "MLmodel" else content
