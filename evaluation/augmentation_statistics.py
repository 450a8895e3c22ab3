"""What the predictions of the classifiers say: accuracies, F1, differences from `real`, each with its interval, in words.

Intervals are percentiles of a paired bootstrap: test images are drawn anew within their classes, the same ones for every
regime, and the seeds of each regime are drawn anew as well. A bootstrap of k seeds shows (k - 1) / k of the variance of
their mean; with three that is far too little, so the spread of the drawn seeds is widened by sqrt(k / (k - 1)).
"""

import zlib

import numpy as np

RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)


class Bootstrap:
    """Resamples of test images and seeds.

    Args:
        labels: int `[n]`, the true classes of the test images.
        resamples: How many.
        seed: int.
    """

    def __init__(self, labels, resamples=RESAMPLES, seed=0):
        self.labels = np.asarray(labels)
        self._resamples, self._seed = resamples, seed
        generator = np.random.default_rng([seed, 0])
        drawn = np.zeros((resamples, len(self.labels)))
        for label in np.unique(self.labels):
            rows = np.flatnonzero(self.labels == label)
            drawn[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
        # The first row is the sample itself: what is computed of it is the estimate.
        self.weights = np.concatenate([np.ones((1, len(self.labels))), drawn])

    def over_seeds(self, values, regime):
        """Returns the means over drawn seeds, `[1 + resamples]`, of values `[1 + resamples, seeds]` of a regime."""
        count = values.shape[1]
        centre = values.mean(axis=1)
        if count == 1:
            return centre
        generator = np.random.default_rng([self._seed, zlib.crc32(regime.encode())])
        places = generator.integers(count, size=(self._resamples, count))
        drawn = np.take_along_axis(values[1:], places, axis=1).mean(axis=1)
        widened = centre[1:] + (drawn - centre[1:]) * np.sqrt(count / (count - 1))
        return np.concatenate([centre[:1], widened])

    def means(self, values, regime):
        """Returns resampled means of values `[seeds, n]`, one an image: `[1 + resamples]`."""
        return self.over_seeds(self.weights @ np.asarray(values, np.float64).T / len(self.labels), regime)

    def macro_f1(self, predictions, num_classes, regime):
        """Returns resampled macro-F1 of predictions int `[seeds, n]`: `[1 + resamples]`."""
        values = [f1(*self._counts(each, num_classes)).mean(axis=1) for each in np.asarray(predictions)]
        return self.over_seeds(np.stack(values, axis=1), regime)

    def _counts(self, predictions, num_classes):
        said, true = (np.arange(num_classes) == each[:, None] for each in (predictions, self.labels))
        return self.weights @ (said & true), self.weights @ said, self.weights @ true


def f1(hits, said, true):
    """Returns F1 from counts of a class: of its images so called, of all so called, of its images. 0 if there are none."""
    return np.divide(2.0 * hits, said + true, out=np.zeros(np.shape(hits)), where=(said + true) > 0)


def estimate(resampled):
    """Returns `{"value", "interval"}` of `[1 + resamples]`."""
    low, high = np.percentile(resampled[1:], PERCENTILES)
    return {"value": float(resampled[0]), "interval": [float(low), float(high)]}


def confusions(labels, predictions, num_classes):
    """Returns how many images of each class (rows) were given each class, `[seeds, classes, classes]`."""
    counts = np.zeros((len(predictions), num_classes, num_classes))
    for table, each in zip(counts, predictions):
        np.add.at(table, (labels, each), 1)
    return counts


def summarize(labels, predictions, num_classes, seed=0):
    """Compares regimes by their predictions on the same test images.

    Args:
        labels: int `[n]`.
        predictions: `{regime: int [seeds, n]}`; the first is the baseline.
        num_classes: int.
        seed: Of the bootstrap.

    Returns:
        `{regime: figures}`: `accuracy` and `macro_f1`, each with `value`, `interval` and `difference` (from the baseline,
        again with both); `recall` and `f1` of each class; `confusion`, rows are true classes.
    """
    bootstrap = Bootstrap(labels, seed=seed)
    resampled = {
        name: {
            "accuracy": bootstrap.means(each == bootstrap.labels, name),
            "macro_f1": bootstrap.macro_f1(each, num_classes, name),
        }
        for name, each in predictions.items()
    }
    baseline = next(iter(predictions))
    summary = {}
    for name, each in predictions.items():
        tables = confusions(bootstrap.labels, each, num_classes)
        shares = (tables / tables.sum(axis=2, keepdims=True)).mean(axis=0)
        hits = np.diagonal(tables, axis1=1, axis2=2)
        figures = {
            "recall": np.diag(shares).tolist(),
            "f1": f1(hits, tables.sum(axis=1), tables.sum(axis=2)).mean(axis=0).tolist(),
            "confusion": shares.tolist(),
        }
        for measure, values in resampled[name].items():
            figures[measure] = estimate(values) | {"difference": estimate(values - resampled[baseline][measure])}
        summary[name] = figures
    return summary


def difference(labels, first, second, names, seed=0):
    """Returns by how much the accuracy of predictions int `[seeds, n]` exceeds that of others, as `estimate`."""
    bootstrap = Bootstrap(labels, seed=seed)
    ours, theirs = (bootstrap.means(each == bootstrap.labels, name) for each, name in zip((first, second), names))
    return estimate(ours - theirs)


def attention(labels, shares, seed=0):
    """Compares regimes by a value of each of some test images.

    Args:
        labels: int `[n]`, the classes of these images.
        shares: `{regime: [seeds, n]}`; the first is the baseline.
        seed: Of the bootstrap.

    Returns:
        `{regime: {"value", "interval", "difference"}}`.
    """
    bootstrap = Bootstrap(labels, seed=seed)
    resampled = {name: bootstrap.means(each, name) for name, each in shares.items()}
    baseline = resampled[next(iter(shares))]
    return {name: estimate(each) | {"difference": estimate(each - baseline)} for name, each in resampled.items()}


# In words


def reading(found, higher="better", lower="worse"):
    """Returns what an interval of a difference says."""
    low, high = found["interval"]
    return higher if low > 0 else lower if high < 0 else "not distinguishable from zero"


def points(value, signed=True):
    """Returns a share as percentage points, such as `+2.1`."""
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return ("0.0" if float(text) == 0 else text).replace("-", "\N{MINUS SIGN}")


def sentence(what, found, than):
    """Returns a difference of accuracies in words."""
    low, high = found["interval"]
    return (
        f"{what}: {points(found['value'])} points of accuracy against {than} (95% interval {points(low)} to "
        f"{points(high)}): {reading(found)}."
    )


def headline(differences):
    """Returns `(answer, sentence)` to whether synthetic images helped, from `{ratio: difference}` of `real` + synthetic."""
    better = [ratio for ratio, found in differences.items() if reading(found) == "better"]
    worse = [ratio for ratio, found in differences.items() if reading(found) == "worse"]
    best = max(differences, key=lambda ratio: differences[ratio]["value"])
    of_best = sentence(
        f"The best of them, {best:.0%}" if len(differences) > 1 else f"{best:.0%}",
        differences[best],
        "real images alone",
    )
    tried = f"(tried: {_listed(differences)})"
    if better and worse:
        return (
            "It depends on the ratio",
            f"Accuracy rose at {_listed(better)} and fell at {_listed(worse)} {tried}. {of_best}",
        )
    if better:
        return "Yes", f"Accuracy rose at {_listed(better)} {tried}. {of_best}"
    if worse:
        return "No, they did harm", f"Accuracy fell at {_listed(worse)} {tried}. {of_best}"
    return "Not that could be seen", f"Accuracy did not change for certain at any ratio {tried}. {of_best}"


def _listed(ratios):
    return ", ".join(f"{ratio:.0%}" for ratio in ratios)
