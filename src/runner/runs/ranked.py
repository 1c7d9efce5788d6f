"""A run of several ranks: one command starts them; rank 0 has the config and the record, and the others follow it."""

import logging
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from runner.config.credentials import without_credentials
from runner.config.hydra_job import without_hydra
from runner.errors import ConfigError, Problem, describe_error
from runner.rundir import layout
from runner.rundir.checkpoint import NoCheckpoints
from runner.util import cores, events, terminal
from runner.util.options import EXIT_FAILED, EXIT_SIGNAL
from runner.util.ranks import TORCHRUN, Ranks
from runner.util.redaction import redact
from runner.util.stopping import INTERRUPT, Stop

log = logging.getLogger("runner")

if TYPE_CHECKING:
    from runner.assembly.experiment import Experiment
    from runner.training.state import Training


def check(cfg: DictConfig) -> int | None:
    """Find out who starts the ranks of a run.

    Returns:
        The number of ranks that this process has to start; None if it trains itself.

    Raises:
        ConfigError: nobody starts them, or torchrun has started others than the config asks for.
    """
    name, count, group = cfg.strategy.name, cfg.strategy.nproc_per_node, Ranks.here()
    if name == "single":
        if group is not None and group.count > 1:
            text = f"strategy=single is one process, and torchrun has started {group.count}"
            raise ConfigError(Problem("strategy", text, "write strategy=ddp", topic="conflict"))
        if count is not None:
            text = f"strategy.nproc_per_node={count}: strategy=single is one process"
            raise ConfigError(Problem("strategy.nproc_per_node", text, "add strategy=ddp", topic="conflict"))
        return None
    if group is None:
        if count is not None:
            return int(count)
        text = f"strategy={name} trains on several ranks, and nobody has started them"
        instead = (
            "add strategy.nproc_per_node=2, which starts two on this machine, "
            f"or write torchrun --nproc-per-node=2 -m runner strategy={name} ..."
        )
        raise ConfigError(Problem("strategy", text, instead, topic="missing"))
    if count not in (None, group.local_count):
        text = f"strategy.nproc_per_node={count}: torchrun has started {group.local_count} ranks on this machine"
        raise ConfigError(Problem("strategy.nproc_per_node", text, "leave it out", topic="conflict"))
    return None


def launch(argv: Sequence[str], count: int, module: str = "runner", machines: Sequence[str] = ("--standalone",)) -> int:
    """Start a command as several ranks on this machine, and wait for them.

    Args:
        argv: the arguments of `python -m <module>`.
        count: the number of ranks.
        module: the command.
        machines: the options of torchrun that tell it of other machines with as many ranks each.

    Returns:
        The exit code of rank 0, or that of a signal.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ[TORCHRUN] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores.usable_cores() // count)))
    events.name_pipe()
    logging.disable(logging.CRITICAL)  # of torchrun: rank 0 says what happens
    arguments = [*machines, f"--nproc-per-node={count}", "-m", module, *argv]
    try:
        run.run(run.get_args_parser().parse_args(arguments))
    except SignalException as interruption:
        return EXIT_SIGNAL + int(interruption.sigval)
    except ChildFailedError as error:
        code = error.failures[0].exitcode if 0 in error.failures else EXIT_FAILED
        return code if code > 0 else EXIT_FAILED
    return 0


@dataclass
class Handed:
    """What the other ranks get from rank 0.

    Attributes:
        config: composed, with Hydra's own node. Anyone who reaches the port of torchrun can read it: a secret of the
            environment is a reference in it, and the address of the tracking store is without credentials.
        choices: which member of each group was chosen.
        preprocessing: of a resumed run; None for a new one.
        folder: of the run.
        path: the folders that Python looks for modules in.
        pause_after: the epoch after which the run pauses; None: it does not.
    """

    config: bytes
    choices: Mapping[str, str]
    preprocessing: Mapping[str, Any] | None
    folder: Path
    path: Sequence[str]
    pause_after: int | None


@contextmanager
def leading(experiment: "Experiment", cfg: DictConfig, folder: Path) -> Iterator[None]:
    """Give the other ranks of a run what they need, and be one of them within a block; nothing for a single process.

    Args:
        experiment: of this process, rank 0.
        cfg: its config, with Hydra's own node.
        folder: of the run.
    """
    group = Ranks.here() if cfg.strategy.name != "single" else None
    if group is None:
        yield
        return
    group.remember("folder", str(folder.absolute()))
    config, place = pickle.dumps(without_credentials(cfg)), folder.absolute()
    handed = Handed(config, experiment.choices, experiment.fitted, place, list(sys.path), experiment.pause_after)
    group.hand_on(handed)
    with group.joined(), INTERRUPT.deferred():
        _start_together(experiment)
        yield
        # Torchrun sends it when a rank has failed: this run has its result, and an exit code.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def lead(group: Ranks, answer: Callable[[Path | None], int]) -> int:
    """Run a command as rank 0 of several; if torchrun has started them again, resume what they had begun.

    Args:
        group: the ranks.
        answer: runs the command, or resumes the run in a folder, and returns the exit code.
    """
    folder = group.remembered("folder") if "TORCHELASTIC_RUN_ID" in os.environ else None
    begun = folder is not None and (Path(folder) / layout.CHECKPOINTS / layout.LAST).exists()
    with dismissing():
        return answer(Path(folder) if folder is not None and begun else None)


@contextmanager
def dismissing() -> Iterator[None]:
    """Let the other ranks end if there was no run for them; torchrun ends them if this one has failed."""
    yield
    if (group := Ranks.here()) is not None:
        group.hand_on(None)


def _start_together(experiment: "Experiment") -> None:
    """Agree with the other ranks on samples and weights.

    Raises:
        ConfigError: the ranks differ.
    """
    share_streams(experiment)
    experiment.strategy.start_alike(experiment.model)


def share_streams(experiment: "Experiment") -> None:
    """Agree with the other ranks on who reads which samples of a stream; each calls it once, before it trains.

    Raises:
        ConfigError: samples would be read twice, or each rank would normalise them otherwise.
    """
    from runner.data.stream_part import StreamPart
    from runner.data.stream_shares import divide

    splits, strategy = experiment.splits, experiment.strategy
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    streams = {name: part for name, part in parts.items() if isinstance(part, StreamPart)}
    if strategy.ranks == 1 or not streams:
        return
    for note in divide(streams, strategy.gather):
        log.info("data       %s", note)
    normalize = experiment.splits.normalize
    measured = strategy.gather((normalize.mean.tolist(), normalize.std.tolist()))
    if any(other != measured[0] for other in measured):
        text = "data: each rank measures its own mean and standard deviation of a stream"
        raise ConfigError(Problem("data", text, "return Source(mean=..., std=...)", topic="conflict"))


def follow(group: Ranks) -> int:
    """Train as a rank other than 0: everything but the record.

    Returns:
        The exit code.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # nothing is to close, and rank 0 says it
        signal.signal(number, signal.SIG_DFL)
    stop, handed = Stop(), group.receive()
    if handed is None:
        return 0
    _write_to(handed.folder / layout.RANKS / f"{group.rank}.log")
    terminal.configure_logging()
    with group.joined():
        try:
            with stop.listening():
                return _train(group, handed, stop)
        except BaseException as error:
            traceback.print_exc()
            group.report(error, redact(describe_error(error)), redact(traceback.format_exc()))
            return EXIT_FAILED


