"""A team's server, MLflow with basic-auth on a PostgreSQL: outages of both, and refusals. `scripts/soak`."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from helpers import postgres, team
from helpers.bowl import SPACE, TRAINED, write_bowl
from helpers.sweeping import sweep_folder, table, wait_for
from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.manifest import Manifest
from runner.tracking.store import connect

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(team.missing() is not None, reason=str(team.missing())),
]

SLOW = ("trainer.epochs=20", "model.seconds=0.05", "tracking=server")
USERS = ("ada", "bob", "cyd")


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Postgres]:
    folder = Path(tempfile.mkdtemp())
    database = postgres.Postgres(folder)
    database.start()
    yield database
    with suppress(subprocess.CalledProcessError):  # it may be stopped already
        database.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(database: postgres.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[team.TeamServer]:
    server = team.TeamServer(tmp_path_factory.mktemp("server"), database)
    server.start()
    for user in USERS:
        server.admin.create_user(user, team.PASSWORD)
    yield server
    server.signal(signal.SIGKILL)


class Users:
    """The users' commands, each user in a folder with the model."""

    def __init__(self, server: team.TeamServer, folder: Path) -> None:
        self._server, self._folder = server, folder
        for user in USERS:
            (folder / user).mkdir()
            write_bowl(folder / user)

    def folder(self, user: str) -> Path:
        return self._folder / user

    def start(self, user: str, *words: str, password: str = team.PASSWORD) -> subprocess.Popen[str]:
        """Start `python -m ...` as a user."""
        environment = self._server.environment_of(user, password)
        command = [sys.executable, "-m", *words]
        return subprocess.Popen(command, cwd=self.folder(user), env=environment, stderr=subprocess.PIPE, text=True)

    def run(self, user: str, *words: str, password: str = team.PASSWORD) -> tuple[int, str]:
        """Run a command to its end, and return its exit code and what it printed."""
        process = self.start(user, *words, password=password)
        _, printed = process.communicate(timeout=400)
        return process.returncode, printed

    def slow(self, experiment: str) -> tuple[str, ...]:
        """Return the arguments of a run that takes seconds and is recorded on the server."""
        return (*TRAINED, *SLOW, f"tracking.uri={self._server.uri}", f"tracking.experiment={experiment}")


@pytest.fixture
def users(server: team.TeamServer, tmp_path: Path) -> Users:
    return Users(server, tmp_path)


def commands(printed: str, name: str) -> list[list[str]]:
    """Return the words behind `python -m` of the printed commands of this name."""
    return [shlex.split(found) for found in re.findall(rf"python -m ({name} [^\n]*)", printed)]


def run_folders(folder: Path) -> list[Path]:
    return [path.parent.parent for path in sorted(folder.rglob(".tracking/manifest.json"))]


def assert_delivered(server: team.TeamServer, folder: Path) -> None:
    """Check that the server has each point of a run's journal once, its status and its place in the sweep."""
    client, manifest = connect(server.address_of("admin")), Manifest.load(folder)
    run = client.get_run(str(DeliveryState.load(folder).run_id))
    assert (run.info.status, manifest.status) == ("FINISHED", "FINISHED"), folder
    points: dict[str, list[tuple[int, float]]] = {}
    for name, value, step, _ in journal.read(folder / layout.JOURNAL)[0]:
        points.setdefault(name, []).append((step, value))
    assert points.keys() == run.data.metrics.keys()
    for name, expected in points.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert sorted((point.step, point.value) for point in history) == sorted(expected), (folder, name)
    assert manifest.params.keys() <= run.data.params.keys()
    if manifest.parent_key is not None:
        assert run.data.tags["mlflow.parentRunId"] == DeliveryState.load(folder.parent).run_id
    if (folder / layout.MODEL).is_dir():
        assert run.outputs is not None and run.outputs.model_outputs


def assert_complete(server: team.TeamServer, sweep: Path, jobs: int) -> None:
    """Check the table of a sweep, here and in the description of its run."""
    rows = table(sweep)["jobs"]
    ids = {row["run_id"] for row in rows}
    assert len(rows) == len(ids) == jobs and {row["status"] for row in rows} == {"FINISHED"}
    assert ids == {DeliveryState.load(sweep / str(number)).run_id for number in range(jobs)}
    assert all(run_id in (sweep / layout.JOBS_TABLE).read_text() for run_id in ids)
    client, run_id = connect(server.address_of("admin")), str(DeliveryState.load(sweep).run_id)
    described = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert all(run_id in described for run_id in ids)
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(client.download_artifacts(run_id, layout.JOBS_TABLE, folder)).read_text()
    assert all(run_id in stored for run_id in ids)


