"""Adversarial accuracy, precision and recall over any nearest-neighbour search: their definitions, without intervals."""

import numpy as np


def metrics(metric, real, fake, nearest, inside):
    """Returns the values of a metric by name.

    Args:
        metric: nearest, adversarial-accuracy or precision-recall.
        real: Features `[n, d]`.
        fake: Features `[n, d]`.
        nearest: Function of (queries, references, k) to the k smallest distances `[n, k]`, in order.
        inside: Function of (queries, references, radii) to whether each query is in a ball of a reference, `[n]`.
    """
    if metric == "nearest":
        return {"distance": float(nearest(fake, real, 3).mean())}
    if metric == "adversarial-accuracy":
        # The nearest of a set in itself is the point itself: the second is wanted.
        of_real, of_fake = nearest(real, real, 2)[:, 1], nearest(fake, fake, 2)[:, 1]
        left, right = nearest(real, fake, 1)[:, 0] > of_real, nearest(fake, real, 1)[:, 0] > of_fake
        return {"adversarial_accuracy": float((np.mean(np.asarray(left)) + np.mean(np.asarray(right))) / 2)}
    shares = (
        inside(judged, manifold, nearest(manifold, manifold, 4)[:, 3])
        for judged, manifold in ((fake, real), (real, fake))
    )
    return dict(zip(("precision", "recall"), (float(np.mean(np.asarray(share))) for share in shares)))
