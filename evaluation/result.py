"""What every metric takes, `[n, d]` arrays of features, and what it returns: a `Result`, a number with its context."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = [
    "Result",
    "check_count",
    "check_features",
    "check_same_dimension",
    "check_varied",
    "jackknifed_interval",
    "wilson_interval",
]

_CHECKED_ROWS = 4096
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Result:
    """A metric's value, its interval where there is one, and what is needed to read it.

    Args:
        value: the metric itself; `float(result)` gives the same.
        interval: (low, high); `details["interval_method"]` says how it was made and what it covers. None where no
            interval would be honest (the Fréchet distance is biased at small n: read it beside its floor).
        details: counts, nulls, parts and parameters; plain numbers, strings, lists and dictionaries only.
    """

    value: float
    interval: tuple[float, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __float__(self):
        return float(self.value)


def check_features(name, features, minimum=2):
    """Returns `features` as a float32 or float64 array `[n, d]` of finite numbers, not copied if it is one already."""
    try:
        array = np.asarray(features)
    except ValueError as error:  # rows of different lengths
        raise ValueError(
            f"`{name}` must be one array of shape [n, d]. Received: {type(features).__name__} that makes none ({error}). Give rows of equal length."
        ) from error
    if array.dtype.kind not in "fiu":
        raise ValueError(
            f"`{name}` must be real numbers, [n, d]. Received: dtype {array.dtype}. Extract features from images first (evaluation.extract_features)."
        )
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.ndim != 2:
        raise ValueError(
            f"`{name}` must be a matrix [n, d], one row an image. Received: shape {array.shape}. Extract features (evaluation.extract_features) or reshape to [n, d]."
        )
    if array.shape[0] < minimum:
        raise ValueError(
            f"`{name}` must have at least {minimum} rows (images). Received: shape {array.shape}. Give more images."
        )
    if array.shape[1] < 1:
        raise ValueError(
            f"`{name}` must have at least one column (feature). Received: shape {array.shape}. Give a feature network's output."
        )
    for start in range(0, len(array), _CHECKED_ROWS):
        bad = ~np.isfinite(array[start : start + _CHECKED_ROWS]).all(axis=1)
        if bad.any():
            row = start + int(np.argmax(bad))
            raise ValueError(
                f"`{name}` must be finite. Received: NaN or infinity, first in row {row}. Look at image {row}, or at the feature network's weights."
            )
    return array


def check_same_dimension(**named_features):
    """Raises ValueError unless all have as many columns."""
    widths = {name: features.shape[1] for name, features in named_features.items()}
    if len(set(widths.values())) > 1:
        names = " and ".join(f"`{name}`" for name in widths)
        shapes = ", ".join(f"{name} {features.shape}" for name, features in named_features.items())
        raise ValueError(
            f"{names} must have the same number of features. Received: {shapes}. Extract all of them with one network."
        )


def check_varied(name, features):
    """Raises ValueError if all rows are equal: as a reference, such a set has no spread to measure against."""
    if all(
        (features[start : start + _CHECKED_ROWS] == features[0]).all()
        for start in range(0, len(features), _CHECKED_ROWS)
    ):
        raise ValueError(
            f"`{name}` must hold at least two different rows. Received: {len(features)} identical rows. "
            "Look at the images (one repeated?) or at the feature network (constant output?)."
        )


def check_count(name, value, minimum, maximum=None, why=""):
    """Returns `value` as an int in [minimum, maximum]."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < minimum or (maximum is not None and value > maximum):
        bounds = f"of at least {minimum}" if maximum is None else f"in {minimum}..{maximum}"
        raise ValueError(
            f"`{name}` must be a whole number {bounds}{why}. Received: {name}={value!r}. Choose another {name}{'' if maximum is None else ' or give more images'}."
        )
    return int(value)


def jackknifed_interval(share, count, alone):
    """Wilson's interval of a share of `count` images that depends on another sample, too.

    Args:
        share: of the images, those near some image of the other sample.
        count: images.
        alone: for each image of the other sample, how many of the images are near it and no other of that sample.
    """
    own = share * (1 - share) / count
    other = float(np.square(alone / count - np.mean(alone / count)).sum())
    return wilson_interval(share, count * own / (own + other) if own > 0 else count)


def wilson_interval(share, count):
    """The 95% interval of a share observed on `count` independent trials (Wilson, 1927): never empty, inside [0, 1].

    `count` may be fractional: dependent trials count as fewer independent ones.
    """
    centre = (share + _Z95**2 / (2 * count)) / (1 + _Z95**2 / count)
    half = _Z95 / (1 + _Z95**2 / count) * math.sqrt(share * (1 - share) / count + _Z95**2 / (4 * count**2))
    return float(min(max(centre - half, 0.0), share)), float(max(min(centre + half, 1.0), share))
