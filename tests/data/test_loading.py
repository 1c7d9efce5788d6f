import multiprocessing
import os
import random
import signal
from dataclasses import replace
from multiprocessing import forkserver as python_forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from helpers.composed import built
from helpers.operations import Operations
from helpers.problems import about
from helpers.sweeping import wait_for
from helpers.training import blobs, divided, exact_state, loaders, net, same, training
from runner.data.loading import TensorLoader, WorkerLoader, evaluation_batch_size
from runner.data.normalize import Normalize
from runner.data.parts import part_of
from runner.data.sampling import epoch_order
from runner.data.share import Padding, Share
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split
from runner.data.workers import STOPS
from runner.device import Device
from runner.errors import ConfigError
from runner.loss import MSE
from runner.rundir.checkpoint_file import load
from runner.runs import report
from runner.sweeps.launchers import forkserver
from runner.training.loop import fit


def images(samples: int = 50, channels: int = 3, side: int = 8) -> Source:
    made = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (samples, channels, side, side), generator=made, dtype=torch.uint8)
    labels = torch.randint(4, (samples,), generator=made)
    return Source(
        "images",
        train=(pixels, labels),
        test=(pixels[:9], labels[:9]),
        mean=[0.4] * channels,
        std=[0.2] * channels,
    )


class Items(Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set of the user's."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


def batches(splits: Splits, epoch: int = 1, **arguments: Any) -> list[tuple[Tensor, Tensor]]:
    return list(loaders(splits, **arguments).train.epoch(epoch))


class TestSplit:
    def test_validation_is_held_out_of_the_training_part_and_the_test_part_stays_out(self) -> None:
        source = blobs(100)
        splits = split(source, val_fraction=0.25, limit=None, seed=0)
        train, val = splits.train.inputs, splits.val.inputs
        assert (len(train), len(val)) == (75, 25)
        together = {tuple(row.tolist()) for row in torch.cat([train, val])}
        assert together == {tuple(row.tolist()) for row in source.train[0]}
        assert torch.equal(splits.test.inputs, source.test[0])

    def test_it_depends_on_the_seed_alone(self) -> None:
        first, again, other = (split(blobs(), val_fraction=0.2, limit=None, seed=s) for s in (1, 1, 2))
        assert torch.equal(first.train.inputs, again.train.inputs)
        assert not torch.equal(first.train.inputs, other.train.inputs)

    def test_limit_holds_for_the_training_part_and_for_the_test_part(self) -> None:
        splits = split(blobs(100), val_fraction=0.2, limit=10, seed=0)
        assert [len(part) for part in (splits.train, splits.val, splits.test)] == [8, 2, 10]

    def test_a_limit_takes_all_classes_of_a_sorted_data_set(self) -> None:
        source = Source("sorted", train=(torch.zeros(300, 2), torch.arange(300) // 100))
        assert set(split(source, val_fraction=0, limit=30, seed=0).train.read_targets().tolist()) == {0, 1, 2}

    @pytest.mark.parametrize(("fraction", "samples"), [(0.2, 1), (0.9, 1), (0.01, 20)])
    def test_a_fraction_that_leaves_a_part_empty_is_refused(self, fraction: float, samples: int) -> None:
        with pytest.raises(ConfigError) as caught:
            split(blobs(samples), val_fraction=fraction, limit=None, seed=0)
        assert about(caught) == [("data.val_fraction", "range")]
        assert "write data.val_fraction=0," in caught.value.problems[0].suggestion
        split(blobs(samples), val_fraction=0, limit=None, seed=0)  # as it says

    def test_a_validation_part_of_its_own_is_that_and_nothing_is_held_out(self) -> None:
        own = blobs(30)
        source = replace(blobs(100), val=own.train)
        splits = split(source, val_fraction=None, limit=None, seed=0)
        assert [len(part) for part in (splits.train, splits.val, splits.test)] == [100, 30, 20]
        assert torch.equal(splits.val.inputs, own.train[0]) and splits.val_fraction is None
        limited = split(source, val_fraction=None, limit=7, seed=0)
        assert [len(part) for part in (limited.train, limited.val, limited.test)] == [7, 7, 7]
        for typed in (0, 0.2, 0.5):
            with pytest.raises(ConfigError) as caught:
                split(source, val_fraction=typed, limit=None, seed=0)
            assert about(caught) == [("data.val_fraction", "conflict")]
            assert caught.value.problems[0].suggestion == "write data.val_fraction=null"
        assert split(blobs(100), val_fraction=None, limit=None, seed=0).val_fraction == 0.2

    def test_it_may_be_loaded_sample_by_sample_and_normalises_by_the_training_part(self) -> None:
        train, val = images(), images(9)
        source = Source("items", Items(*train.train), mean=None, std=None, val=Items(*val.train))
        splits = split(source, val_fraction=None, limit=5, seed=0)
        assert [len(part) for part in (splits.train, splits.val)] == [5, 5]
        assert torch.equal(splits.normalize.mean.flatten(), split(
            replace(source, val=None), val_fraction=0, limit=5, seed=0).normalize.mean.flatten())  # fmt: skip
        made = loaders(splits)
        assert made.val is not None and made.val.samples == 5 and made.test is None

    @pytest.mark.parametrize("part", ["val", "test"])
    def test_parts_that_do_not_fit_are_refused(self, part: str) -> None:
        name = {"val": "validation", "test": "test"}[part]
        for inputs, topic, figure in ((torch.zeros(4, 5), "shape", "(5,)"), (torch.zeros(0, 6), "data", "no samples")):
            with pytest.raises(ConfigError) as caught:
                split(replace(blobs(), **{part: (inputs, torch.zeros(len(inputs), dtype=torch.long))}),
                      val_fraction=None, limit=None, seed=0)  # fmt: skip
            assert about(caught) == [("data", topic)]
            assert f"{name} part" in str(caught.value) and figure in str(caught.value)

    def test_what_was_guessed_is_said_at_the_head_of_a_run(self, caplog: pytest.LogCaptureFixture) -> None:
        experiment = built()
        experiment.splits = split(
            replace(blobs(), notes=("3 classes", "scaled by 255")), val_fraction=0.2, limit=None, seed=0
        )
        with caplog.at_level("INFO", "runner"):
            report.log_head(experiment, Path("folder"), "off")
        data = next(index for index, line in enumerate(caplog.messages) if line.startswith("data "))
        assert caplog.messages[data + 1].strip() == "3 classes; scaled by 255"


class TestFingerprint:
    def fingerprint(self, source: Source | None = None, **arguments: Any) -> str:
        values: dict[str, Any] = {"val_fraction": 0.2, "limit": None, "seed": 0}
        return split(source or blobs(), **(values | arguments)).fingerprint

    def test_it_is_that_of_contents_and_split(self) -> None:
        assert self.fingerprint() == self.fingerprint()
        assert (
            len(
                {
                    self.fingerprint(),
                    *(self.fingerprint(**c) for c in ({"seed": 1}, {"limit": 50}, {"val_fraction": 0.3})),
                }
            )
            == 4
        )

    def test_one_pixel_one_label_one_test_sample_changes_it(self) -> None:
        prints = {self.fingerprint(images())}
        for change in (
            lambda s: s.train[0][3, 1, 2, 2].add_(1),
            lambda s: s.train[1][5].add_(1),
            lambda s: s.test[0][0, 0, 0, 0].add_(1),
        ):
            source = images()
            change(source)
            prints.add(self.fingerprint(source))
        # The test part is a view of the training part here, so the third changes both; it is a change all the same.
        assert len(prints) == 4

    def test_a_validation_part_is_in_it(self) -> None:
        one, other = (replace(blobs(), val=blobs(samples).train) for samples in (20, 21))
        alike = replace(blobs(), test=None, val=blobs().test)  # the same tensors as another part
        sources = (blobs(), one, other, alike, replace(alike, val=None, test=alike.val))
        assert len({self.fingerprint(source, val_fraction=None) for source in sources}) == 4
        assert self.fingerprint(blobs(), val_fraction=None) == self.fingerprint(blobs(), val_fraction=0.2)

    def test_so_it_is_for_a_data_set_that_loads_sample_by_sample(self) -> None:
        source = images()
        items = Source("items", train=Items(*source.train))
        changed = images()
        changed.train[0][0, 0, 0, 0].add_(1)
        assert self.fingerprint(items) != self.fingerprint(Source("items", train=Items(*changed.train)))

    def test_targets_of_such_a_data_set_may_be_vectors(self) -> None:
        source, made = images(), torch.Generator().manual_seed(2)
        targets = torch.randn(50, 3, generator=made)
        changed = targets.clone()
        changed[0, 2] += 1
        both = [Source("items", train=Items(source.train[0], wanted)) for wanted in (targets, changed)]
        assert self.fingerprint(both[0]) != self.fingerprint(both[1])
        splits = split(both[0], val_fraction=0, limit=None, seed=0)
        assert torch.equal(splits.targets(), targets)
        for in_memory in (True, False):
            seen = [wanted for _, wanted in batches(splits, in_memory=in_memory, prepare=MSE().prepare)]
            assert torch.equal(torch.cat(seen), targets[epoch_order(50, 3, 1)])

    @pytest.mark.parametrize(
        ("targets", "known"),
        [
            (torch.arange(50), "7df4adb056fbf5a1c38dbc0637d0e7d7"),
            (torch.arange(50.0)[:, None] / 10, "b36a5d36c3e0283bc7404c50b0ee3541"),
        ],
    )
    def test_of_one_target_a_sample_it_stays_what_runs_have_recorded(self, targets: Tensor, known: str) -> None:
        assert self.fingerprint(Source("items", train=Items(torch.arange(100.0).view(50, 2), targets))) == known


class TestNormalize:
    def test_uint8_images_are_scaled_then_normalised_by_channel(self) -> None:
        source = images()
        splits = split(source, val_fraction=0.2, limit=None, seed=0)
        expected = (splits.train.inputs.float() / 255 - 0.4) / 0.2
        torch.testing.assert_close(splits.normalize(splits.train.inputs, torch.float32), expected)

    def test_the_test_part_stays_bytes_and_is_seen_as_the_others_are(self) -> None:
        source = images()
        splits = split(
            Source("images", source.train, source.train, source.mean, source.std), val_fraction=0, limit=None, seed=0
        )
        made = loaders(splits, prepare=lambda targets, dtype: targets, batch_size=16, channels_last=True)
        assert isinstance(made.test, TensorLoader) and isinstance(made.train, TensorLoader)
        assert (made.test.inputs.dtype, made.train.inputs.dtype) == (torch.uint8, torch.float32)
        seen = torch.cat([inputs for inputs, _ in made.test.epoch(0)])
        assert torch.equal(seen, torch.cat([inputs for inputs, _ in made.train.in_order(16).epoch(0)]))

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_mean_and_std_are_brought_to_the_device_once(self, in_memory: bool) -> None:
        source = images()
        items = Source("items", train=Items(*source.train), mean=source.mean, std=source.std)
        splits = split(items, val_fraction=0, limit=None, seed=0)
        assert splits.normalize.mean.dtype == torch.float64
        made = loaders(splits, prepare=lambda targets, dtype: targets, in_memory=in_memory)
        with Operations() as operations:
            list(made.train.epoch(1))
        assert {"sub_", "div_"} <= operations.names
        assert torch.float64 not in operations.dtypes

    def test_null_computes_them_from_the_training_samples_alone(self) -> None:
        made = torch.Generator().manual_seed(0)
        inputs = torch.randn(200, 3, generator=made) * torch.tensor([1.0, 5.0, 0.0]) + 7
        source = Source(
            "table",
            train=(inputs, torch.zeros(200)),
            test=(inputs + 100, torch.zeros(200)),
            mean=None,
            std=None,
        )
        splits = split(source, val_fraction=0.5, limit=None, seed=0)
        seen = splits.normalize(splits.train.inputs, torch.float64)
        assert seen.mean(0).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
        assert seen.std(0, correction=0).tolist() == pytest.approx([1, 1, 0], abs=1e-6)  # a constant stays one
        assert splits.normalize(splits.val.inputs, torch.float64).mean(0).abs().max() > 1e-3

    def test_sequences_are_normalised_by_feature(self) -> None:
        made = torch.Generator().manual_seed(0)
        spread = torch.tensor([1.0, 10.0, 100.0])
        inputs = torch.randn(50, 7, 3, generator=made) * spread + 5 * spread
        for train in ((inputs, torch.zeros(50)), Items(inputs, torch.zeros(50))):
            splits = split(Source("series", train, mean=None, std=None), val_fraction=0, limit=None, seed=0)
            seen = splits.normalize(inputs, torch.float64)
            assert seen.mean((0, 1)).tolist() == pytest.approx([0] * 3, abs=1e-6)
            assert seen.std((0, 1), correction=0).tolist() == pytest.approx([1] * 3, abs=1e-6)
            given = split(Source("series", train, mean=[1.0, 2.0, 3.0]), val_fraction=0, limit=None, seed=0)
            assert torch.equal(given.normalize(inputs, torch.float32), inputs - torch.tensor([1.0, 2.0, 3.0]))
        with pytest.raises(ConfigError) as caught:
            split(Source("series", train, mean=[0.0] * 7), val_fraction=0, limit=None, seed=0)
        assert about(caught) == [("data.mean", "shape")]
        assert "7 values" in str(caught.value) and "3 channels or features" in str(caught.value)
        old = split(Source("series", train, mean=None), val_fraction=0, limit=None, seed=0, old_rules=True)
        assert old.normalize.mean.shape == (7, 1)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int32])
    @pytest.mark.parametrize("in_memory", [True, False])
    def test_what_float32_would_round_is_rounded_when_it_is_normalised(
        self, dtype: torch.dtype, in_memory: bool
    ) -> None:
        inputs = torch.tensor([[2**24], [2**24 + 1]], dtype=dtype)
        source = Source("large", (inputs, torch.tensor([0, 1])), mean=None, std=None)
        splits = split(source, val_fraction=0, limit=None, seed=0)
        ((seen, targets),) = batches(splits, in_memory=in_memory)
        assert seen.dtype == torch.float32 and seen[targets].flatten().tolist() == [-1, 1]
        assert split(source, val_fraction=0, limit=None, seed=0, old_rules=True).normalize.wide is False

    def test_the_number_of_values_must_fit(self) -> None:
        source = images()
        with pytest.raises(ConfigError) as caught:
            split(Source("x", train=source.train, mean=[0.1, 0.2]), val_fraction=0, limit=None, seed=0)
        assert about(caught) == [("data.mean", "shape")]
        assert "2 values" in str(caught.value) and "one value, or 3" in caught.value.problems[0].suggestion
        with pytest.raises(ConfigError) as caught:
            split(Source("x", train=source.train, std=0.0), val_fraction=0, limit=None, seed=0)
        assert about(caught) == [("data.std", "range")]

    def test_a_batch_is_normalised_to_the_same_bits_as_the_whole_set(self) -> None:
        source = images(samples=101, channels=1, side=7)
        normalize = Normalize(torch.tensor(0.1307, dtype=torch.float64), torch.tensor(0.3081, dtype=torch.float64))
        whole = normalize(source.train[0], torch.float32)
        for size in (1, 7, 32):
            parts = [normalize(part, torch.float32) for part in source.train[0].split(size)]
            assert torch.equal(torch.cat(parts), whole)


class TestOrder:
    def test_it_is_a_function_of_seed_and_epoch(self) -> None:
        orders = [epoch_order(20, seed, epoch) for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1))]
        assert torch.equal(orders[0], orders[3])
        assert not torch.equal(orders[0], orders[1])
        assert not torch.equal(orders[0], orders[2])
        assert all(torch.equal(order.sort().values, torch.arange(20)) for order in orders)

    def test_whatever_was_drawn_from_the_global_generator(self) -> None:
        torch.manual_seed(1)
        before = epoch_order(20, 0, 1)
        torch.randn(3)
        assert torch.equal(before, epoch_order(20, 0, 1))

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_an_epoch_can_be_entered_at_any_batch(self, in_memory: bool) -> None:
        splits = divided()
        made = loaders(splits, batch_size=10, seed=0, in_memory=in_memory)
        whole = list(made.train.epoch(4))
        for start in (1, 5, 9):
            assert same(list(made.train.epoch(4, start)), whole[start:])


