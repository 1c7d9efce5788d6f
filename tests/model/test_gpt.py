import pytest
import torch

from helpers.problems import about
from runner.errors import ConfigError
from runner.model.gpt import GPT
from runner.model.probe import parameter_count


def gpt(**arguments: object) -> GPT:
    torch.manual_seed(0)
    values = {"input_shape": (9,), "num_outputs": 11, "layers": 2, "heads": 2, "width": 16}
    return GPT(**(values | arguments))  # type: ignore[arg-type]


def test_scores_are_of_each_token_and_depend_on_those_before_it_alone() -> None:
    model, ids = gpt().eval(), torch.randint(11, (3, 8))
    scores = model(ids)
    assert scores.shape == (3, 8, 11)
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    others = model(changed)
    torch.testing.assert_close(others[:, :5], scores[:, :5])
    assert (others[:, 5:] - scores[:, 5:]).abs().amax((0, 2)).min() > 1e-6
    torch.testing.assert_close(model(ids[:, :3]), scores[:, :3])


def test_knobs_change_the_network() -> None:
    block, tables = 2 * 16 + 12 * 16**2, (11 + 9 + 11) * 16 + 16
    assert parameter_count(gpt()) == tables + 2 * block
    assert parameter_count(gpt(layers=3)) == tables + 3 * block
    ids = torch.randint(11, (3, 8))
    assert not torch.equal(gpt(heads=4).eval()(ids), gpt().eval()(ids))
    dropping = gpt(dropout=0.5)
    assert not torch.equal(dropping(ids), dropping(ids))
    torch.testing.assert_close(dropping.eval()(ids), gpt().eval()(ids))


def test_at_the_start_each_token_is_as_probable() -> None:
    scores = gpt()(torch.randint(11, (50, 8)))
    loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), torch.randint(11, (400,)))
    assert loss.item() == pytest.approx(torch.tensor(11.0).log().item(), abs=0.05)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ConfigError) as error:
        gpt(input_shape=(1, 8, 8))
    assert about(error) == [("model", "shape")]
    with pytest.raises(ConfigError) as error:
        gpt(input_shape={"input_ids": (8,)})
    assert about(error) == [("model", "shape")]
    with pytest.raises(ConfigError) as error:
        gpt(width=18, heads=4)
    assert about(error) == [("model.heads", "conflict")]
    assert error.value.problems[0].suggestion == "write model.heads=3"
