"""How many samples a step gets in evaluation: those of a training batch, unless the task takes more."""

import pytest

from helpers.composed import built


@pytest.mark.parametrize(
    ("typed", "samples"),
    [
        (["task=supervised"], 4096),
        (["task=autoencoder"], 4096),
        (["task=custom", "task._target_=helpers.tasks.Contrastive"], 32),
        (["task=custom", "task._target_=helpers.tasks.Compared"], 32),
        (["task=custom", "task._target_=helpers.tasks.Hasty"], 4096),
    ],
)
def test_the_batches_of_evaluation(typed: list[str], samples: int) -> None:
    loaders = built(*typed, "data.batch_size=32").loaders
    assert loaders.val is not None and loaders.test is not None
    assert (loaders.val.batch_size, loaders.test.batch_size, loaders.evaluation_batch_size) == (samples,) * 3


def test_a_model_gets_the_shape_of_a_sample_as_a_tuple() -> None:
    assert built("model=custom", "model._target_=helpers.tasks.Shaped").model.shape == (1, 8, 8)