def test_closed_loaders_hold_no_samples() -> None:
    made = loaders(divided(), batch_size=10, seed=0)
    made.close()
    assert [part.inputs.numel() + part.targets.numel() for part in (made.train, made.val, made.test)] == [0, 0, 0]


class TestBothWays:
    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_the_dataloader_gives_the_same_batches_in_the_same_order(
        self, num_workers: int, channels_last: bool
    ) -> None:
        splits = split(images(), val_fraction=0.2, limit=None, seed=0)
        memory = batches(splits, channels_last=channels_last)
        assert len(memory) == 6
        assert [len(targets) for _, targets in memory] == [7] * 5 + [5]
        workers = batches(splits, in_memory=False, num_workers=num_workers, channels_last=channels_last)
        assert same(memory, workers)
        if channels_last:
            assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in memory + workers)

    def test_a_data_set_that_loads_sample_by_sample_gives_them_too(self) -> None:
        source = images()
        items = Source("images", train=Items(*source.train), mean=source.mean, std=source.std)
        tensors = split(source, val_fraction=0.2, limit=None, seed=0)
        lazy = split(items, val_fraction=0.2, limit=None, seed=0)
        assert same(batches(tensors), batches(lazy))
        assert same(batches(tensors), batches(lazy, in_memory=False))
        assert torch.equal(lazy.targets().sort().values, source.train[1].sort().values)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_and_the_same_final_weights(self, tmp_path: Path, num_workers: int) -> None:
        ends = []
        for name, in_memory in (("memory", True), ("loader", False)):
            # Loading must draw nothing from the generator that dropout draws from: it is seeded before.
            model = net(dropout=0.5)
            source = blobs()
            splits = divided(Source("items", train=Items(*source.train)))
            state = training(
                tmp_path / name, model=model, splits=splits, in_memory=in_memory, num_workers=num_workers, epochs=3
            )
            fit(state)
            ends.append(exact_state(load(state.checkpoints.last)))
        assert same(*ends)


