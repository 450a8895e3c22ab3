"""Kernel Inception distance: hand values, a loop over pairs, no bias, and an interval that holds the truth."""

import itertools
import tracemalloc

import numpy as np
import pytest

from evaluation.kid import kid, real_vs_real_floor


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def loop_over_pairs(x, y):
    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    within = sum(np.mean([kernel(a, b) for a, b in itertools.permutations(s, 2)]) for s in (x, y))
    return within - 2 * np.mean([kernel(a, b) for a in x for b in y])


@pytest.mark.parametrize(
    "real, fake, expected", [([0, 1], [0, 1], -3.5), ([0, 0], [1, 1], 7), ([1, 2], [3, 4], 1593.5)]
)
def test_hand_values(real, fake, expected):
    result = kid(np.array(real, float)[:, None], np.array(fake, float)[:, None])
    assert result.value == pytest.approx(expected, abs=1e-12)
    assert result.interval[0] <= expected <= result.interval[1]


def test_it_equals_a_loop_over_pairs_in_blocks_of_any_size():
    real, fake = gaussian(13, 5), gaussian(9, 5, seed=1) + 0.5
    expected = loop_over_pairs(real, fake)
    whole = kid(real, fake)
    for block in (1, 4, 9, 100):
        result = kid(real, fake, block=block)
        assert result.value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(result.interval, whole.interval, rtol=1e-9)


def test_a_set_against_itself_is_negative_not_zero():
    assert kid(gaussian(50, 8), gaussian(50, 8)).value < -1e-3


def test_it_is_symmetric_and_blind_to_order_and_rotation_but_not_to_translation():
    real, fake = gaussian(30, 6), gaussian(40, 6, seed=1) * 1.5
    value = kid(real, fake).value
    rotation = np.linalg.qr(gaussian(6, 6, seed=2))[0]
    for one, other in ((fake, real), (real[::-1], np.roll(fake, 3, axis=0)), (real @ rotation, fake @ rotation)):
        assert kid(one, other).value == pytest.approx(value, rel=1e-9)
    assert kid(real + 1, fake + 1).value != pytest.approx(value, rel=0.1)


def test_it_has_no_bias_at_small_n():
    values = [
        kid(gaussian(10, 4, seed=s), gaussian(15, 4, seed=s + 10_000), num_bootstrap=0).value for s in range(1500)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_the_interval_holds_the_truth_and_excludes_zero_where_the_sets_differ():
    truth = kid(gaussian(3000, 16, seed=1), gaussian(3000, 16, seed=2) + 0.4, num_bootstrap=0).value
    results = [kid(gaussian(60, 16, seed=s), gaussian(60, 16, seed=s + 500) + 0.4, seed=s) for s in range(10, 110)]
    assert np.mean([r.interval[0] <= truth <= r.interval[1] for r in results]) >= 0.9
    assert np.mean([r.interval[0] > 0 for r in results]) > 0.9
    spread, stated = (
        np.std([r.value for r in results]),
        np.mean([r.interval[1] - r.interval[0] for r in results]) / 3.92,
    )
    assert 0.8 * spread < stated < 1.6 * spread  # not the false 1e-16 of subsets as large as the set


def test_the_interval_holds_zero_where_the_sets_are_of_one_distribution():
    results = [kid(gaussian(60, 16, seed=s), gaussian(60, 16, seed=s + 500), seed=s) for s in range(60)]
    assert np.mean([r.interval[0] <= 0 <= r.interval[1] for r in results]) >= 0.95
    assert min(r.interval[1] - r.interval[0] for r in results) > 1e-3


def test_replicates_pair_no_image_with_its_own_copy():
    # Were copies paired, the diagonal, here some 20 times any other kernel value, would push the whole interval up.
    real, fake = gaussian(40, 64) * 2, gaussian(40, 64, seed=1) * 2
    result = kid(real, fake, num_bootstrap=400)
    centre = np.mean(result.interval)
    assert abs(centre - result.value) < 0.25 * (result.interval[1] - result.interval[0])


def test_the_seed_decides_the_interval_and_nothing_else():
    real, fake = gaussian(30, 4), gaussian(30, 4, seed=1)
    first, again, other = kid(real, fake, seed=3), kid(real, fake, seed=3), kid(real, fake, seed=4)
    assert first.interval == again.interval != other.interval and first.value == other.value
    assert kid(real, fake, num_bootstrap=0).interval is None
    wide, narrow = (kid(real, fake, confidence=c).interval for c in (0.99, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_memory_does_not_grow_with_the_number_of_pairs():
    real, fake = gaussian(2500, 16).astype(np.float32), gaussian(2500, 16, seed=1).astype(np.float32)
    tracemalloc.start()
    kid(real, fake, block=256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # one kernel matrix would take 50e6, the bootstrap's weights take 8e6


def test_the_floor_is_about_zero():
    floor = real_vs_real_floor(gaussian(400, 16), 100)
    assert floor.interval[0] <= floor.value <= floor.interval[1] and abs(floor.value) < 0.05
    assert floor.details["n"] == 100 and len(floor.details["splits"]) == 5


@pytest.mark.parametrize(
    "options, message",
    [({"confidence": 1.0}, "`confidence`"), ({"num_bootstrap": -1}, "`num_bootstrap`"), ({"block": 0}, "`block`")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        kid(gaussian(5, 2), gaussian(5, 2), **options)
