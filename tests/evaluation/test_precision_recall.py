"""Precision and recall: the hand case, the convention, scikit-learn, and intervals against simulation."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from evaluation import precision_recall


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def column(*values):
    return np.array(values, float)[:, None]


def reference(real, fake, k):
    def inside(judged, manifold):
        radii = NearestNeighbors(n_neighbors=k).fit(manifold).kneighbors()[0][:, -1]
        distances = np.sqrt(np.square(judged[:, None] - manifold[None]).sum(-1))
        return (distances <= radii).any(1).mean()

    return inside(fake, real), inside(real, fake)


def test_the_hand_case():
    result = precision_recall(column(0, 1, 3, 7), column(0.5, 0.6, 20, 21), k=1)
    assert (result.precision.value, result.recall.value) == (0.5, 0.0)
    precision, recall = result  # in this order
    assert (float(precision), float(recall)) == (0.5, 0.0)


@pytest.mark.parametrize("n_real, n_fake, dimension, k", [(60, 60, 2, 3), (50, 80, 8, 1), (80, 50, 30, 5)])
def test_it_equals_an_independent_implementation(n_real, n_fake, dimension, k):
    real, fake = gaussian(n_real, dimension), gaussian(n_fake, dimension, seed=1) * 0.8 + 0.3
    result = precision_recall(real, fake, k=k)
    assert (result.precision.value, result.recall.value) == pytest.approx(reference(real, fake, k))


def test_the_convention_a_narrow_model_is_precise_and_does_not_recall():
    rng = np.random.RandomState(0)
    fake, real = 0.1 * rng.randn(200, 16), 3 * rng.randn(200, 16)
    result = precision_recall(real, fake)
    assert result.precision.value > 0.8 and result.recall.value < 0.3


def test_exchanging_the_sets_exchanges_the_two():
    one, other = gaussian(40, 5), gaussian(60, 5, seed=1) * 1.5
    there, back = precision_recall(one, other), precision_recall(other, one)
    assert (there.precision.value, there.recall.value) == (back.recall.value, back.precision.value)


def test_the_boundary_counts_as_inside():
    assert precision_recall(column(0, 1), column(2, 9), k=1).precision.value == 0.5
    assert precision_recall(column(0, 1), column(np.nextafter(2, 3), 9), k=1).precision.value == 0


def test_a_set_against_itself_scores_one_and_far_sets_zero():
    features = gaussian(30, 4)
    assert [r.value for r in precision_recall(features, features)] == [1, 1]
    assert [r.value for r in precision_recall(features, features + 100)] == [0, 0]


def test_a_collapsed_model_may_be_precise_but_recalls_almost_nothing():
    real = gaussian(60, 4)
    result = precision_recall(real, np.repeat(real[:1], 60, axis=0))
    assert result.precision.value == 1 and result.recall.value == pytest.approx(1 / 60)


def test_it_is_blind_to_order_rotation_translation_and_scale():
    real, fake = gaussian(50, 6), gaussian(50, 6, seed=1) * 0.7
    expected = [r.value for r in precision_recall(real, fake)]
    rotation = np.linalg.qr(gaussian(6, 6, seed=2))[0]
    for one, other in (
        (real[::-1], fake[::-1]),
        (real @ rotation, fake @ rotation),
        (real + 5, fake + 5),
        (real * 9, fake * 9),
    ):
        assert [r.value for r in precision_recall(one, other)] == expected


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_intervals_hold_the_mean_over_samples(shift):
    results = [precision_recall(gaussian(80, 16, seed=s), gaussian(80, 16, seed=s + 999) + shift) for s in range(80)]
    for part in ("precision", "recall"):
        values = np.array([getattr(r, part).value for r in results])
        intervals = np.array([getattr(r, part).interval for r in results])
        held = (intervals[:, 0] <= values.mean()) & (values.mean() <= intervals[:, 1])
        assert held.mean() >= 0.9
        assert np.mean(intervals[:, 1] - intervals[:, 0]) / 3.92 < 2 * values.std()  # and are not just wide


@pytest.mark.parametrize("k", [4, 10, 0])
def test_k_must_be_below_both_sizes(k):
    with pytest.raises(ValueError, match=rf"`k` must be a whole number in 1\.\.3 .*n_real=6 and n_fake=4.*k={k}"):
        precision_recall(gaussian(6, 2), gaussian(4, 2), k=k)


def test_a_constant_real_set_is_refused():
    with pytest.raises(ValueError, match="`real` must hold at least two different rows"):
        precision_recall(np.ones((9, 2)), gaussian(9, 2))
