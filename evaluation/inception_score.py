"""Inception score: are single images classified with confidence, and all of them together into many classes?

    IS = exp( mean_x KL( p(y | x) || p(y) ) ),     p(y) the mean of p(y | x), in each of `splits` parts; then the mean

How to read it: 1 (every image classified alike) to the number of classes. It never looks at the real images: it cannot see overfitting and is
of little use away from the classifier's own classes; it grows with the images a split. Read KID first.

Interval: 95% t interval of the mean over the splits. `details["sd"]` is the spread that papers print after +-.

Reference: Salimans et al. 2016, arXiv 1606.03498 (10 consecutive splits there as here).
"""

import numpy as np

from evaluation.result import Result, check_count, check_features

__all__ = ["inception_score"]

# 97.5% points of Student's t at 1, 2, ... degrees of freedom; beyond, 1.96 + 2.4 / df is within .01.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def inception_score(logits, splits=10):
    """Inception score of generated images from a classifier's logits.

    Args:
        logits: `[n, classes]`, before the softmax; two classes or more. In random order: the splits are consecutive.
        splits: parts to score apart; each must have two images or more.
    """
    logits = check_features("logits", logits)
    if logits.shape[1] < 2:
        raise ValueError(
            f"`logits` must have two classes or more. Received: shape {logits.shape}. Give the classifier's logits, [n, classes]."
        )
    splits = check_count("splits", splits, 1, len(logits) // 2, f" (two of the {len(logits)} images or more in each)")

    scores = []
    for part in range(splits):
        rows = logits[part * len(logits) // splits : (part + 1) * len(logits) // splits].astype(np.float64)
        log_p = rows - rows.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        marginal = p.mean(axis=0)
        log_marginal = np.log(np.where(marginal > 0, marginal, 1))  # 0 only if all p are, and then they add nothing
        scores.append(float(np.exp((p * (log_p - log_marginal)).sum(axis=1).mean())))

    value, sd, interval = float(np.mean(scores)), None, None
    if splits > 1:
        sd = float(np.std(scores, ddof=1))
        degrees = splits - 1
        reach = (_T975[degrees - 1] if degrees <= len(_T975) else 1.96 + 2.4 / degrees) * sd / np.sqrt(splits)
        interval = max(value - float(reach), 1.0), value + float(reach)
        interval = min(interval[0], value), interval[1]
    details = {
        "n_fake": len(logits),
        "classes": logits.shape[1],
        "splits": splits,
        "sd": sd,
        "interval_method": f"95% t over {splits} splits" if splits > 1 else "none",
    }
    return Result(value, interval, details)