class TestRanks:
    @pytest.mark.parametrize(
        ("ranks", "num_workers", "in_memory"),
        [
            (3, 0, True),
            (3, 0, False),
            (2, 2, False),
            *(pytest.param(ranks, workers, False, marks=pytest.mark.soak) for ranks in (1, 2, 3)
              for workers in (0, 1, 2)),
        ],
    )  # fmt: skip
    @pytest.mark.filterwarnings("ignore:This DataLoader will create")
    def test_read_every_sample_once_an_epoch_after_a_resume_too(
        self, ranks: int, num_workers: int, in_memory: bool
    ) -> None:
        """The last batch, of 50 samples in batches of 12, has fewer samples than there are ranks."""
        source = Source("items", train=Items(torch.arange(50.0)[:, None], torch.arange(50) % 3), mean=0.0, std=1.0)
        splits = split(source, val_fraction=0.0, limit=None, seed=0)
        options = {"batch_size": 12, "seed": 0, "in_memory": in_memory}
        whole = loaders(splits, **options).train
        for epoch, first in ((1, 0), (2, 0), (2, 2), (2, 4)):
            shares = []
            for rank in range(ranks):
                made = loaders(splits, **options, num_workers=num_workers, share=Share(rank, ranks)).train
                shares.append([counted(batch) for batch in made.epoch(epoch, first)])
                made.close()
            together = [torch.cat(parts) for parts in zip(*shares, strict=True)]
            expected = list(whole.epoch(epoch, first))
            assert same(together, [inputs for inputs, _ in expected])
            if not first:
                assert torch.cat(together).flatten().sort().values.tolist() == list(range(50))


