"""Batches: every example once an epoch, windows and flips as a loop over the images would cut them."""

import pytest
import torch
from torch.nn import functional as F

from lbp.errors import InvalidInputError
from lbp.training import Augmentation
from lbp.training.batches import Batches, augmented, seed_for, split_off


def batches(data, size=(8, 8), seed=0, batch_size=7, **augmentation):
    return Batches(data, size, Augmentation(**augmentation), batch_size, seed, torch.device("cpu"))


def epoch(source, number):
    plan = source.plan(number)
    return [source.batch(plan, index) for index in range(source.steps_per_epoch)]


def test_an_epoch_takes_every_example_once(synthetic):
    data = synthetic(24)
    parts = epoch(batches(data), 3)
    assert [len(labels) for _, labels in parts] == [7, 7, 7, 3]
    seen = torch.cat([images for images, _ in parts]).flatten(1)
    assert torch.equal(seen[seen[:, 0].argsort()], data.images.flatten(1)[data.images.flatten(1)[:, 0].argsort()])
    for images, labels in parts:
        for image, label in zip(images, labels, strict=True):
            place = (data.images == image).all(dim=(1, 2, 3)).nonzero().item()
            assert data.labels[place] == label


def test_epochs_differ_and_depend_on_seed_and_number_alone(synthetic):
    data = synthetic(24)
    places = [(seed, number) for seed in (0, 1) for number in (0, 1)]
    plans = {(seed, number): batches(data, seed=seed).plan(number).order.tolist() for seed, number in places}
    assert len({tuple(order) for order in plans.values()}) == 4
    source = batches(data)
    source.plan(0)
    assert source.plan(1).order.tolist() == plans[0, 1]


def test_seeds_differ_by_purpose_and_position():
    seeds = [seed_for(0, "epoch", 1), seed_for(0, "epoch", 2), seed_for(0, "noise", 1), seed_for(1, "epoch", 1)]
    assert len(set(seeds)) == 4
    assert seed_for(0, "epoch", 1) == seeds[0]


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (5, 6)])
def test_windows_and_flips_are_those_of_a_loop(synthetic, padding, flip, size):
    images = synthetic(9, shape=(3, 8, 8)).images
    generator = torch.Generator().manual_seed(1)
    top, left = (torch.randint(8 + 2 * padding - side + 1, (9,), generator=generator) for side in size)
    flipped = torch.randint(2, (9,), generator=generator).bool() if flip else None
    expected = []
    for k, image in enumerate(F.pad(images, (padding,) * 4)):
        window = image[:, top[k] : top[k] + size[0], left[k] : left[k] + size[1]]
        expected.append(window.flip(2) if flipped is not None and flipped[k] else window)
    assert torch.equal(augmented(images, size, padding, (top, left), flipped), torch.stack(expected))


def test_every_window_and_both_directions_occur(synthetic):
    data = synthetic(400)
    plan = batches(data, size=(7, 7), padding=1, flip=True).plan(0)
    assert {(a, b) for a, b in zip(plan.top.tolist(), plan.left.tolist(), strict=True)} == {
        (a, b) for a in range(4) for b in range(4)
    }
    assert 150 < plan.flipped.sum() < 250


def test_without_augmentation_images_stay_as_they_are(synthetic):
    plan = batches(synthetic(10)).plan(0)
    assert plan.top is plan.left is plan.flipped is None


@pytest.mark.parametrize(("share", "count"), [(0.1, 3), (0.5, 15), (0.001, 1)])
def test_a_split_is_disjoint_and_complete(synthetic, share, count):
    data = synthetic(30)
    rest, held_out = split_off(data, share, seed=4)
    assert (len(rest), len(held_out)) == (30 - count, count)
    together = torch.cat([rest.images, held_out.images]).flatten(1)[:, 0]
    assert torch.equal(together.sort().values, data.images.flatten(1)[:, 0].sort().values)
    assert torch.equal(split_off(data, share, seed=4)[1].labels, held_out.labels)


@pytest.mark.parametrize(("share", "count"), [(0.99, 30), (0.1, 1)])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(synthetic, share, count):
    with pytest.raises(InvalidInputError, match=f"of {count} examples, leaves none to train on"):
        split_off(synthetic(count), share, seed=0)


@pytest.mark.parametrize(("size", "padding"), [((8, 8), 8), ((8, 5), 5), ((8, 8), 100_000)])
def test_a_window_of_nothing_but_the_border_is_refused(synthetic, size, padding):
    with pytest.raises(InvalidInputError, match=f"padding must be less than the sides .* got {padding}"):
        batches(synthetic(4), size, padding=padding)
    batches(synthetic(4), size, padding=min(size) - 1)
