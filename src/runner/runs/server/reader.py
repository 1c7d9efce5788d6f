"""The body of a request as inputs of a model: JSON, CSV, an image, or a text."""

import io
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runner.data.named_path import NamedPath
from runner.errors import ConfigError, Problem, Topic
from runner.runs import continuation, new_images, new_inputs, new_samples
from runner.runs.new_samples import from_tensor
from runner.runs.new_values import as_tensor, refuse
from runner.runs.predictor import Predictor
from runner.runs.server import rows
from runner.runs.server.answers import AnyPredictor
from runner.runs.server.content import Content, parse
from runner.runs.server.limits import Limits
from runner.runs.server.refusal import Refusal, not_fitting
from runner.saved.input_spec import InputSpec
from runner.util.trees import Tree, first_axis

JSON, CSV, TEXT, IMAGE = "application/json", "text/csv", "text/plain", "image/"
"""Kinds of bodies."""

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Images that are decoded, by Pillow's names; decoders of other formats can run programs."""

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"


@dataclass(frozen=True)
class Samples:
    """What a request asks to predict.

    Attributes:
        chunks: inputs of the model, of samples that have the same shape; of a language model a list of texts.
        count: the number of samples.
        notes: on samples that the model takes, but did not see the like of.
        numbers: how texts are continued; None if there are none.
    """

    chunks: list[Tree]
    count: int
    notes: list[str] = field(default_factory=list)
    numbers: Mapping[str, float] | None = None


class CsvBody(NamedPath):
    """The body of a request, written to a file: the readers of tables read files."""

    def __str__(self) -> str:
        return "the CSV"

    def problem(self, text: str, suggestion: str = "", *, topic: Topic = "data") -> Problem:
        """Make a problem of the body."""
        return Problem(self.key, f"{self}: {text}", suggestion, topic=topic)


