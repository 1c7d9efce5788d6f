"""`runner.predict` of a language model: the text that follows a text."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.problems import about, problem_of
from helpers.serving import asked
from helpers.trained import place, train
from runner import predict
from runner.errors import Problem
from runner.runs.continuation import read_options

SMALL = ("task=language_model", "data=text", "data.path=abc.txt", "data.block=8", "model=gpt", "model.layers=1")


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("continuation")) as folder:
        (folder / "abc.txt").write_text("abc\n" * 400)
        train("language", *SMALL, "trainer.epochs=8", "optimizer=adamw", "optimizer.lr=0.01")
        train("digits")
        yield folder


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str) -> str:
        capsys.readouterr()
        assert predict.main(["run=language", "runner.quiet=true", *arguments]) == 0
        return capsys.readouterr().out

    return call


def test_it_writes_on_greedily_or_as_the_seed_says(written: Callable[..., str]) -> None:
    greedy = ("max_new_tokens=7", "temperature=0")
    made = written("input=abc\na", *greedy)
    assert len(made) == 8 and made.startswith("bc\na"), "what follows in the text"
    Path("start.txt").write_text("abc\na")
    assert written("input=start.txt", *greedy, "seed=5") == made
    drawn = [written("input=a", "max_new_tokens=30", "temperature=20", f"seed={seed}") for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 31
    assert written("input=a", "max_new_tokens=3", "output=out.txt") == "" and len(Path("out.txt").read_text()) == 4


@pytest.mark.parametrize(
    ("arguments", "key", "topic"),
    [
        (["run=language", "input=xyz"], "input", "data"),
        (["run=language", "input=none.txt"], "input", "file"),
        (["run=language", "input=a", "max_new_tokens=many"], "max_new_tokens", "type"),
        (["run=language", "input=a", "temperature=-1"], "temperature", "range"),
        (["run=digits", "input=[1]", "seed=3"], "seed", "conflict"),
    ],
)
def test_what_cannot_be_continued_is_one_sentence(
    arguments: list[str], key: str, topic: str, reported: list[Problem], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert predict.main([*arguments, "runner.quiet=true"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert about(reported) == [(key, topic)]


@pytest.mark.parametrize("typed", [{"max_new_tokens": "-5"}, {"max_new_tokens": "many"}])
def test_the_default_is_suggested(typed: dict[str, str]) -> None:
    assert problem_of(lambda: read_options(typed)).suggestion == "write max_new_tokens=200"


def test_a_server_continues_texts_too(written: Callable[..., str]) -> None:
    made = written("input=abc\na", "max_new_tokens=7", "temperature=0").removesuffix("\n")
    params = {"max_new_tokens": 7, "temperature": 0}
    answer = asked("language", {"inputs": ["abc\na", "b"], "params": params})
    assert answer.content["predictions"][0] == {"text": made} and len(answer.content["predictions"]) == 2
    alone = asked("language", b"abc\na", "text/plain", "max_new_tokens=7&temperature=0", "text/csv")
    assert alone.content == f'sample,text\n0,"{made}"\n'
    for body, status, said in (
        ({"inputs": "xyz"}, 422, "characters that are not in the text"),
        ({"inputs": "a", "params": {"max_new_tokens": 101}}, 413, "at most 100"),
        ({"inputs": "a", "params": {"seed": "x"}}, 422, "seed=x is not a whole number"),
        ({"inputs": "a", "params": {"top_k": 3}}, 422, "unknown top_k"),
    ):
        refused = asked("language", body)
        assert (refused.status, said in refused.content["message"]) == (status, True), refused
    Path("secret.txt").write_text("abc")
    assert asked("language", {"inputs": "secret.txt"}).status == 422, "a path is a text, and no file is read"
