"""Register the best model of a finished run, and make it the champion if it is surely better than the one that is.

Every step can be repeated: after a kill, the next call finds the version that was made, and goes on.
"""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path

from runner.comparison.paired_tests import PairedTest
from runner.errors import ConfigError
from runner.rundir import layout, registration
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import shell_path
from runner.rundir.lock import lock
from runner.rundir.manifest import Manifest, manifest_of
from runner.runs.judged import Incomparable, Judged, compare, judge, write
from runner.saved.folds import FOLD, SavedFolds, find_folds
from runner.saved.run import SavedRun, find
from runner.saved.sweep_folder import is_sweep
from runner.saved.weights import hash_tensors, weights_of_run
from runner.tracking.artifacts import MLMODEL
from runner.tracking.deliver import Delivery
from runner.tracking.registry import Registry, Version
from runner.tracking.store import connect
from runner.tracking.trouble import explain, http_status
from runner.util.metric_names import format_metric
from runner.util.tags import BEST_JOB_TAG, CHAMPION_TAG, REGISTERED_TAG, TEST_TAG, WEIGHTS_TAG
from runner.util.terminal import TRACKING, about, log_to_file

log = logging.getLogger("runner")

TABLE = f"{layout.ARTIFACTS}/champion.csv"
"""The samples of the test part with the predictions of both models."""

Model = SavedRun | SavedFolds

ATTEMPTS = 5
"""How many champions a model is compared with if others become it meanwhile."""


class NotYet(Exception):
    """The model cannot be registered now; the message says why."""


@dataclass(frozen=True)
class Decision:
    """Whether a version becomes the champion.

    Attributes:
        chosen: whether it does.
        former: the champion before; None if there was none, or if it is the version itself.
        test: how the two were compared; None if they were not.
        reason: why they were not.
    """

    chosen: bool
    former: Version | None = None
    test: PairedTest | None = None
    reason: str = ""

    def describe(self, version: str) -> str:
        """Describe the decision about a version in a line."""
        if self.former is None:
            return f"version {version} is the champion, {self.reason}"
        if self.chosen:
            return f"version {version} replaces version {self.former.number}: {_describe(self.test)}"
        why = self.reason if self.test is None else f"version {version} is not surely better: {_describe(self.test)}"
        return f"version {self.former.number} stays: {why}"


def _describe(test: PairedTest | None) -> str:
    assert test is not None
    new, old = (format_metric(f"test/{test.measure}", value).strip() for value in (test.new, test.old))
    p = "" if test.p is None else f", p = {test.p:.2g}"
    return f"{test.measure} {new}, was {old}, of {test.samples:,} test samples ({test.reason}{p})"


def register_due(folder: Path, uri: str | None = None, locked: bool = False) -> bool:
    """Register the model of a finished run, or of a finished sweep, if that is to be done.

    That of a sweep is the best job's; of a sweep over folds it is their ensemble.

    Args:
        folder: of the run or the sweep; all of it should be in MLflow.
        uri: the address of the store, if it needs credentials or has moved.
        locked: whether this process has locked the folder.

    Returns:
        Whether nothing is left to do. Otherwise a line says why, and how to do it later.
    """
    name = registration.due(folder)
    if name is None:
        return True
    run = _run_of(folder)
    try:
        if run is None:
            raise Incomparable("no job of the sweep has finished, or its folds are not combined")
        with nullcontext() if locked and run == folder else lock(run), log_to_file(run / layout.LOG):
            _register(run, name, uri)
        registration.note(folder)
    except Incomparable as error:  # nothing will change that
        log.warning("champion   nothing is registered as %s: %s", name, error, extra=about(TRACKING))
        registration.note(folder)
    except (Exception, KeyboardInterrupt) as error:  # MLflow, SQLAlchemy and the user's code raise many types
        finish, extra = f"finish with: python -m runner.sync run={shell_path(folder)}", about(TRACKING)
        log.warning("champion   %s: not decided yet: %s; %s", name, _explain(error), finish, extra=extra)
        if isinstance(error, KeyboardInterrupt):
            raise
        return False
    return True


def _explain(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, ConfigError):
        return "; ".join(problem.text for problem in error.problems)
    if isinstance(error, NotYet | Incomparable):
        return str(error)
    if http_status(error) == HTTPStatus.FORBIDDEN:
        return "the server refuses it (403): this account has no permission for the registered model"
    return explain(error)


def _run_of(folder: Path) -> Path | None:
    """Return the folder of the run itself, of the best job of a sweep, or of folds together; None without one."""
    if not is_sweep(folder) or (folder / layout.FOLDS).is_file():
        return folder
    manifest = Manifest.load(folder)
    number = manifest.tags.get(BEST_JOB_TAG) if FOLD not in manifest.params else None
    return None if number is None else folder / number


