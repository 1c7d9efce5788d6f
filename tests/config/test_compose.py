from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from helpers.problems import about
from runner.config import yaml_numbers
from runner.config.compose import Composer
from runner.config.overrides import last_value, quote_texts, to_hydra
from runner.errors import ConfigError
from runner.sweeps.plan.job_configs import Base, numbered, with_values


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("data.root=/a b (c)", "data.root='/a b (c)'"),
        ("data.path=it's", "data.path='it\\'s'"),
        ("tracking.run_name=1.10", "tracking.run_name='1.10'"),
        ("resume=12345678901234567890123456789012", "resume='12345678901234567890123456789012'"),
        ("+resume=a=b", "+resume='a=b'"),
        ("data.path='already (quoted)'", "data.path='already (quoted)'"),
        ("data.path=null", "data.path=null"),
        ("resume=", "resume="),
        ("data.root=${oc.env:HOME}/x", "data.root=${oc.env:HOME}/x"),
        ("tracking.experiment=a", "tracking.experiment=a"),
        ("resume", "resume"),
    ],
)
def test_only_values_of_paths_are_quoted(argument: str, quoted: str) -> None:
    assert quote_texts(argument) == quoted


@pytest.mark.parametrize("text", ["695e0514", "1e5", "007", "true", "1_000", "0x10", ".5", "nan", "2024-01-01", "-0.0"])
@pytest.mark.parametrize(
    "key", ["tracking.experiment", "tracking.run_name", "hydra.sweeper.study_name", "trainer.monitor"]
)
def test_a_text_stays_the_text_that_was_typed(key: str, text: str) -> None:
    assert last_value([f"{key}={text}"], key) == text


def test_each_value_of_a_sweep_stays_the_text_that_was_typed(composer: Composer) -> None:
    def values(argument: str) -> list[str]:
        return composer.reader.values(composer.reader.parse(argument))

    assert values("tracking.run_name=1e5,2e5,a") == ["1e5", "2e5", "a"]
    assert values("tracking.run_name=choice(007,1_000,'b c')") == ["007", "1_000", "b c"]
    assert values("optimizer.lr=1e-1,2e5") == ["0.1", "200000.0"]


def test_texts_are_found_by_the_signature_of_a_target(composer: Composer) -> None:
    typed = ["data=csv", "data.path=1e5", "data.target=2024_01", "data.test_fraction=1e-1", "model=torchvision"]
    cfg, problems = composer.compose([*typed, "model.name=1e5", "tracking.experiment=null"])
    assert cfg is not None and about(problems) == [("tracking.experiment", "missing")]
    assert cfg.data.path == "1e5" and cfg.data.target == "2024_01" and cfg.model.name == "1e5"
    assert cfg.data.test_fraction == 0.1
    cfg, _ = composer.compose(["data=csv", "data.target=2"])
    assert cfg is not None and cfg.data.target == 2
    _, problems = composer.compose(["data=csv", "data.target=2024_01,1e5"], RunMode.MULTIRUN)
    assert not problems and composer.reader.values(composer.reader.parse("data.target=2024_01,1e5")) == [
        "2024_01",
        "1e5",
    ]


def test_a_folder_may_look_like_a_reference(tmp_path: Path, composer: Composer) -> None:
    (tmp_path / "${x}").mkdir()
    cfg, problems = composer.compose(["data=mnist", f"data.root={tmp_path}/${{x}}/data"])
    assert cfg is not None and not problems and cfg.data.root == f"{tmp_path}/${{x}}/data"
    _, problems = composer.compose(["data=mnist", "data.root=${x}/data"])
    assert problems


def test_a_tilde_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert quote_texts("data.root=~/data") == "data.root='/home/me/data'"
    assert quote_texts("tracking.uri=sqlite:///~/x.db") == "tracking.uri='sqlite:////home/me/x.db'"
    assert quote_texts("tracking.run_name=~/x") == "tracking.run_name='~/x'"


def test_commas_separate_values_in_a_sweep() -> None:
    assert quote_texts("data.path=a.csv,b.csv", sweeping=True) == "data.path=a.csv,b.csv"
    assert quote_texts("data.path=a.csv,b.csv") == "data.path='a.csv,b.csv'"


