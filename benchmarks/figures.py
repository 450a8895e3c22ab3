"""Figures of repeated timings: medians with quartiles, ratios of paired turns, exponents of growth."""

import numpy as np


def summary(values):
    """Returns `{"median", "q1", "q3", "count"}` of some numbers."""
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "q1": float(q1), "q3": float(q3), "count": len(values)}


def ratio(turns, peer_turns):
    """Returns how many times faster than its peer a side is: a `summary` of the ratios of paired turns.

    The speed of a shared machine drifts. The turns of two sides follow each other, so a drift slower than a turn cancels.

    Args:
        turns: Seconds of each step, by turn: lists of numbers.
        peer_turns: Those of the peer, as many turns.
    """
    return summary([np.median(theirs) / np.median(ours) for ours, theirs in zip(turns, peer_turns, strict=True)])


def fitted_exponent(sizes, seconds):
    """Returns `{"exponent", "local"}`: b of seconds = a * sizes^b by least squares in logarithms, and between neighbours."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(seconds, float))
    return {"exponent": float(np.polyfit(x, y, 1)[0]), "local": (np.diff(y) / np.diff(x)).tolist()}


def features(count, dimension, seed):
    """Returns float32 features `[count, dimension]`, the same everywhere, whose variances fall as those of a network do."""
    deviations = np.exp(-np.arange(dimension) / 600)
    return (np.random.default_rng(seed).standard_normal((count, dimension)) * deviations).astype(np.float32)


def batch_indices(count, batch_size, step, seed):
    """Returns which of `count` images are the batch of a step: epochs in an order of their own, the same on every side."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in np.unique(places // count)}
    return np.array([orders[place // count][place % count] for place in places])
