"""Nearest-neighbour adversarial accuracy and privacy loss: is the model distinguishable, and does it copy?

    AA(T, S) = ( mean_i 1(d_TS(i) > d_TT(i)) + mean_i 1(d_ST(i) > d_SS(i)) ) / 2
    privacy loss = AA(test, S) - AA(train, S)

d_XY(i) is the distance of x_i to its nearest y, leaving x_i itself out by index (a duplicate is a neighbour, at distance 0);
> is strict; T and S have equal sizes n.

How to read it: .5 is ideal, towards 1 is distinguishable, under .5 is copying: exact copies of a share
c of the images, the rest fresh, expect (1 - c)^2 / (2 - c), so 1/6 for half of them and 0 for all. Privacy loss above 0, with its
interval, is memorization: synthetic images nearer to the train images than to test images. It says nothing
when both accuracies are near 1 (a model that resembles neither cannot show copying), so both are always given. It is bounded by about .5
where test and train come from one distribution.

Interval of AA. Bootstrapping images is wrong here: a repeated image is its own neighbour at distance 0. Note instead that each
of the 2n indicators says whether a point's nearest neighbour in T and S together is of its own set (this is
Schilling's test with k = 1). Under the null, two indicators are correlated only if the points are each other's nearest neighbour, and
then they are equal (Schilling 1986; Henze 1988). So with q the share of points that are in such mutual pairs,

    Var AA = AA (1 - AA) (1 + q + s) / (2 n)

where s >= 0, whose expectation is 0 under the null, is the covariance found between points that share a nearest neighbour. The
interval is Wilson's at 2 n / (1 + q + s) independent trials: it neither leaves [0, 1] nor vanishes at 0 and 1. At
the null the sd is .36 / sqrt(n) (high dimensions, few mutual pairs) to .45 / sqrt(n) (2-d, q = .62).

Interval of the privacy loss: the two AAs' intervals combined by Newcombe's method (1998), with the covariance that the shared
synthetic set gives to their right-hand indicators.

Unequal sizes: the larger set is subsampled at random to the smallest, `num_draws` times, and everything averaged; the variance
is the average of the draws' (not divided by their number), a little conservative.

Reference: Yale et al. 2020, "Generation and evaluation of privacy preserving synthetic health data", Neurocomputing 416.
"""

from typing import NamedTuple

import numpy as np

from evaluation.neighbors import nearest
from evaluation.result import Result, check_count, check_features, check_same_dimension, check_varied, wilson_interval

__all__ = ["adversarial_accuracy", "privacy_loss"]

_METHOD = "95% Wilson over 2 n indicators, fewer for those correlated in the nearest-neighbour graph"


def adversarial_accuracy(real, synthetic, seed=0, num_draws=20):
    """Nearest-neighbour adversarial accuracy of a synthetic set against a real one.

    Args:
        real: features, `[n_real, d]`; at least two different rows. For cosine distance, `neighbors.normalized` ones.
        synthetic: features, `[n_fake, d]`.
        seed: of the subsampling; has no effect at equal sizes.
        num_draws: subsamples averaged, where the sizes differ.
    """
    real, synthetic = check_features("real", real), check_features("synthetic", synthetic)
    check_same_dimension(real=real, synthetic=synthetic)
    check_varied("real", real)
    num_draws = check_count("num_draws", num_draws, 1)
    n = min(len(real), len(synthetic))
    draws = [_accuracy(a, b) for a, b in _subsamples((real, synthetic), n, seed, num_draws)]
    return _result(draws, n, {"n_real": len(real), "n_fake": len(synthetic), "dimension": real.shape[1], "seed": seed})


def privacy_loss(train, test, synthetic, seed=0, num_draws=20):
    """AA(test, synthetic) - AA(train, synthetic), both at the smallest of the three sizes, since AA depends on it a little.

    Args:
        train: features of the images the model was fitted to, `[n_train, d]`; at least two different rows.
        test: features of held-out images of the same distribution, `[n_test, d]`; likewise.
        synthetic: features, `[n_fake, d]`.
        seed, num_draws: as for `adversarial_accuracy`.

    Returns:
        `details["aa_train"]` and `details["aa_test"]` are dictionaries with `value`, `interval`, `left`, `right`, `null`, ...
    """
    train, test, synthetic = (
        check_features("train", train),
        check_features("test", test),
        check_features("synthetic", synthetic),
    )
    check_same_dimension(train=train, test=test, synthetic=synthetic)
    check_varied("train", train)
    check_varied("test", test)
    num_draws = check_count("num_draws", num_draws, 1)
    n = min(len(train), len(test), len(synthetic))

    train_draws, test_draws, covariances = [], [], []
    for some_train, some_test, some_synthetic in _subsamples((train, test, synthetic), n, seed, num_draws):
        on_train, on_test = _accuracy(some_train, some_synthetic), _accuracy(some_test, some_synthetic)
        covariances.append(_covariance(on_train, on_test))
        train_draws.append(on_train)
        test_draws.append(on_test)
    counts = {"n_fake": len(synthetic), "dimension": train.shape[1], "seed": seed}
    aa_train = _result(train_draws, n, {"n_real": len(train)} | counts)
    aa_test = _result(test_draws, n, {"n_real": len(test)} | counts)

    value = aa_test.value - aa_train.value
    spreads = aa_train.details["sd"] * aa_test.details["sd"]
    correlation = min(max(float(np.mean(covariances)) / spreads, 0.0), 0.99) if spreads > 0 else 0.0
    details = {
        "aa_train": {"value": aa_train.value, "interval": aa_train.interval} | dict(aa_train.details),
        "aa_test": {"value": aa_test.value, "interval": aa_test.interval} | dict(aa_test.details),
        "null": 0.0,
        "n": n,
        "n_train": len(train),
        "n_test": len(test),
        "num_draws": len(train_draws),
        "correlation": correlation,
        "interval_method": "95%, Newcombe's difference of the two AAs' intervals, correlated through the shared synthetic set",
    }
    return Result(value, _difference_interval(aa_test, aa_train, correlation), counts | details)