def counted(batch: Any) -> Tensor:
    """Return the inputs of a rank's share that count."""
    inputs: Tensor = batch[0]
    return inputs[:0] if isinstance(batch, Padding) else inputs


class Drawing(Items):
    """Draws at random for each sample, as transforms of torchvision's do, from every generator there is."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = super().__getitem__(index)
        return inputs + torch.rand(()) + random.random() + float(np.random.rand()), targets


class Flipping(Items):
    """Mirrors every other sample."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = super().__getitem__(index)
        return inputs.flip(0) if random.random() < 0.5 else inputs, targets


class Gaps(Items):
    """Has no number where others have one, and always at the same place."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = super().__getitem__(index)
        return torch.cat([inputs[1:], torch.tensor([float("nan")])]), targets


def of_a_user(items: str, **_: Any) -> Source:
    source = blobs()
    return Source("mine", train=globals()[items](*source.train), mean=0.0, std=1.0)


@pytest.mark.parametrize(
    ("items", "in_memory", "held", "warned"),
    [
        ("Items", "auto", True, False),
        ("Gaps", "auto", True, False),
        ("Flipping", "auto", False, False),
        ("Drawing", "auto", False, False),
        ("Drawing", "true", True, True),
        ("Drawing", "false", False, False),
    ],
)
def test_samples_that_are_drawn_at_random_are_not_held_in_memory_unasked(
    items: str, in_memory: str, held: bool, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = built(f"data._target_={__name__}.of_a_user", f"+data.items={items}", f"data.in_memory={in_memory}")
    assert experiment.in_memory == held
    assert ("write data.in_memory=false" in caplog.text) == warned


def test_what_is_read_sample_by_sample_must_fit_into_the_host_s_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "free_memory", lambda self: 80_000_000_000)  # of a GPU
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    items = (f"data._target_={__name__}.of_a_user", "+data.items=Items")
    assert not built(*items).in_memory
    with pytest.raises(ConfigError) as caught:
        built(*items, "data.in_memory=true")
    assert about(caught) == [("data.in_memory", "unavailable")] and "0.0 GB free" in str(caught.value)
    assert built("data=digits").in_memory, "these lie there already"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_a_data_set_draws_depends_on_seed_epoch_and_batch_alone(num_workers: int) -> None:
    source = blobs()
    splits = divided(Source("drawing", train=Drawing(*source.train), mean=0.0, std=1.0))

    def loader() -> Any:
        made = loaders(
            splits, prepare=lambda targets, dtype: targets, batch_size=16, in_memory=False, num_workers=num_workers
        )
        return made.train

    torch.manual_seed(0)
    whole = loader()
    epochs = [[inputs for inputs, _ in whole.epoch(epoch)] for epoch in (1, 2)]
    torch.rand(7), random.random(), np.random.rand()  # wherever the generators are
    resumed = [inputs for inputs, _ in loader().epoch(2, start=1)]
    assert same(resumed, epochs[1][1:])
    assert not same(epochs[0], epochs[1])
    alone = loaders(splits, prepare=lambda targets, dtype: targets, batch_size=16, in_memory=False).train
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert same([inputs for inputs, _ in alone.epoch(2)], epochs[1]), "whoever loads them"
    assert torch.equal(torch.get_rng_state(), before), "nothing is taken from what dropout draws from"


def test_evaluation_batches_are_larger_but_bounded_by_memory() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert evaluation_batch_size(64, 784, cpu) == 4096
    assert evaluation_batch_size(64, 32 * 28 * 28, cpu) == 167
    assert evaluation_batch_size(64, 32 * 28 * 28, gpu) == 1337
    assert evaluation_batch_size(64, 3 * 224 * 224, cpu) == 64
    assert evaluation_batch_size(8192, 4, cpu) == 8192


@pytest.mark.parametrize(("values", "at_once"), [(0, 4096), (100_000, 41)])
def test_what_a_layer_gives_bounds_the_samples_that_are_evaluated_at_once(values: int, at_once: int) -> None:
    splits = split(Source("s", (torch.randn(9000, 4), torch.zeros(9000).long())), val_fraction=0.5, limit=None, seed=0)
    for in_memory in (True, False):
        made = loaders(
            splits, prepare=lambda targets, dtype: targets, batch_size=16, in_memory=in_memory, values=values
        )
        assert made.evaluation_batch_size == at_once
        assert made.val is not None
        assert len(next(iter(made.val.epoch(0)))[0]) == at_once


class Slow(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.ones(1), index


def test_a_worker_that_is_told_to_end_while_it_begins_still_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program calls `worker_init_fn` last, and a Ctrl-C or a scheduler does not wait for that."""
    began = os.getpid()

    def handlers() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert os.getpid() != began

    monkeypatch.setattr("torch.utils.data._utils.signal_handling._set_worker_signal_handlers", handlers)
    loader = WorkerLoader(part_of(Slow()), lambda *batch: batch, batch_size=2, seed=None, num_workers=1)
    assert [targets.tolist() for _, targets in loader.epoch(0)] == [[0, 1], [2, 3]]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(STOPS)
    loader.close()


