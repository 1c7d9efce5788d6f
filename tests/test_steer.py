"""`runner.steer`: a running sweep obeys, and says what it cannot do."""

import time
from pathlib import Path

import pytest

from helpers.killed import assert_ended_the_same
from helpers.sweeping import Forked, outcomes, results, sweep_folder, table, wait_for
from runner.config.compose import Composer
from runner.errors import ConfigError
from runner.rundir import layout, requests
from runner.rundir.lock import lock
from runner.steer import main
from runner.sweeps.jobs import Job
from runner.sweeps.plan.added import add_job
from runner.sweeps.plan.plan import Plan, difference, load
from runner.tracking.store import connect, local_uri
from runner.util.files import write_json

SMALL = ("data.limit=200", "model.hidden=[8]", "tracking.log_model=false")

LONG = "trainer.epochs=100"

HALVED = ("hydra.sweeper.max_epochs=400", "hydra.sweeper.min_epochs=200", "hydra.sweeper.eta=2")


def test_a_job_is_stopped_and_another_one_added(tmp_path: Path) -> None:
    sweep = Forked(tmp_path, "--multirun", "optimizer.lr=0.1,0.03", *SMALL, "sweep.jobs=1", "tracking=off", LONG)
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/0/metrics.jsonl")))
    folder = sweep_folder(tmp_path)
    assert main([f"sweep={folder}", "stop=0"]) == 0
    assert main([f"sweep={folder}", "clone=1", "trainer.epochs=1"]) == 0
    code, printed = sweep.wait()
    assert code == 0, printed
    assert [(row["job"], row["status"]) for row in table(folder)["jobs"]][-1] == (0, "KILLED")
    assert {number: result["epochs"] for number, result in results(folder).items() if number} == {1: 100, 2: 1}


@pytest.mark.soak
def test_jobs_are_stopped_go_on_and_are_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = ("optimizer.lr=0.1,0.03,0.01", *SMALL, "sweep.jobs=1")
    sweep = Forked(tmp_path, "--multirun", *axes, LONG)
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/0/metrics.jsonl")))
    folder = sweep_folder(tmp_path)

    def steer(*arguments: str) -> int:
        return main([f"sweep={folder}", *arguments])

    asked = time.monotonic()
    assert steer("stop=0") == 0
    wait_for(lambda: 0 in outcomes(folder))
    assert time.monotonic() - asked < 30, "not at its end"
    assert outcomes(folder)[0]["status"] == "KILLED" and results(folder)[0]["status"] == "KILLED"
    assert steer("stop=2") == 0 and 2 in outcomes(folder)
    assert steer("go_on=0") == 0
    assert steer("clone=1", "optimizer.lr=0.05", "model.dropout=0.5") == 0
    assert steer("add=optimizer.lr=0.2 trainer.epochs=2") == 0
    capsys.readouterr()
    wrong = [("stop=9", "no job 9"), ("clone=1 optimizer.lr=0.01", "already"), ("clone=1 optimizer.bogus=1", "bogus"),
             ("clone=1 optimizer.lr=0.1,0.2", "one value"), ("clone=1 sweep.jobs=2", "share")]  # fmt: skip
    for arguments, word in wrong:
        assert steer(*arguments.split()) == 2
        assert word in capsys.readouterr().err
    code, printed = sweep.wait()
    assert code == 0, printed
    ended = results(folder)
    assert {number: result["status"] for number, result in ended.items()} == dict.fromkeys((0, 1, 3, 4), "FINISHED")
    assert (ended[3]["epochs"], ended[4]["epochs"]) == (100, 2)
    rows = {row["job"]: row for row in table(folder)["jobs"]}
    assert rows[2]["status"] == "KILLED" and len(rows) == 5
    client = connect(local_uri(tmp_path / "outputs"))
    for number, params in {3: {"optimizer.lr": "0.05", "model.dropout": "0.5"}, 4: {"optimizer.lr": "0.2"}}.items():
        logged = client.get_run(ended[number]["run_id"])
        assert logged.info.status == "FINISHED" and params.items() <= logged.data.params.items()
    assert steer("go_on=2") == 2 and "sweep.resume=" in capsys.readouterr().err
    code, printed = Forked(tmp_path, "--multirun", f"sweep.resume={folder}", "tracking.wait=0").wait()
    assert code == 0 and results(folder)[2]["status"] == "FINISHED", printed
    assert Forked(tmp_path, LONG, *SMALL, "optimizer.lr=0.1", "hydra.run.dir=whole").wait()[0] == 0
    assert_ended_the_same(folder / "0", tmp_path / "whole")