def test_a_preset_changes_the_whole_config() -> None:
    assert to_hydra("experiment=x") == "experiment@_global_=x"
    assert to_hydra("+debug=fast") == "debug@_global_=fast"
    assert to_hydra("debug=null") == to_hydra("~debug") == "~debug@_global_"
    assert to_hydra("model=cnn") == "model=cnn"


def test_the_last_value_typed_counts() -> None:
    assert last_value(["resume=a", "seed=1", "+resume='b c'"], "resume") == "b c"
    assert last_value(["resume=a", "resume=null"], "resume") is None
    assert last_value(["resume=a b (c"], "resume") == "a b (c"
    assert last_value([], "resume") is None


def test_valid_overrides_beside_a_wrong_one_are_applied(composer: Composer) -> None:
    cfg, problems = composer.compose(["modle=cnn", "seed=7", "trainer.epochs=x", "model=cnn", "optimizer.lr=0.5"])
    assert cfg is not None
    assert len(problems) == 2
    assert cfg.seed == 7 and cfg.optimizer.lr == 0.5 and "channels" in cfg.model


def test_a_broken_reference_becomes_a_missing_value(composer: Composer) -> None:
    cfg, problems = composer.compose(["optimizer.lr=${nothing}", "seed=${oc.env:NO_SUCH_VARIABLE}"])
    assert cfg is not None and len(problems) == 2
    assert cfg._get_node("seed")._is_missing() and cfg.optimizer._get_node("lr")._is_missing()


def test_a_reference_is_resolved(composer: Composer) -> None:
    cfg, problems = composer.compose(["data.limit=${data.batch_size}"])
    assert cfg is not None and problems == [] and cfg.data.limit == cfg.data.batch_size == 32


def test_a_sweep_is_expanded_value_by_value(composer: Composer) -> None:
    overrides = ["model=mlp,cnn", "seed=range(0,3)", "tracking.run_name='a b (c)',d", "tracking.log_model=true,false"]
    assert [composer.reader.values(composer.reader.parse(override)) for override in overrides] == [
        ["mlp", "cnn"],
        ["0", "1", "2"],
        ["a b (c)", "d"],
        ["true", "false"],
    ]
    assert not composer.reader.parse("optimizer.lr=0.1").is_sweep_override()
    with pytest.raises(ConfigError, match="bad value="):
        composer.reader.parse("bad value=")
    assert composer.compose(overrides, RunMode.MULTIRUN)[1] == []


def test_setting_values_is_equivalent_to_composing_again(composer: Composer) -> None:
    fixed = ["model=cnn", "trainer.epochs=3", "experiment=tiny_relu"]
    values = ["optimizer.lr=0.5", "data.limit=${data.batch_size}", "model.dropout=0.25", "seed=7", "sweep.jobs=2"]
    assert all(composer.reader.is_value(composer.reader.parse(text)) for text in values)
    others = ["model=cnn", "+model.x=1", "~seed", "hydra.job.num=1", "seed=1,2"]
    assert not any(composer.reader.is_value(composer.reader.parse(text)) for text in others)
    base, _ = composer.compose([*fixed, numbered(0)])
    again, _ = composer.compose([*fixed, *values, numbered(0)])
    quick = with_values(composer, Base(base), values)
    assert OmegaConf.to_container(quick) == OmegaConf.to_container(again)
    assert quick.optimizer.lr == 0.5 and base.optimizer.lr != 0.5
    assert all(with_values(composer, Base(base), [wrong]) is None for wrong in ("seed=x", "modle.x=1"))


def test_a_folder_of_the_users_adds_choices(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.yaml").write_text("_target_: runner.model.mlp.MLP\nhidden: [2]\n")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: tiny\ntrainer:\n  epochs: 3\n"
    )
    mine = Composer(extra=str(tmp_path))
    hidden = [mine.compose(overrides)[0].model.hidden for overrides in ([], ["model=tiny"], ["experiment=mine"])]
    assert hidden == [[128, 64], [2], [2]]
    assert mine.compose(["experiment=mine"])[0].trainer.epochs == 3, "Hydra's own header is understood too"
    (tmp_path / "model" / "mlp.yaml").write_text("_target_: runner.model.mlp.MLP\nhidden: [3]\n")
    with pytest.raises(ConfigError, match=r"model/mlp\.yaml") as raised:
        Composer(extra=str(tmp_path))
    assert about(raised) == [("--config-dir", "conflict")]