def _load_with(method: str, sending: Connection) -> None:
    """Send the batches and the workers' process ids, and keep the workers; with the server that this process is of."""
    python_forkserver._forkserver.ensure_running = lambda: None
    multiprocessing.set_start_method(method, force=True)
    loader = WorkerLoader(part_of(Drawn()), lambda *batch: batch, batch_size=2, seed=3, num_workers=2)
    sending.send([[tree.tolist() for tree in batch] for batch in loader.epoch(1)])
    sending.send([worker.pid for worker in loader._reader._loader._iterator._workers])
    signal.pause()


class Drawn(Slow):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(1), index


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_no_worker_outlives_a_killed_process(method: str) -> None:
    """Python 3.14 starts workers by a server, which is then their parent process and outlives the one that loads."""
    forkserver.start(["runner.data.digits."], exports_models=True)  # the one server of this process
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("forkserver").Process(target=_load_with, args=(method, sending))
    process.start()
    here = WorkerLoader(part_of(Drawn()), lambda *batch: batch, batch_size=2, seed=3)
    assert receiving.recv() == [[tree.tolist() for tree in batch] for batch in here.epoch(1)]
    workers = [psutil.Process(pid) for pid in receiving.recv()]
    assert len(workers) == 2 and all(worker.is_running() for worker in workers)
    process.kill()
    wait_for(lambda: not any(worker.is_running() for worker in workers), seconds=4)