class _Draw(NamedTuple):
    """AA of two sets of equal size: indicators `[n]` of either side, and what correlates them."""

    left: np.ndarray
    right: np.ndarray
    mutual: float  # q
    shared: float  # s, times 2 n AA (1 - AA)
    partners: np.ndarray  # synthetic pairs (i, j) that are each other's nearest synthetic neighbour, `[p, 2]`


def _accuracy(real, synthetic):
    real_own, real_own_at = (found[:, 0] for found in nearest(real, real, exclude_self=True))
    fake_own, fake_own_at = (found[:, 0] for found in nearest(synthetic, synthetic, exclude_self=True))
    real_other, real_other_at = (found[:, 0] for found in nearest(real, synthetic))
    fake_other, fake_other_at = (found[:, 0] for found in nearest(synthetic, real))

    # A point is in a mutual pair if its nearest neighbour, of either set, has nothing nearer than it.
    left, right = real_other > real_own, fake_other > fake_own
    real_nearest, fake_nearest = np.minimum(real_own, real_other), np.minimum(fake_own, fake_other)
    real_mutual = np.where(left, real_nearest[real_own_at], fake_nearest[real_other_at]) == real_nearest
    fake_mutual = np.where(right, fake_nearest[fake_own_at], real_nearest[fake_other_at]) == fake_nearest

    # Surplus covariance of the points that share a nearest neighbour.
    owner = np.concatenate(
        [
            np.where(left, real_own_at, len(left) + real_other_at),
            np.where(right, len(left) + fake_own_at, fake_other_at),
        ]
    )
    residual = np.concatenate([left - left.mean(), right - right.mean()])
    shared = float(np.square(np.bincount(owner, weights=residual)).sum() - np.square(residual).sum())

    partners = np.flatnonzero(fake_own[fake_own_at] == fake_own)
    mutual = float(np.mean([real_mutual, fake_mutual]))
    return _Draw(left, right, mutual, shared, np.stack([partners, fake_own_at[partners]], axis=1))


def _result(draws, n, details):
    left, right = (
        float(np.mean([np.mean(side) for side in sides])) for sides in zip(*((draw.left, draw.right) for draw in draws))
    )
    value, mutual = (left + right) / 2, float(np.mean([draw.mutual for draw in draws]))
    variance = value * (1 - value)
    shared = max(float(np.mean([draw.shared for draw in draws])) / (2 * n * variance), 0.0) if variance > 0 else 0.0
    trials = 2 * n / (1 + mutual + shared)
    details |= {
        "n": n,
        "left": left,
        "right": right,
        "null": (2 * n - 2) / (2 * (2 * n - 1)),
        "null_sd": float(np.sqrt(0.25 * (1 + mutual) / (2 * n))),
        "sd": float(np.sqrt(variance / trials)),
        "mutual_share": mutual,
        "num_draws": len(draws),
        "interval_method": _METHOD,
    }
    return Result(value, wilson_interval(value, trials), details)


def _covariance(one, other):
    """Of two AAs with the same synthetic set: their right-hand indicators share d_SS(i), and mutual pairs share it twice."""
    one_right, other_right = one.right - one.right.mean(), other.right - other.right.mean()
    i, j = one.partners.T
    return (one_right @ other_right + one_right[i] @ other_right[j]) / (2 * len(one_right)) ** 2


def _difference_interval(one, other, correlation):
    difference = one.value - other.value
    (one_low, one_high), (other_low, other_high) = one.interval, other.interval

    def reach(a, b):
        return float(np.sqrt(max(a * a + b * b - 2 * correlation * a * b, 0.0)))

    low = difference - reach(one.value - one_low, other_high - other.value)
    high = difference + reach(one_high - one.value, other.value - other_low)
    return max(low, -1.0), min(high, 1.0)


def _subsamples(sets, n, seed, num_draws):
    """Yields the sets at n rows each: once if they all have n, else `num_draws` random subsets of the larger ones."""
    generator = np.random.default_rng(seed)
    for _ in range(1 if all(len(features) == n for features in sets) else num_draws):
        yield tuple(
            features if len(features) == n else features[np.sort(generator.choice(len(features), n, replace=False))]
            for features in sets
        )