@pytest.mark.parametrize("arguments", ["stop=x", "clone=1", "add=lr", "add='", "clone=1 stop", "", "stopp=1"])
def test_what_is_wrong_before_the_sweep_is_asked(arguments: str, tmp_path: Path) -> None:
    assert main([f"sweep={tmp_path}", *arguments.split()]) == 2


def test_a_sweep_that_ends_does_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / layout.SWEEP_PLAN).write_text("{}")
    assert main([f"sweep={tmp_path}", "stop=0"]) == 2
    assert "does not run" in capsys.readouterr().err
    with lock(tmp_path):
        assert requests.ask(tmp_path, {"stop": 0}, seconds=0.1) is None
    assert not list(requests.waiting(tmp_path)), "and is not obeyed later"


def test_requests_come_in_order_and_those_of_an_earlier_start_are_forgotten(tmp_path: Path) -> None:
    assert list(requests.waiting(tmp_path)) == []
    folder = tmp_path / layout.REQUESTS
    folder.mkdir()
    for name in ("2-9.json", "1-9.json"):
        write_json(folder / name, {"stop": name})
    (folder / "3-9.json").write_text("{")
    (first, asked), *others = requests.waiting(tmp_path)
    assert asked == {"stop": "1-9.json"} and [content for _, content in others] == [{"stop": "2-9.json"}, {}]
    requests.answer(first, {"done": "it"})
    assert len(list(requests.waiting(tmp_path))) == 2
    requests.forget(tmp_path)
    assert not folder.exists()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "mine.json").write_text("{}")
    folder.symlink_to(elsewhere)
    requests.forget(tmp_path)
    assert (elsewhere / "mine.json").exists() and not folder.is_symlink()


def test_an_added_job_in_the_plan(tmp_path: Path) -> None:
    jobs = [
        Job(n, f"lr={lr}", {"optimizer.lr": lr}, ("seed=1", f"optimizer.lr={lr}"), own=1) for n, lr in enumerate("12")
    ]
    plan = Plan({"optimizer.lr": "1,2"}, jobs)
    job = add_job(Composer(), plan, ["model=cnn"], plan.jobs[1])
    assert job.overrides == ("seed=1", "optimizer.lr=2", "model=cnn") and job.own == 2 and job.number == 2
    assert plan.jobs[2] is job and job.point == {"optimizer.lr": "2", "model": "cnn"}
    assert plan.axes == {"optimizer.lr": "1,2", "model": "cnn"}
    saved = tmp_path / "saved"
    saved.mkdir()
    plan.save(saved, [], {})
    assert load(saved)[0] == plan and not difference(Composer(), plan, Plan({}, jobs))[1], "a resume does not miss it"
    assert add_job(Composer(), plan, ["optimizer.lr=3"], None).overrides == ("seed=1", "optimizer.lr=3")
    with pytest.raises(ConfigError):
        add_job(Composer(), plan, ["optimizer.lr=2"], plan.jobs[0])


@pytest.mark.soak
@pytest.mark.parametrize("method", ["halving", "optuna"])
def test_a_sweep_that_decides_by_results_gets_no_job_but_stops_one(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {
        "halving": ("optimizer.lr=0.3,0.1", *HALVED),
        "optuna": ("optimizer.lr=interval(0.01,0.1)", "hydra.sweeper.n_trials=2", "trainer.epochs=400"),
    }[method]
    sweep = Forked(tmp_path, "--multirun", f"hydra/sweeper={method}", *chosen, *SMALL, "sweep.jobs=1", "tracking=off")
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/0/metrics.jsonl")))
    folder = sweep_folder(tmp_path)
    assert main([f"sweep={folder}", "add=optimizer.lr=0.2"]) == 2
    assert "decides" in capsys.readouterr().err
    assert main([f"sweep={folder}", "stop=0"]) == 0
    _, printed = sweep.wait()
    assert outcomes(folder)[0]["why"] == "stopped by runner.steer", printed
    assert results(folder)[1]["status"] == "FINISHED", printed
