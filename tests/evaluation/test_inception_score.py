"""Inception score: its bounds in closed form, the definition by a loop, and stability at extreme logits."""

import numpy as np
import pytest

from evaluation import inception_score


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_confident_and_evenly_spread_images_score_the_number_of_classes():
    logits = np.tile(1000 * np.eye(7), (20, 1))
    result = inception_score(logits, splits=10)
    assert result.value == pytest.approx(7, rel=1e-12) and result.interval == pytest.approx((7, 7))


@pytest.mark.parametrize(
    "logits", [np.zeros((40, 5)), np.tile([[9.0, 0, 0]], (40, 1)), np.tile([[1e300, -1e300]], (40, 1))]
)
def test_images_that_are_all_classified_alike_score_one(logits):
    result = inception_score(logits)
    assert result.value == pytest.approx(1, abs=1e-12) and result.interval[0] <= result.value


def test_it_equals_its_definition_in_consecutive_splits():
    logits = gaussian(103, 6) * 3
    scores = []
    for i in range(4):
        p = np.exp(logits[i * 103 // 4 : (i + 1) * 103 // 4])
        p /= p.sum(1, keepdims=True)
        scores.append(np.exp(np.mean([np.sum(q * np.log(q / p.mean(0))) for q in p])))
    result = inception_score(logits, splits=4)
    assert result.value == pytest.approx(np.mean(scores), rel=1e-12)
    assert result.details["sd"] == pytest.approx(np.std(scores, ddof=1), rel=1e-12)
    assert result.interval[1] - result.value == pytest.approx(3.182 * np.std(scores, ddof=1) / 2, rel=1e-9)


def test_adding_a_constant_to_an_image_s_logits_changes_nothing():
    logits = gaussian(50, 4)
    assert inception_score(logits + 700 * gaussian(50, 1, seed=1)).value == pytest.approx(
        inception_score(logits).value, rel=1e-9
    )


def test_one_split_has_no_interval():
    result = inception_score(gaussian(30, 4), splits=1)
    assert result.interval is None and result.details["sd"] is None
    assert 1 <= result.value <= 4


def test_the_score_grows_with_the_images_a_split_as_the_module_warns():
    logits = gaussian(4000, 50) * 2
    assert inception_score(logits, splits=400).value < 0.9 * inception_score(logits, splits=4).value


@pytest.mark.parametrize(
    "logits, splits, message",
    [
        (gaussian(19, 4), 10, r"`splits` must be a whole number in 1\.\.9 .*splits=10"),
        (gaussian(19, 4), 0, "`splits` must be"),
        (gaussian(30, 1), 2, "`logits` must have two classes"),
        (gaussian(30), 2, "`logits` must be a matrix"),
        (gaussian(30, 2) * np.inf, 2, "`logits` must be finite"),
        (gaussian(1, 2), 1, "`logits` must have at least 2 rows"),
    ],
)
def test_bad_input_is_named(logits, splits, message):
    with pytest.raises(ValueError, match=message):
        inception_score(logits, splits=splits)
