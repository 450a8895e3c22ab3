"""Authenticity: hand cases, copies, and a reference implementation."""

import numpy as np
import pytest

from evaluation import authenticity


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def column(*values):
    return np.array(values, float)[:, None]


@pytest.mark.parametrize(
    "train, synthetic, expected",
    [
        ([0, 10], [0.5, 10.5], 0),  # closer to their train image than 10
        ([0, 1], [5, -5], 1),
        ([0, 1, 5], [0, 1, 5], 0),
        ([0, 0, 5, 5], [0, 0, 5, 5], 0),  # an exact copy of an image that is in the train set twice is a copy
        ([0, 1], [2, 3], 1),  # as far as the neighbour: not closer
        ([0, 1, 10], [-0.5, -2, 10.5, 30], 0.5),
    ],
)
def test_hand_cases(train, synthetic, expected):
    result = authenticity(column(*train), column(*synthetic))
    assert result.value == expected
    assert 0 <= result.interval[0] <= expected <= result.interval[1] <= 1
    assert result.interval[1] - result.interval[0] > 0.3


def test_it_equals_an_independent_loop():
    train, synthetic = gaussian(60, 5), gaussian(90, 5, seed=1)
    count = 0
    for s in synthetic:
        distances = np.linalg.norm(train - s, axis=1)
        owner = distances.argmin()
        others = np.linalg.norm(np.delete(train, owner, axis=0) - train[owner], axis=1)
        count += distances[owner] >= others.min()
    assert authenticity(train, synthetic).value == count / 90


def test_copies_lower_it_by_their_share():
    train, fresh = gaussian(2, 100, 16)
    held_out = authenticity(train, fresh).value
    half = authenticity(train, np.concatenate([train[:50], fresh[:50]]))
    assert half.details["exact_copies"] == 50
    assert half.value == pytest.approx(held_out / 2, abs=0.1)
    assert authenticity(train, train).value == 0
    assert authenticity(train, train + 1e-3 * gaussian(100, 16, seed=7)).value == 0


def test_the_same_image_many_times_is_one_trial():
    train = gaussian(50, 4)
    one, many = authenticity(train, train[:1] + 9), authenticity(train, np.repeat(train[:1] + 9, 200, axis=0))
    assert one.value == many.value == 1
    assert many.details["effective_trials"] == 1 and many.interval == one.interval


def test_the_interval_holds_the_mean_over_samples():
    train = gaussian(80, 8)
    results = [authenticity(train, gaussian(80, 8, seed=s)) for s in range(1, 121)]
    mean = np.mean([r.value for r in results])
    assert np.mean([r.interval[0] <= mean <= r.interval[1] for r in results]) >= 0.9


def test_it_has_no_constant_null_as_the_module_says():
    low, high = (
        np.mean([authenticity(gaussian(100, d, seed=s), gaussian(100, d, seed=s + 99)).value for s in range(20)])
        for d in (2, 64)
    )
    assert low < 0.5 and high > 0.65


def test_a_constant_train_set_is_refused():
    with pytest.raises(ValueError, match="`train` must hold at least two different rows"):
        authenticity(np.ones((9, 2)), gaussian(9, 2))