def _register(folder: Path, name: str, uri: str | None) -> None:
    """Make the model of a run a version, decide whether it is the champion, and record that.

    Raises:
        NotYet: MLflow does not have all of the run.
        Incomparable: the run has no model.
        Exception: the store fails, or the run cannot be evaluated.
    """
    state = _uploaded(folder)
    run = _find(str(folder.resolve()), uri)
    assert state.run_id is not None and state.model_id is not None and run.uri is not None
    registry = Registry(connect(run.uri), name)
    registry.create()
    weights = _hash_weights(run)
    version = registry.find(state.run_id, weights) or registry.add(state.run_id, state.model_id, {WEIGHTS_TAG: weights})
    digest = version.tags.get(TEST_TAG)
    if (said := version.tags.get(CHAMPION_TAG)) is not None:  # a call before was killed after it
        log.info("champion   %s: %s", name, said, extra=about(TRACKING))
    else:
        said, digest = _judge_and_decide(registry, version, run, folder / TABLE)
        registry.tag(version, {CHAMPION_TAG: said})
    look = registry.find_look(digest, version) if digest is not None else None
    manifest = Manifest.load(folder)
    tags = {REGISTERED_TAG: f"{name} version {version.number}"} | (look.to_tags() if look is not None else {})
    replace(manifest, tags=manifest.tags | tags).save(folder)
    Delivery(folder, uri).step()


def _find(value: str, uri: str | None) -> Model:
    return find_folds(value, "run", uri) or find(value, "run", uri)


def _hash_weights(run: Model) -> str:
    if isinstance(run, SavedRun):
        return hash_tensors(weights_of_run(run).tensors)
    members = [weights_of_run(member).tensors for member in run.members]
    return hash_tensors({f"{number}.{name}": t for number, each in enumerate(members) for name, t in each.items()})


def _device_of(run: Model) -> str:
    first = run if isinstance(run, SavedRun) else run.members[0]
    return str(first.config["device"]["name"])


def _judge_and_decide(registry: Registry, version: Version, run: Model, table: Path) -> tuple[str, str | None]:
    """Evaluate a run, decide whether its version is the champion, and say so.

    Returns:
        The first line, and the hash of the test part; None if it was not evaluated.
    """
    try:
        challenger = judge(run, _device_of(run))
    except Incomparable as error:
        said = f"version {version.number} is not compared: {error}"
        log.warning("champion   %s: %s", registry.name, said, extra=about(TRACKING))
        return said, None
    decision = _decide(registry, version, challenger, run, table)
    said = decision.describe(version.number)
    log.info("champion   %s: %s", registry.name, said, extra=about(TRACKING))
    if decision.chosen or decision.test is not None:
        registry.look(challenger.digest, version, decision.chosen)
        look = registry.find_look(challenger.digest, version)
        if look is not None and (warning := look.warn()):
            log.info("           %s", warning, extra=about(TRACKING))
    registry.tag(version, {TEST_TAG: challenger.digest})
    return said, challenger.digest


def _uploaded(folder: Path) -> DeliveryState:
    """Return what MLflow has of a run: all of it, with the model."""
    manifest, state = manifest_of(folder), DeliveryState.load(folder)
    if not (folder / layout.MODEL / MLMODEL).is_file():
        if is_sweep(folder):
            raise Incomparable("its folds have no model together")
        raise Incomparable(f"the run has no saved model; one is made by: python -m runner resume={shell_path(folder)}")
    if manifest is None or (state.status, state.end_time) != (manifest.status, manifest.end_time):
        raise NotYet("MLflow does not have all of the run")
    if state.model_id is None or any(file.partition("/")[0] == layout.MODEL for file in state.refused):
        raise NotYet("MLflow does not have the model")
    return state


def _decide(registry: Registry, version: Version, challenger: Judged, run: Model, table: Path) -> Decision:
    """Compare a version with the champion, and move the alias to it if it is better.

    Another process may move the alias meanwhile: then the new champion counts.
    """
    decision = Decision(True, reason="as it was before")
    for _ in range(ATTEMPTS):
        former = registry.champion()
        if former is not None and former.number == version.number:
            return decision
        if former is None:
            write(table, challenger, None)
            decision = Decision(True, reason="the first")
        else:
            decision = _compare(registry, former, challenger, run, table)
        if not decision.chosen:
            return decision
        registry.promote(version, former)
    raise NotYet(f"others became the champion {ATTEMPTS} times meanwhile")


def _compare(registry: Registry, former: Version, challenger: Judged, run: Model, table: Path) -> Decision:
    """Compare a run with the champion, evaluated on the device of the run."""
    try:
        champion = judge(_saved_model(former, run), _device_of(run))
        test = compare(challenger, champion)
    except Exception as error:  # its code may be gone, which can raise anything
        write(table, challenger, None)
        what = "compared" if isinstance(error, Incomparable) else "evaluated"
        return Decision(False, former, reason=f"it cannot be {what}: {_explain(error)}")
    write(table, challenger, champion)
    return Decision(test.is_better, former, test)


def _saved_model(version: Version, challenger: Model) -> Model:
    """Find the run of a version, or the folds of a sweep, with the weights that were registered.

    Raises:
        ConfigError: it does not exist.
        Incomparable: MLflow does not know the run, or the folds have other weights by now.
    """
    if not version.run_id:
        raise Incomparable("it was registered without its run")
    run = _find(version.run_id, challenger.uri)
    if isinstance(run, SavedFolds):
        if _hash_weights(run) != version.tags.get(WEIGHTS_TAG):
            raise Incomparable("its folds have other weights by now")
        return run
    manifest = manifest_of(run.folder) if run.folder is not None else None
    has_its_weights = (
        run.folder is not None
        and manifest is not None
        and manifest.status == "FINISHED"
        and DeliveryState.load(run.folder).model_id == version.model_id
    )
    if not has_its_weights:  # it was resumed, or is elsewhere
        run.model_id = version.model_id
    return run