def test_three_users_lose_nothing_while_the_database_and_the_server_are_killed(
    database: postgres.Postgres, server: team.TeamServer, users: Users
) -> None:
    studies = database.add_database("studies")
    started = {
        "ada": [users.start("ada", "runner", "--multirun", *users.slow("of_ada"), f"seed={','.join('012345')}")],
        "bob": [users.start("bob", "runner", "--multirun", *users.slow("of_bob"), "model.x=0.1,0.2,0.4,0.5,0.6,0.8")],
        "cyd": [
            users.start(
                "cyd", "runner", "--multirun", "hydra/sweeper=optuna", *users.slow("of_cyd"), *SPACE,
                "hydra.sweeper.n_trials=4", "sweep.jobs=2", "hydra/sweeper/pruner=none",
                "hydra.sweeper.study_name=s", f"hydra.sweeper.storage={studies}",
            )
        ],
    }  # fmt: skip
    for user, count in (("ada", 1), ("bob", 1), ("cyd", 2)):
        started[user] += [
            users.start(user, "runner", *users.slow(f"of_{user}"), f"seed={seed}") for seed in range(count)
        ]
    root = users.folder("ada").parent
    wait_for(lambda: len({path.parents[4] for path in root.rglob("sweeps/*/*/job.json")}) == 3, 300)
    for number in (1, 2):
        wait_for(lambda number=number: len(list(root.rglob("result.json"))) >= 5 * number, 300)
        database.stop()
        time.sleep(2)
        server.signal(signal.SIGKILL)
        database.start()
        time.sleep(2)
        server.start()
    printed = {user: [process.communicate(timeout=400)[1] for process in of_user] for user, of_user in started.items()}
    for user, of_user in started.items():
        assert [process.returncode for process in of_user] == [0] * len(of_user), printed[user]
    for user, outputs in printed.items():
        assert team.PASSWORD not in "".join(outputs) and "Traceback" not in "".join(outputs)
        for words in [words for output in outputs for words in commands(output, "runner.sync")]:
            code, said = users.run(user, *words)
            assert code == 0, said
        code, said = users.run(user, "runner.sync")
        assert code == 0, said
        assert "nothing to upload" in said or "uploaded as run" in said
    folders = [folder for user in USERS for folder in run_folders(users.folder(user))]
    assert len(folders) == 20 + 3
    for folder in folders:
        assert_delivered(server, folder)
    for user, jobs in (("ada", 6), ("bob", 6), ("cyd", 4)):
        assert_complete(server, sweep_folder(users.folder(user)), jobs)
    for user, outputs in printed.items():
        (words,) = commands(outputs[1], "runner")
        code, said = users.run(user, *words)
        assert code == 0 and "resumed " in said, said
        for sync in commands(said, "runner.sync"):
            assert users.run(user, *sync)[0] == 0
        assert_delivered(server, users.folder(user) / words[1].partition("=")[2])


def test_refusals_are_told_and_delivered_once_they_are_lifted(server: team.TeamServer, users: Users) -> None:
    code, printed = users.run("ada", "runner", *users.slow("ours"), "trainer.epochs=2")
    assert code == 0
    client = connect(server.address_of("admin"))
    ours = client.get_experiment_by_name("ours").experiment_id
    code, printed = users.run("bob", "runner", *users.slow("ours"), "trainer.epochs=2")
    assert code == 0 and "refused access (403)" in printed and "the experiment ours;" in printed
    code, printed = users.run("cyd", "runner", *users.slow("theirs"), "trainer.epochs=2", password="wrong")
    assert code == 0 and "refused access (401): set MLFLOW_TRACKING_USERNAME" in printed
    for user, words in (("bob", "(403)"), ("cyd", "(401)")):
        (folder,) = run_folders(users.folder(user))
        code, said = users.run(user, "runner.sync", password="wrong" if user == "cyd" else team.PASSWORD)
        assert code == 1 and words in said
        server.admin.grant_user_permission(user, "experiment", ours, "EDIT")
        code, said = users.run(user, "runner.sync", f"run={folder}")
        assert code == 0, said
        assert_delivered(server, folder)


def test_a_password_that_changes_in_mid_run_is_told(server: team.TeamServer, users: Users) -> None:
    run = users.start("bob", "runner", *users.slow("changing"), "trainer.epochs=400")
    wait_for(lambda: [folder for folder in run_folders(users.folder("bob")) if DeliveryState.load(folder).run_id])
    server.admin.update_user_password("bob", "a new one: 2000")
    try:
        (folder,) = run_folders(users.folder("bob"))
        wait_for(lambda: "refused access (401)" in (folder / layout.LOG).read_text())
        run.send_signal(signal.SIGTERM)
        _, printed = run.communicate(timeout=60)
        assert run.returncode == 143
        (sync,) = {tuple(words) for words in commands(printed, "runner.sync")}
        code, said = users.run("bob", *sync, password="a new one: 2000")
        assert code == 0, said
        assert json.loads((folder / layout.RESULT).read_text())["run_id"] == DeliveryState.load(folder).run_id
    finally:
        server.admin.update_user_password("bob", team.PASSWORD)


def test_who_may_not_write_to_a_registered_model_gets_one_line_and_the_run_is_finished(
    server: team.TeamServer, users: Users
) -> None:
    own = ("runner", "tracking=server", f"tracking.uri={server.uri}", "trainer.epochs=1", "tracking.register=shared")
    code, printed = users.run("ada", *own, "tracking.experiment=models of ada")
    assert code == 0 and "champion   shared: version 1 is the champion, the first" in printed
    code, printed = users.run("bob", *own, "tracking.experiment=models of bob")
    assert code == 0 and "upload to MLflow incomplete" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("champion")]
    assert "shared: not decided yet: the server refuses it (403): this account has no permission for the" in line
    (folder,) = (users.folder("bob") / "outputs" / "runs").iterdir()
    assert Manifest.load(folder).status == DeliveryState.load(folder).status == "FINISHED"
    server.admin.grant_user_permission("bob", "registered_model", "shared", "EDIT")
    code, printed = users.run("bob", "runner.sync", f"run={folder}")
    assert code == 0 and "version 1 stays: version 2 is not surely better" in printed