def _train(group: Ranks, handed: Handed, stop: Stop) -> int:
    from runner.assembly import build
    from runner.training.state import Interrupted, Paused

    sys.path[:] = handed.path
    cfg = pickle.loads(handed.config)
    cfg.device.index += group.local_rank
    experiment = build.build(without_hydra(cfg), handed.choices, (), handed.preprocessing)
    experiment.pause_after = handed.pause_after
    _start_together(experiment)
    with tempfile.TemporaryDirectory() as folder, closing(experiment.loaders):
        try:
            _fit_and_test(_make_training(experiment, Path(folder), stop, handed.folder), experiment)
        except Paused:
            return 0
        except Interrupted:
            return EXIT_SIGNAL + stop.signal
    return 0


def _make_training(experiment: "Experiment", folder: Path, stop: Stop, of_run: Path) -> "Training":
    """Make a training that records nothing but its shards: what callbacks write goes to a temporary folder."""
    from runner.runs.checkpoints import make_checkpoints
    from runner.training.display import Bar
    from runner.training.state import make_training

    train = experiment.loaders.train
    bar = Bar(experiment.trainer.epochs, train.batch_size, train.samples, quiet=True)
    state = make_training(experiment, NoCheckpoints(folder / layout.CHECKPOINTS), lambda *_: None, bar, stop)
    if state.strategy.divides:
        state.checkpoints = make_checkpoints(experiment, of_run)
    return state


def _fit_and_test(state: "Training", experiment: "Experiment") -> None:
    import torch

    from runner.model.recomputation import recomputing
    from runner.runs.phases import test
    from runner.training.compilation import compile_model
    from runner.training.loop import fit
    from runner.training.memory import measured_memory
    from runner.training.predictions import Predictions
    from runner.training.saving import restore
    from runner.util.rng import derive_seed

    torch.manual_seed(derive_seed("rank", experiment.seed, state.strategy.rank))  # of dropout: the weights are made
    if (checkpoint := state.strategy.send(lambda: None)) is not None:
        restore(state, checkpoint)
    if state.settings.compile and state.progress.epoch <= state.settings.epochs:
        compile_model(state)
    with recomputing(state.model, state.settings.activation_checkpointing), measured_memory(state):
        fit(state)
    test(state, Predictions(experiment.task, experiment.target_scale))


def _write_to(path: Path) -> None:
    """Let this process write to a file instead of the terminal, on the disk of its own machine if none is shared."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        print(f"note       the log of this rank is here: {describe_error(error)}", file=sys.stderr)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(number, 1)
    os.dup2(number, 2)
    os.close(number)