class Reader:
    """Reads bodies for a model.

    Args:
        predictor: of the model, or of an ensemble: then each member reads the samples for itself.
        limits: of a request.
    """

    def __init__(self, predictor: AnyPredictor, limits: Limits) -> None:
        members = [predictor] if isinstance(predictor, Predictor) else predictor.members
        self._specs = [member.samples for member in members]
        self.spec, self._limits = predictor.samples, limits
        self._is_ensemble = not isinstance(predictor, Predictor)
        self.writes_texts = isinstance(predictor, Predictor) and continuation.writes_texts(predictor)
        self.takes_images = _takes_images(self.spec)
        self._encoders: list[Any] = []
        if self.spec.table is not None:
            from runner.data.tabular.encoder import Encoder

            self._encoders = [Encoder.from_state(spec.table["encoder"]) for spec in self._specs if spec.table]
        self._names = self.columns or [leaf.name for leaf in self.spec.inputs or [] if leaf.name]

    @property
    def columns(self) -> list[str] | None:
        """The columns that the model takes; None if it does not take a table."""
        if self._encoders:
            return [column.name for column in self._encoders[0].columns]
        return self.spec.features

    @property
    def encoder(self) -> Any:
        """The transformers of `data=table`; None for other models."""
        return self._encoders[0] if self._encoders else None

    @property
    def kinds(self) -> list[str]:
        """The kinds of bodies that are read."""
        takes_csv = self.spec.table is not None or self.spec.inputs is None
        return [JSON, *([CSV] * takes_csv), *([IMAGE] * self.takes_images), *([TEXT] * self.writes_texts)]

    def read(self, kind: str, body: bytes, params: Mapping[str, str] | None = None) -> Samples:
        """Read a body.

        Args:
            kind: its media type.
            body: of a request.
            params: in its address.

        Raises:
            Refusal: it cannot be read, or its samples do not fit the model.
        """
        params = params or {}
        try:
            if kind == TEXT and self.writes_texts:
                return self._texts([_decoded(body)], params)
            if kind == JSON:
                return self._json(parse(body, self._names), params)
            self._refuse_params(params)
            if kind == CSV and CSV in self.kinds:
                return self._csv(body)
            if kind.startswith(IMAGE) and self.takes_images:
                return self._image(body)
        except ConfigError as error:
            raise not_fitting(error) from error
        known = ", ".join(f"{one}*" if one == IMAGE else one for one in self.kinds)
        raise Refusal(415, f"Content-Type {kind or 'is missing'}: this model reads {known}")

    def _refuse_params(self, params: Mapping[str, Any]) -> None:
        if params:
            raise Refusal(422, f"params: {next(iter(params))} is not a parameter of this model, which has none")

    def _json(self, content: Content, params: Mapping[str, str]) -> Samples:
        params = {**params, **content.params}
        if self.writes_texts and _is_texts(content.samples):
            texts = [content.samples] if isinstance(content.samples, str) else content.samples
            return self._texts(texts, params)
        self._refuse_params(params)
        if self._encoders:
            return self._rows(lambda _: rows.columns_of(content, self.columns or []))
        if self.spec.inputs is not None:
            chunks = new_inputs.read_content(_named(content), self.spec, "inputs")
            self._check_count(sum(first_axis(chunk) for chunk in chunks))
            return self._samples([self.spec.build(chunk) for chunk in chunks])
        return self._from_tensor(self._numbers(content), "inputs")

    def _numbers(self, content: Content) -> torch.Tensor:
        if self.columns is not None:
            return rows.numbers_of(rows.columns_of(content, self.columns))
        samples = content.samples
        if content.is_rows or (isinstance(samples, list) and samples and isinstance(samples[0], dict)):
            names = content.columns or rows.names_in(samples)
            values = rows.numbers_of(rows.columns_of(content, names))
            shape = torch.Size(self.spec.input_shape)
            return values.reshape(len(values), *shape) if values.shape[1] == shape.numel() else values
        try:
            array = np.array(samples)
        except (ValueError, OverflowError) as error:  # NumPy: inhomogeneous
            raise refuse("inputs", "the lists have different lengths", topic="shape") from error
        if array.dtype.kind not in "biuf":
            raise refuse("inputs", "needs lists of numbers", topic="type")
        return as_tensor(array, "inputs")

    def _csv(self, body: bytes) -> Samples:
        if body.startswith((GZIP, PARQUET)):
            raise Refusal(415, "the body is compressed; send CSV as plain text")
        with tempfile.NamedTemporaryFile(suffix=".csv") as file:
            file.write(body)
            file.flush()
            path = CsvBody("input", "the CSV", Path(file.name))
            if self._encoders:
                from runner.runs import new_rows

                layouts = [spec.table["layout"] for spec in self._specs if spec.table]
                return self._rows(lambda at: new_rows.read_cells(path, self._encoders[at], layouts[at]))
            values = new_samples.read_table(path, self.spec)
        return self._from_tensor(values, "the CSV")

    def _rows(self, read: Any) -> Samples:
        """Encode the rows of `data=table`, for each member of an ensemble.

        Args:
            read: the number of the member -> cells by column.
        """
        from runner.data.table_rows import as_tensors
        from runner.data.tabular.encoder import read as read_raw
        from runner.runs.new_rows import notes_on

        each, notes = [], list[str]()
        for place, encoder in enumerate(self._encoders):
            cells = read(place)
            frame = rows.frame_of(cells, encoder) if isinstance(cells, dict) else cells
            self._check_count(len(frame))
            raw = read_raw(encoder.columns, frame)
            rows.refuse_unreadable(encoder, encoder.unreadable(frame, raw))
            notes = notes or notes_on(encoder, raw)
            each.append(as_tensors(encoder.transform(raw)))
        inputs = each if self._is_ensemble else each[0]
        return Samples([inputs], len(frame), notes)

    def _from_tensor(self, values: torch.Tensor, shown: str) -> Samples:
        read = [from_tensor(values, spec, shown) for spec in self._specs]
        count = len(read[0].names)
        self._check_count(count)
        each = [new.load(0, count) for new in read]
        return Samples([each if self._is_ensemble else each[0]], count)

    def _samples(self, chunks: list[Tree]) -> Samples:
        count = sum(map(first_axis, chunks))
        return Samples([[chunk] * len(self._specs) for chunk in chunks] if self._is_ensemble else chunks, count)

    def _image(self, body: bytes) -> Samples:
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
                with Image.open(io.BytesIO(body), formats=FORMATS) as image:
                    size = image.size
        except Image.DecompressionBombError as error:
            raise Refusal(413, f"the image is too large: {error}; send a smaller one") from error
        except Exception as error:  # a damaged file can raise anything in a decoder
            raise Refusal(422, f"the image cannot be read; send one of {', '.join(FORMATS)}") from error
        if size[0] * size[1] > self._limits.pixels:
            text = f"the image has {size[0]:,} x {size[1]:,} pixels, more than {self._limits.max_megapixels} million"
            raise Refusal(413, f"{text}; send a smaller one")
        try:
            pixels, _ = new_images.decode(io.BytesIO(body), self.spec, "the image")
        except ConfigError as error:
            raise Refusal(422, error.problems[0].text) from error
        return self._samples([pixels.unsqueeze(0)])

    def _texts(self, texts: list[str], params: Mapping[str, Any]) -> Samples:
        if unknown := [name for name in params if name not in continuation.OPTIONS]:
            raise Refusal(422, f"params: unknown {unknown[0]}; this model has {', '.join(continuation.OPTIONS)}")
        numbers = continuation.read_options({name: str(value) for name, value in params.items()})
        most = self._limits.max_new_tokens
        wanted = numbers.setdefault("max_new_tokens", min(most, 200))
        if wanted > most:
            raise Refusal(413, f"max_new_tokens={wanted:g} is more than this server writes; send at most {most:,}")
        self._check_count(len(texts))
        return Samples([texts], len(texts), numbers=numbers)

    def _check_count(self, count: int) -> None:
        if count > self._limits.max_rows:
            text = f"{count:,} samples, more than {self._limits.max_rows:,} in a request"
            raise Refusal(413, f"{text}; send several requests")


def _takes_images(spec: InputSpec) -> bool:
    try:
        new_images.ImageReader([], spec, "")
    except ConfigError:
        return False
    return True


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the text is not UTF-8 (byte {error.start:,})") from error


def _is_texts(samples: Any) -> bool:
    return isinstance(samples, str) or (
        isinstance(samples, list) and bool(samples) and all(isinstance(text, str) for text in samples)
    )


def _named(content: Content) -> Any:
    """Return the rows of a table as items by name; others as they are."""
    if content.columns is None or not all(isinstance(row, list) for row in content.samples):
        return content.samples
    return [dict(zip(content.columns, row, strict=False)) for row in content.samples]
