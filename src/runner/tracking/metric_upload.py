"""Upload the journal of a run: what is noted as uploaded is on the disk, and MLflow has each point once.

A part of the journal is flushed to the disk, then sent, then noted in `delivery.json`. So after a power loss MLflow has
no point that the journal lacks. A kill leaves at most one part that was sent and not noted: MLflow's last step of each
metric tells which of its points are there, without reading the metric's history.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.rundir import journal, journal_check, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import MetricPoint
from runner.tracking.pieces import send_each, takes_tags
from runner.tracking.system import SYSTEM
from runner.util.tags import legal_name
from runner.util.terminal import TRACKING, about

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger("runner")

FIRST = ("best/", "val/", "test/", "train/")
"""Prefixes of the metrics that are uploaded first, in this order; system metrics come last."""

METRIC_TAG = "runner.metric."
"""Prefix of the tags with the runner's name of a metric, by its name in MLflow, if the two differ."""

PART = 1 << 16
"""Bytes of the journal that are sent and noted at once: 600 to 1000 points, a tenth of a second."""

_METRICS_PER_REQUEST = 1000  # MLflow's limit


class MetricUpload:
    """The upload of a run's metrics to its MLflow run.

    Args:
        client: the client of the store.
        run: the run in MLflow, with the metrics that it has now.
        folder: the run's folder.
        state: what is noted; this object changes `offset`, `tail`, `keys` and `lacks_points`.
        save: writes the state; the caller does it after the last part too.
    """

    def __init__(
        self, client: "MlflowClient", run: "Run", folder: Path, state: DeliveryState, save: Callable[[], None]
    ) -> None:
        self._client, self._run_id, self._state, self._save = client, run.info.run_id, state, save
        self._path = folder / layout.JOURNAL
        self._loss: str | None = None
        self._refused: set[str] = set()
        self._last = self._last_steps(run)
        self._check_store()

    def step(self, running: bool, limit: int | None = None) -> bool:
        """Upload what is new.

        Args:
            running: whether the run still measures: if all points are system metrics, they wait for others.
            limit: the most bytes of the journal to upload, about; None for all.

        Returns:
            True if MLflow has all points that the journal had at the call.
        """
        self._check_journal(running)
        end = self._flush()
        if self._state.lacks_points and not running:
            self._fetch_back()
            end = self._flush()
        firsts: list[MetricPoint] = []
        if not self._has_begun():
            firsts = sorted(self._first_points(end).values(), key=lambda point: _rank(point.name))
            if running and all(point.name.startswith(SYSTEM) for point in firsts):
                return True
        # To the nearest part: one ends with a whole line, so it is a little shorter than PART.
        stop = end if limit is None else self._state.offset + max(1, limit - PART // 2)
        while self._state.offset < stop:
            points, offset = journal.read_block(self._path, self._state.offset, end, PART)
            if offset == self._state.offset:
                return True
            sent = {(point.name, point.step) for point in firsts}
            self._send([*firsts, *(point for point in points if (point.name, point.step) not in sent)])
            for point in firsts:
                key = self._state.keys[point.name]
                self._last[key] = max(point.step, self._last.get(key, -1))
            firsts = []
            self._state.offset, self._state.tail = offset, journal_check.checksum(self._path, offset)
            if offset < stop:  # else the caller saves it, with what else has changed
                self._save()
        return self._state.offset >= end

    def _flush(self) -> int:
        """Wait until the journal is on the disk, and return its size; what was noted is there already."""
        try:
            size = self._path.stat().st_size
        except OSError:
            size = 0
        return size if size == self._state.offset else journal_check.flush(self._path)

    def _last_steps(self, run: "Run | None" = None) -> dict[str, int]:
        """Return the last step of each metric that MLflow has, and note their names."""
        data = (run or self._client.get_run(self._run_id)).data
        names = own_names(data.tags)
        logged = {names.get(key, key): key for key in data.metrics}
        self._state.keys = {name: key for key, name in names.items()} | logged | self._state.keys
        return {metric.key: metric.step for metric in data.to_proto().metrics}

    def _check_store(self) -> None:
        """Start again if MLflow lacks points that were uploaded: its last transaction may be lost by a power loss."""
        offset = self._state.offset
        if journal_check.describe_loss(self._path, offset, self._state.tail) is not None:
            return
        points, _ = journal.read_block(self._path, max(0, offset - PART), offset, PART) if offset else ([], 0)
        if any(point.step > self._last.get(self._state.keys.get(point.name, point.name), -1) for point in points):
            log.warning("MLflow has lost metrics that were uploaded; they are uploaded again", extra=about(TRACKING))
            self._start_again()

    def _check_journal(self, running: bool) -> None:
        """Start again if the journal is not the one that was uploaded; what MLflow has is not sent twice."""
        if loss := journal_check.describe_loss(self._path, self._state.offset, self._state.tail):
            self._loss = None if running else loss  # of a running one, its start has told
            self._state.lacks_points = True
            self._start_again()
            self._last = self._last_steps()

    def _fetch_back(self) -> None:
        """Add to the journal what only MLflow has; the run's process has ended."""
        added = fetch_back(self._client, self._run_id, self._path)
        self._state.lacks_points = False
        if added or self._loss:
            loss = self._loss or f"{self._path.name} had lost points"
            log.warning("%s; %d points were fetched back from MLflow", loss, added, extra=about(TRACKING))
            self._start_again()
            self._last = self._last_steps()
        self._save()

    def _start_again(self) -> None:
        self._state.offset, self._state.tail = 0, None
        self._save()

    def _has_begun(self) -> bool:
        return any(not name.startswith(SYSTEM) for name in self._state.keys)

    def _first_points(self, end: int) -> dict[str, MetricPoint]:
        """Return the first point of each metric. MLflow's pages preselect the metrics that were logged first."""
        firsts: dict[str, MetricPoint] = {}
        before, offset = -1, self._state.offset
        while offset != before:
            before = offset
            points, offset = journal.read_block(self._path, offset, end, PART)
            for point in points:
                firsts.setdefault(point.name, point)
        return firsts

    def _send(self, points: Sequence[MetricPoint]) -> None:
        """Send points, except those that MLflow had before."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, point.value, round(point.time * 1000), point.step)
            for point in points
            if point.step > self._last.get(key := self._key(point), -1)
        ]
        for start in range(0, len(metrics), _METRICS_PER_REQUEST):
            batch = [each for each in metrics[start : start + _METRICS_PER_REQUEST] if each.key not in self._refused]
            if batch:
                self._send_batch(batch)

    def _send_batch(self, metrics: "Sequence[Metric]") -> None:
        """Send a request. A metric that MLflow refuses is left out from then on, and warned of."""
        refused = send_each(
            lambda some: self._client.log_batch(self._run_id, metrics=some),
            metrics,
            lambda: takes_tags(self._client, self._run_id),
        )
        for metric, reason in refused:
            if metric.key not in self._refused:
                self._refused.add(metric.key)
                text = "MLflow does not get the metric %s from step %d on: %s"
                log.warning(text, metric.key, metric.step, reason, extra=about(TRACKING))

    def _key(self, point: MetricPoint) -> str:
        """Return the MLflow name of a metric; it is the same for all of the run."""
        if point.name not in self._state.keys:
            key = legal_name(point.name, self._state.keys.values())
            if key != point.name:
                self._client.set_tag(self._run_id, METRIC_TAG + key, point.name)
                log.info("the metric %s is named %s in MLflow, which does not accept the name", point.name, key)
            self._state.keys[point.name] = key
        return self._state.keys[point.name]


def fetch_back(client: "MlflowClient", run_id: str, path: Path) -> int:
    """Add to a journal the points that only MLflow has.

    Returns:
        Their number.
    """
    points = journal.read(path)[0]
    data = client.get_run(run_id).data
    fetched = list(fetch_points(client, run_id, data.metrics, own_names(data.tags)))
    merged = merge(points, fetched)
    if len(merged) > len(points):
        journal.rewrite(path, merged)
    return len(merged) - len(points)


def fetch_points(
    client: "MlflowClient", run_id: str, keys: Iterable[str], names: Mapping[str, str]
) -> Iterator[MetricPoint]:
    """Yield the points of metrics from MLflow, with the run's own names for them."""
    for key in keys:
        for metric in client.get_metric_history(run_id, key):
            yield MetricPoint(names.get(key, key), _value(metric.value), metric.step, metric.timestamp / 1000)


def merge(points: Iterable[MetricPoint], others: Iterable[MetricPoint]) -> list[MetricPoint]:
    """Return the points of both in the order of their times; one that both have is taken from the first.

    The steps of a metric increase, as in a journal that was never damaged: a point that was measured again after a
    resume stands before those of later steps, though it is newer.
    """
    merged = {(point.name, point.step): point for point in points}
    for point in others:
        merged.setdefault((point.name, point.step), point)
    latest: dict[str, float] = {}
    ordered: list[tuple[float, MetricPoint]] = []
    for point in sorted(merged.values(), key=lambda point: point.step):
        latest[point.name] = max(point.time, latest.get(point.name, point.time))
        ordered.append((latest[point.name], point))
    return [point for _, point in sorted(ordered, key=lambda pair: pair[0])]


def own_names(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the run's names of metrics that have another name in MLflow."""
    return {key.removeprefix(METRIC_TAG): name for key, name in tags.items() if key.startswith(METRIC_TAG)}


def _value(value: float) -> float:
    """Restore infinity, which MLflow stores as the largest number."""
    return value * float("inf") if abs(value) == sys.float_info.max else value


def _rank(metric: str) -> int:
    """Return the rank of a metric in the first upload."""
    if metric.startswith(SYSTEM):
        return len(FIRST) + 1
    return next((rank for rank, prefix in enumerate(FIRST) if metric.startswith(prefix)), len(FIRST))