def test_a_user_s_config_can_be_the_primary_one(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("defaults:\n  - config\n  - _self_\nseed: 11\n")
    cfg, problems = Composer(extra=str(tmp_path), name="lab").compose(["trainer.epochs=2"])
    assert problems == [] and cfg is not None and (cfg.seed, cfg.trainer.epochs) == (11, 2)


def test_a_wrong_primary_config_is_not_blamed_on_the_overrides(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("defaults:\n  - config\n  - _self_\nsede: 11\n")
    cfg, problems = Composer(extra=str(tmp_path), name="lab").compose(["seed=1"])
    assert cfg is None and about(problems) == [("sede", "unknown")]


def test_hydra_s_search_path_is_used(tmp_path: Path, composer: Composer) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "far.yaml").write_text("_target_: runner.model.mlp.MLP\nhidden: [4]\n")
    cfg, problems = composer.compose([f"hydra.searchpath=[file://{tmp_path}]", "model=far"])
    assert problems == [] and cfg is not None and cfg.model.hidden == [4]
    assert composer.compose(["model=far"])[1]


def test_folders_that_do_not_exist() -> None:
    nowhere = "/no/such/folder"
    for arguments, expected in (
        ({"extra": nowhere}, ("--config-dir", "file")),
        ({"folder": Path(nowhere)}, ("--config-path", "file")),
        ({"name": "other"}, ("--config-name", "choice")),
    ):
        with pytest.raises(ConfigError) as raised:
            Composer(**arguments)
        assert about(raised) == [expected]


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3", "model=cnn", "optimizer.lr=0.5", "experiment=mnist_cnn", "data.limit=${data.batch_size}", "seed=4"],
        [
            "hydra.run.dir=${hydra:job.override_dirname}",
            "trainer.epochs=2",
            "tracking.experiment=a b",
            "+optimizer.x=1",
        ],
        ["hydra.job.config.override_dirname.kv_sep=:", "model.hidden=[3,4]", "trainer.early_stopping.patience=2"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_config_is_what_hydra_composes(composer: Composer, overrides: list[str]) -> None:
    cfg, problems = composer.compose(overrides)
    given = composer.reader.given(overrides, sweeping=False)
    by_hydra = composer.hydra.compose_config(config_name="config", overrides=given, run_mode=RunMode.RUN)
    assert cfg is not None and problems == []
    mine, theirs = (OmegaConf.to_container(each, resolve=False) for each in (cfg, by_hydra))
    assert mine == theirs
    assert list(mine["hydra"]["overrides"]["task"]) == list(theirs["hydra"]["overrides"]["task"])


def test_few_configs_are_composed_to_find_wrong_overrides_among_many(
    composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composing one takes 0.1 s. Hydra's own keys and choices of groups are only checked by composing."""
    right = ["optimizer=adam", "model=cnn", "+optimizer.x=1", "hydra.job.name=a", "hydra.verbose=true", "seed=2"]
    right += [f"+model.x{number}=1" for number in range(12)]
    composed, compose = [], Composer._compose

    def count(self: Composer, *arguments: Any) -> DictConfig:
        composed.append(arguments)
        return compose(self, *arguments)

    monkeypatch.setattr(Composer, "_compose", count)
    cfg, problems = composer.compose([*right[:9], "hydra.job.nam=a", *right[9:], "hydra.run.dri=b"])
    assert about(problems) == [("hydra.job.nam", "unknown"), ("hydra.run.dri", "unknown")]
    assert [problem.suggestion for problem in problems] == [
        f"did you mean hydra.{key}?" for key in ("job.name", "run.dir")
    ]
    assert cfg is not None and cfg.model.x11 == 1 and cfg.seed == 2 and cfg.hydra.job.name == "a"
    assert len(composed) <= 14, "one by one there are 22"


BEYOND = "99999999999999999999999"


@pytest.mark.parametrize(
    "key", ["trainer.early_stopping.min_delta", "trainer.clip_norm", "optimizer.lr", "sweep.job_timeout", "seed"]
)
def test_a_whole_number_beyond_64_bits_is_out_of_range_for_floats_too(key: str, composer: Composer) -> None:
    _, problems = composer.compose([f"{key}={BEYOND}"])
    assert about(problems) == [(key, "range")] and problems[0].text.startswith(f"{key}={BEYOND}")
    if key != "seed":
        assert composer.compose([f"{key}=1e30"])[1] == []


@pytest.mark.parametrize("number", ["3", "1", "0", "2.5"])
@pytest.mark.parametrize("key", ["trainer.log_norms", "runner.quiet", "sweep.dry_run", "tracking.log_model"])
def test_a_number_is_not_true_or_false(key: str, number: str, composer: Composer) -> None:
    group, _, leaf = key.partition(".")
    for typed in (f"{key}={number}", f"{group}={{{leaf}:{number}}}"):
        _, problems = composer.compose([typed])
        assert about(problems) == [(key, "type")] and problems[0].suggestion == "write true or false"
    assert composer.compose([f"{key}=true", "trainer.compile=${oc.env:NONE,false}"])[1] == []


def test_a_number_in_a_user_s_file_that_composing_would_change_is_refused(tmp_path: Path) -> None:
    for name, text in {
        "trainer/mine.yaml": f"defaults: [default]\nmax_time: {BEYOND}\n",
        "experiment/deep.yaml": f"# @package _global_\ntrainer:\n  early_stopping: {{min_delta: {BEYOND}}}\n",
        "experiment/texts.yaml": "# @package _global_\ntracking:\n  tags: {version: 1.10}\n",
        "data/sheet.yaml": "_target_: runner.data.csv_file.csv_file\npath: t.csv\ntarget: 2024_01\n",
        "experiment/flags.yaml": "# @package _global_\ntrainer:\n  log_norms: 3\n",
        "experiment/right.yaml": (
            "# @package _global_\ntrainer: {log_norms: true, max_time: 1.0e+25}\ntracking:\n"
            "  experiment: '1e5'\n  run_name: 2024-01-01\n  tags: {version: 2, of: \"007\"}\n"
        ),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    composer = Composer(extra=str(tmp_path))
    for choice, line, expected, said in [
        ("trainer=mine", 2, ("trainer.max_time", "range"), f"max_time: {BEYOND}"),
        ("experiment=deep", 3, ("trainer.early_stopping.min_delta", "range"), f"min_delta: {BEYOND}"),
        ("experiment=texts", 3, ("tracking.tags.version", "type"), "version: 1.10 is read as 1.1"),
        ("experiment=flags", 3, ("trainer.log_norms", "type"), "log_norms: 3"),
        ("data=sheet", 3, ("data.target", "type"), "target: 2024_01 is read as 202401"),
    ]:
        file = f"{tmp_path}/{choice.replace('=', '/')}.yaml"
        (problem,) = composer.compose([choice])[1]
        assert about([problem]) == [expected]
        assert problem.text.startswith(f"{choice}: {file}, line {line}: {said}")
        assert (
            expected[1] == "range"
            or "true or false" in problem.suggestion
            or f"'{said.split()[1]}'" in problem.suggestion
        )
    cfg, problems = composer.compose(["experiment=right"])
    assert cfg is not None and problems == []
    assert (cfg.tracking.experiment, cfg.tracking.run_name) == ("1e5", "2024-01-01")
    assert cfg.tracking.tags == {"version": 2, "of": "007"} and cfg.trainer.max_time == 1e25


@pytest.mark.parametrize("text", ["1e5", "007", "1_000", "yes", "1.10", "0x10", ".5"])
def test_a_text_that_yaml_reads_as_a_number_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"experiment: {text}\n")
    with pytest.raises(ConfigError) as raised:
        yaml_numbers.check_numbers(file, "tracking")
    assert about(raised) == [("tracking.experiment", "type")] and f"'{text}'" in raised.value.problems[0].suggestion
    file.write_text(f"experiment: '{text}'\nname: {text}\n")  # a choice, which is checked as such
    yaml_numbers.check_numbers(file, "tracking")
