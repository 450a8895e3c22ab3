"""Improved precision and recall: the share of each set that lies in the other's k-nearest-neighbour manifold.

    precision = mean_j 1(exists i: |f_j - r_i| <= NND_k(r_i)),     recall = mean_i 1(exists j: |r_i - f_j| <= NND_k(f_j))

NND_k is the distance to the k-th nearest neighbour in the same set, itself excluded (by index).

How to read them: precision is fidelity, the share of generated images that could be real; recall is coverage, the share of real
images that the model could have made. Two samples of one distribution score the same in both but *not* 1: read
them beside the same figures of real against real.

Intervals: 95%, Wilson's, for the sampling of both sets. Over the judged images (fake for precision, real for recall) a share's
variance is p (1 - p) / m; the other set adds a jackknife, the spread over its images of what each alone accounts for (judged
images inside no other ball). That overstates a little, since without an image its neighbours' balls would grow.

Reference: Kynkäänniemi et al. 2019, arXiv 1904.06991 (k = 3 there as here).
"""

from typing import NamedTuple

import numpy as np

from evaluation.neighbors import count_within, nearest
from evaluation.result import (
    Result,
    check_count,
    check_features,
    check_same_dimension,
    check_varied,
    jackknifed_interval,
)

__all__ = ["PrecisionRecall", "precision_recall"]


class PrecisionRecall(NamedTuple):
    precision: Result
    recall: Result


def precision_recall(real, fake, k=3):
    """Precision and recall of fake features against real ones.

    Args:
        real: features, `[n_real, d]`; at least two different rows.
        fake: features, `[n_fake, d]`.
        k: neighbours that set the size of a manifold's balls; below both numbers of images.
    """
    real, fake = check_features("real", real), check_features("fake", fake)
    check_same_dimension(real=real, fake=fake)
    check_varied("real", real)
    k = check_count("k", k, 1, min(len(real), len(fake)) - 1, f" (below n_real={len(real)} and n_fake={len(fake)})")
    return PrecisionRecall(
        precision=_share_inside(fake, real, k, real, fake, "fake"),
        recall=_share_inside(real, fake, k, real, fake, "real"),
    )


def _share_inside(judged, manifold, k, real, fake, judged_name):
    radii = nearest(manifold, manifold, k=k, exclude_self=True)[0][:, -1]
    holding, _ = count_within(judged, manifold, radii)
    _, alone = (
        count_within(judged[holding == 1], manifold, radii) if (holding == 1).any() else (None, np.zeros(len(manifold)))
    )
    share = float(np.mean(holding > 0))
    details = {
        "n_real": len(real),
        "n_fake": len(fake),
        "dimension": real.shape[1],
        "k": k,
        "interval_method": f"95% Wilson over the {len(judged)} {judged_name} images, jackknife over the other set",
    }
    return Result(share, jackknifed_interval(share, len(judged), alone), details)
