"""Jobs of a sweep, as its parts pass them to each other; importing this does not load torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.rundir import layout
from runner.util.files import write_json


@dataclass(frozen=True)
class Job:
    """One point of a sweep.

    Attributes:
        number: from 0; also the name of its folder.
        name: the values that tell it from the other jobs: `lr=0.1 batch_size=32`.
        point: the value of each axis.
        overrides: all arguments that it is composed from.
        own: how many of the last ones are not those of all jobs; an axis of several keys has one for each.
        added: whether the user has added it while the sweep ran: its command does not ask for it.
    """

    number: int
    name: str
    point: dict[str, str]
    overrides: tuple[str, ...]
    own: int = 0
    added: bool = False

    @property
    def own_overrides(self) -> tuple[str, ...]:
        """The arguments that are not those of all jobs."""
        return self.overrides[len(self.overrides) - self.own :]


@dataclass(frozen=True)
class JobInfo:
    """Facts about a job that the check has built.

    Attributes:
        device: the type of the device that it will compute on.
        metrics: names of the metrics by which it can be ranked.
        monitor: the metric that decides which epoch is its best; None if it measures no loss, and none was chosen.
        higher_is_better: those of the metrics that rise as a model improves.
        shown: those of the metrics that the table shows if there is none to rank by.
        unreadable: metrics that this machine cannot measure, each with the reason and what to do about it.
        kind: the same for jobs that differ only in numbers which the models of a stack may differ in.
        seed: of the job.
        why_alone: what keeps it from being trained in a stack; None: nothing.
        bytes: of its trained weights.
    """

    device: str
    metrics: list[str]
    monitor: str | None
    higher_is_better: Sequence[str] = ()
    shown: Sequence[str] = ()
    unreadable: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    kind: str = ""
    seed: int = 0
    why_alone: str | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Nodes:
    """The machines of a job, each with as many of its ranks.

    Attributes:
        count: of them.
        number: of this one, from 0.
        address: of the first one.
        port: there, where the ranks meet.
    """

    count: int
    number: int
    address: str
    port: int


@dataclass(frozen=True)
class JobSpec:
    """Everything that a job's process needs to run it.

    Attributes:
        number: of the job.
        folder: its own, which exists.
        config: composed, with Hydra's node, pickled; None resumes the run in the folder.
        where: its working directory.
        environment: its environment variables.
        uri: of the tracking store, with the credentials that no file holds.
        config_path: the primary config folder, if it is not runner's own.
        config_dir: the user's folder of group members.
        epochs: planned.
        artifacts: `all` or `best`: which jobs of the sweep have plots and a saved model.
        group: with `best`, only jobs of the same group are compared.
        pause_after: the epoch after which it pauses; None: it does not.
        ranks: that train it together, on one machine or on each of several; None: its own process does.
        nodes: the machines; None: there is one.
    """

    number: int
    folder: Path
    config: bytes | None
    where: str
    environment: dict[str, str] = field(repr=False)
    uri: str | None = field(repr=False)
    config_path: str | None
    config_dir: str | None
    epochs: int
    artifacts: str = "all"
    group: str = ""
    pause_after: int | None = None
    ranks: int | None = None
    nodes: Nodes | None = None

    @property
    def printed(self) -> Path:
        """The file for the output of its process on this machine."""
        if self.nodes is None or self.nodes.number == 0:
            return self.folder / layout.LOG
        return self.folder / layout.RANKS / f"node{self.nodes.number}.log"


@dataclass(frozen=True)
class StackSpec:
    """Everything that the process of a stack needs.

    Attributes:
        name: of its files in the sweep's folder.
        folder: of the sweep.
        where: its working directory.
        environment: its environment variables.
        jobs: its members, in order.
    """

    name: str
    folder: Path
    where: str
    environment: dict[str, str] = field(repr=False)
    jobs: Sequence[JobSpec]

    @property
    def file(self) -> Path:
        """The file of its checkpoints."""
        return self.folder / layout.STACKS / f"{self.name}.pt"


@dataclass(frozen=True)
class JobProgress:
    """How far a job is.

    Attributes:
        done: epochs, with the share of the current one.
        epochs: planned.
        metrics: the newest values.
    """

    done: float
    epochs: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended.

    Attributes:
        status: FINISHED, FAILED, KILLED or PAUSED.
        reason: why it ended early; empty if it ran to its end.
        seconds: from its start to its end.
        by_request: whether it ended because the whole sweep was stopped.
    """

    status: str
    reason: str
    seconds: float
    by_request: bool = False

    @property
    def as_planned(self) -> bool:
        """Whether it has finished, or paused as the sweep has asked it to."""
        return self.status in ("FINISHED", "PAUSED")

    @property
    def pruned(self) -> bool:
        """Whether its search has pruned it, which is not a failure; `reason` says when."""
        return self.status == "FINISHED" and bool(self.reason)

    def save(self, folder: Path, name: str) -> None:
        """Write it, with the job's name, into the job's folder."""
        content = {"name": name, "status": self.status, "why": self.reason, "seconds": self.seconds}
        write_json(folder / layout.JOB, content, private=True)
