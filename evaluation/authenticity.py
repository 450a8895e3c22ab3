"""Authenticity: the share of synthetic images that are not closer to a train image than train images are to each other.

    authenticity = mean_j 1( d(s_j, t*) >= d(t*, nearest other train image) ),     t* the train image nearest to s_j

An exact copy (distance 0) is never authentic, also where the train set holds that image twice and both distances are 0.

How to read it: 0 is a set of copies; near 1 is far from the train images, whether new or merely bad. There is no
constant to compare with: fresh images of the train set's own distribution score about .4 in 2-d and .8 in 64-d. Compare
with `authenticity(train, held_out)`: clearly below it is copying.

Interval: 95% Wilson over synthetic images, given the train set. Images with one t* share its neighbour distance and are not independent: the
number of trials is divided by the design effect of these clusters. The train set's own sampling is left out.

Reference: Alaa et al. 2022, arXiv 2102.08921, on plain features rather than their one-class embedding.
"""

import numpy as np

from evaluation.neighbors import nearest
from evaluation.result import Result, check_features, check_same_dimension, check_varied, wilson_interval

__all__ = ["authenticity"]


def authenticity(train, synthetic):
    """Authenticity of synthetic features given the train set's.

    Args:
        train: features of the images the model was fitted to, `[n_train, d]`; at least two different rows.
        synthetic: features, `[n_fake, d]`; one row or more.
    """
    train, synthetic = check_features("train", train), check_features("synthetic", synthetic, minimum=1)
    check_same_dimension(train=train, synthetic=synthetic)
    check_varied("train", train)
    between = nearest(train, train, exclude_self=True)[0][:, 0]
    distances, owners = (found[:, 0] for found in nearest(synthetic, train))
    authentic = (distances >= between[owners]) & (distances > 0)
    value = float(np.mean(authentic))
    trials = len(synthetic) / _design_effect(authentic, owners)
    details = {
        "n_train": len(train),
        "n_fake": len(synthetic),
        "dimension": train.shape[1],
        "exact_copies": int(np.sum(distances == 0)),
        "effective_trials": trials,
        "interval_method": "95% Wilson over synthetic images, clustered by nearest train image, given the train set",
    }
    return Result(value, wilson_interval(value, trials), details)


def _design_effect(indicators, clusters):
    """Variance of the mean over that of independent images: 1 (independent) to one vote a cluster (all alike in it)."""
    sizes = np.bincount(clusters)
    alike = float(np.square(sizes).sum()) / len(indicators)
    residual = indicators - indicators.mean()
    if not residual.any():
        return alike
    together = float(np.square(np.bincount(clusters, weights=residual)).sum() / np.square(residual).sum())
    return min(max(together, 1.0), alike)
