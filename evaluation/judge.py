"""The figures of one comparison of generated with real images, and what they say in plain words.

Every figure is a dictionary with `value`, `interval` (of 95%) or `floor` or `null` where there is one, what it was
made with, and one line on how to read it. The verdict follows from the figures by the thresholds below, all of which the
report prints.
"""

import math

import numpy as np

from evaluation import neighbors
from evaluation.adversarial_accuracy import adversarial_accuracy, privacy_loss
from evaluation.authenticity import authenticity
from evaluation.density_coverage import density_coverage
from evaluation.frechet import frechet_distance
from evaluation.frechet import real_vs_real_floor as frechet_floor
from evaluation.inception_score import inception_score
from evaluation.kid import kid
from evaluation.kid import real_vs_real_floor as kid_floor
from evaluation.precision_recall import precision_recall
from evaluation.result import wilson_interval

THRESHOLDS = {
    "aa_ideal": 0.5,
    "aa_clear": 0.7,
    "aa_easy": 0.9,
    "aa_uninformative": 0.95,
    "near_copy_quantile": 0.01,
    "near_copy_share": 0.05,
    "exact_copy_share": 0.01,
    "covered": 0.8,
    "partly_covered": 0.5,
    "fewest_for_a_verdict": 50,
}

# name: (label, which way is better, how to read it). The order is that of the report.
READINGS = {
    "kid": ("KID", "lower", "0 means: as close as another set of real images. It is right on average at any number of images, so read it first; inside the interval of the floor there is no difference to see. Slightly negative values are normal."),
    "frechet": ("Fréchet distance", "lower", "Grows as the number of images falls, even for perfect images: compare it with its floor, taken at the same number, and with nothing made at another number or by another network."),
    "precision": ("Precision", "higher", "Share of generated images that lie among the real ones (k = 3): quality. Blind to copying."),
    "recall": ("Recall", "higher", "Share of real images that lie among the generated ones (k = 3): variety. Odd images raise it too easily; see coverage."),
    "density": ("Density", "near 1", "How deep among the real images the generated ones lie (k = 5). 1 for real images; above 1 means: crowded around typical ones."),
    "coverage": ("Coverage", "higher", "Share of real images with a generated one nearby (k = 5). Compare with what real images would reach; near 0 means that few different images are made."),
    "aa_train": ("Adversarial accuracy, train", "near .5", "How often an image's nearest neighbour is of its own kind. .5: cannot be told from the training images; toward 1: can be told; under .5: lies closer to them than they to each other, that is copying."),
    "aa_test": ("Adversarial accuracy, test", "near .5", "The same against real images that the training did not see: .5 is ideal, toward 1 can be told apart."),
    "privacy_loss": ("Privacy loss", "near 0", "Adversarial accuracy on test minus that on train. Above 0: closer to the training images than to unseen ones, that is memory of them. A perfect copy reaches only about .5, and when both accuracies are near 1 it says nothing."),
    "authenticity": ("Authenticity", "near that of unseen real images", "Share of generated images that are not closer to their nearest training image than that one is to its own nearest. 0: all are copies; unseen real images give .4 to .8, more in more dimensions; near 1: far from the training images, new or merely bad."),
    "near_copies": ("Near copies", "lower", "Share of generated images closer to a training image than 99% of the training images are to theirs: about .01 by chance."),
    "exact_copies": ("Exact copies", "lower", "Share of generated images that equal a training image in every pixel."),
    "inception_score": ("Inception score", "higher", "Sharp and varied ImageNet classes, by the network's own opinion; it never looks at the real images. For comparison with older papers only."),
}  # fmt: skip
READINGS |= {
    f"{name}_lpips": (f"{READINGS[name][0]} (LPIPS)", *READINGS[name][1:])
    for name in ("aa_train", "aa_test", "privacy_loss", "authenticity")
}


def measure(
    train,
    test,
    fake,
    made_with,
    *,
    seed,
    logits=None,
    distance_name="Fréchet distance",
    exact_copies=None,
    more_real=None,
):
    """Returns `{name: figure}` of generated against real images, for features of one network.

    Args:
        train: `[n_real, d]`, of the real images (those that the model was trained on).
        test: `[n_test, d]` of real images that it was not trained on, or `None`.
        fake: `[n_fake, d]`, of the generated images.
        made_with: Dict put into every figure: network, weights hash, resize mode.
        seed: Of the bootstrap, the halves of the floor and the subsampling.
        logits: `[n_fake, classes]` of the network for the generated images, or `None`.
        distance_name: What the Fréchet distance of this network is called.
        exact_copies: Share of generated images that equal a training image, or `None`.
        more_real: `[n, d]` of further training images, which only serve the floors, or `None`.

    Raises:
        ValueError: If features are not finite, or there are fewer than 2 of a kind.
    """
    for name, features in {"real": train, "test": test, "generated": fake}.items():
        if features is not None and len(features) < 2:
            raise ValueError(f"At least 2 {name} images are needed. Received: {len(features)}.")
        if features is not None and not np.isfinite(features).all():
            raise ValueError(f"The features of the {name} images hold NaN or infinity: look at these images.")
    made_with = made_with | {
        "seed": seed,
        "n_real": len(train),
        "n_fake": len(fake),
        "n_test": 0 if test is None else len(test),
    }
    results = {"kid": kid(train, fake, seed=seed), "frechet": frechet_distance(train, fake)}
    overlap = precision_recall(train, fake, k=_k(3, train, fake))
    spread = density_coverage(train, fake, k=_k(5, train, fake))
    results |= {
        "precision": overlap.precision,
        "recall": overlap.recall,
        "density": spread.density,
        "coverage": spread.coverage,
    }
    nearness, extra = _nearness(train, test, fake, seed)
    results |= nearness
    extra |= _floors(train, more_real, fake, seed) | {
        name: {"null": results[name].details["null"]} for name in ("density", "coverage")
    }
    extra["frechet"] = extra.get("frechet", {}) | {"label": distance_name}
    if exact_copies is not None:
        results["exact_copies"] = exact_copies
    if logits is not None:
        results["inception_score"] = inception_score(logits, splits=min(10, len(logits) // 2))
    return {name: figure(name, results[name], made_with, **extra.get(name, {})) for name in READINGS if name in results}


def measure_lpips(train, test, fake, made_with, *, seed):
    """Returns the figures of copying by LPIPS, for the embeddings of `lpips-alex`."""
    made_with = made_with | {
        "seed": seed,
        "n_real": len(train),
        "n_fake": len(fake),
        "n_test": 0 if test is None else len(test),
    }
    results, extra = _nearness(train, test, fake, seed, normalize=False)
    return {
        f"{name}_lpips": figure(f"{name}_lpips", result, made_with | {"distance": "LPIPS"}, **extra.get(name, {}))
        for name, result in results.items()
        if f"{name}_lpips" in READINGS
    }


def figure(name, result, made_with, **extra):
    """Returns one figure as the report holds it, from a number or an `evaluation.Result`."""
    label, better, reading = READINGS[name]
    entry = {
        "label": label,
        "value": _number(result),
        "interval": _interval(result),
        "better": better,
        "how_to_read": reading,
    }
    return entry | extra | made_with


def _number(value):
    value = float(value)
    if not math.isfinite(value):
        raise ValueError("A figure is not finite: the features of the real or of the generated images hardly differ.")
    return value


def _interval(result):
    interval = getattr(result, "interval", None)
    return None if interval is None else [_number(end) for end in interval]


def _k(k, *sets):
    """k neighbours want more than k images."""
    return min(k, *(len(features) - 1 for features in sets))


def halves(count, n, seed):
    """Returns the places of two disjoint random parts of `count` images, `n` each."""
    order = np.random.default_rng([seed, 11]).permutation(count)
    return np.sort(order[:n]), np.sort(order[n : 2 * n])


def _floors(train, more_real, fake, seed):
    """Returns, for the figures without a known ideal, what two parts of the real images score against each other.

    A floor has `n` images a side. Where the real images do not allow as many as were generated, the Fréchet distance of
    the generated images at this lower number stands beside its floor: only these two can be compared.
    """
    real = train if more_real is None else np.concatenate([train, more_real])
    n = min(len(fake), len(real) // 2)
    if n < 2:
        return {}
    first, second = (real[places] for places in halves(len(real), n, seed))
    overlap = precision_recall(first, second, k=_k(3, first, second))
    floors = {
        "kid": kid_floor(real, n, seed=seed),
        "frechet": frechet_floor(real, n, seed=seed),
        "precision": overlap.precision,
        "recall": overlap.recall,
    }
    floors = {
        name: {"floor": {"value": _number(floor), "interval": _interval(floor), "n": n}}
        for name, floor in floors.items()
    }
    if n < max(len(fake), len(train)):
        some = np.random.default_rng([seed, 12]).permutation(len(fake))[:n]
        floors["frechet"]["value_at_floor_n"] = _number(frechet_distance(first, fake[some]))
    return floors


def _nearness(train, test, fake, seed, normalize=True):
    """Returns `(results, extra)` of the figures about copying."""
    if normalize:  # Euclidean distance of normalized features orders as cosine distance does
        train, fake = neighbors.normalized(train), neighbors.normalized(fake)
        test = None if test is None else neighbors.normalized(test)
    results = {"aa_train": adversarial_accuracy(train, fake, seed=seed), "authenticity": authenticity(train, fake)}
    extra = {}
    if test is not None:
        loss = privacy_loss(train, test, fake, seed=seed)
        results |= {"aa_test": adversarial_accuracy(test, fake, seed=seed), "privacy_loss": loss}
        extra["privacy_loss"] = {
            "n": loss.details["n"],
            **{f"{name}_at_n": _number(loss.details[name]["value"]) for name in ("aa_train", "aa_test")},
        }
        extra["authenticity"] = {"unseen_real": _number(authenticity(train, test))}
    for name in {"aa_train", "aa_test"} & set(results):
        extra[name] = {key: results[name].details[key] for key in ("null", "n")}
    own = neighbors.nearest(train, train, k=1, exclude_self=True)[0][:, 0]
    usual = np.quantile(own, THRESHOLDS["near_copy_quantile"])
    # The tolerance is that of a distance by Gram matrices, of which float rounding leaves a little between equals.
    distances = neighbors.nearest(fake, train, k=1)[0][:, 0]
    results["near_copies"] = np.mean(distances <= usual + 1e-6 * max(1.0, np.median(own)))
    extra["near_copies"] = {"interval": list(wilson_interval(float(results["near_copies"]), len(fake)))}
    return results, extra


def verdict(figures):
    """Returns `{question: {"answer", "sentence"}}` for three questions: distinguishable, copies, covers.

    Args:
        figures: What `measure` (and `measure_lpips`) returned.
    """
    answers = {"distinguishable": _distinguishable(figures), "copies": _copies(figures), "covers": _covers(figures)}
    fewest = min(figures["kid"]["n_real"], figures["kid"]["n_fake"])
    if fewest < THRESHOLDS["fewest_for_a_verdict"]:
        for answer in answers.values():
            answer["sentence"] += f" (With only {fewest} images, take this as a hint.)"
    return answers


def _distinguishable(figures):
    kid_figure = figures["kid"]
    name = "aa_test" if "aa_test" in figures else "aa_train"
    accuracy = figures[name]
    which = "unseen real images" if name == "aa_test" else "the training images"
    floor_end = kid_figure.get("floor", {}).get("interval", [0.0, 0.0])[1]
    by_kid = kid_figure["interval"][0] > max(0.0, floor_end)
    by_neighbour = accuracy["interval"][0] > THRESHOLDS["aa_ideal"]
    evidence = f"KID {show(kid_figure)}; nearest neighbours tell them from {which} {accuracy['value']:.0%} of the time (50% is guessing)"
    if not by_kid and not by_neighbour:
        return {
            "answer": "no",
            "sentence": f"Not distinguishable from real images by these measures at this number of images: {evidence}.",
        }
    how = "Clearly" if accuracy["value"] >= THRESHOLDS["aa_clear"] else "Slightly"
    how = "Easily" if accuracy["value"] >= THRESHOLDS["aa_easy"] else how
    by = " and ".join(["KID"] * bool(by_kid) + ["nearest neighbours"] * bool(by_neighbour))
    return {"answer": "yes", "sentence": f"{how} distinguishable from real images, by {by}: {evidence}."}


def _copies(figures):
    reasons = []
    for suffix, by in (("", "by features"), ("_lpips", "by LPIPS")):
        accuracy, loss = figures.get(f"aa_train{suffix}"), figures.get(f"privacy_loss{suffix}")
        if accuracy and accuracy["interval"][1] < THRESHOLDS["aa_ideal"]:
            reasons.append(
                f"generated images lie closer to the training images than these to each other ({by}, adversarial accuracy {show(accuracy)})"
            )
        if loss and loss["interval"][0] > 0:
            reasons.append(
                f"they lie closer to the training images than to unseen ones ({by}, privacy loss {show(loss)})"
            )
    near, exact = figures.get("near_copies"), figures.get("exact_copies")
    if near and near["interval"][0] > THRESHOLDS["near_copy_share"]:
        reasons.append(f"{near['value']:.0%} are closer to a training image than training images ever are")
    if exact and exact["value"] >= THRESHOLDS["exact_copy_share"]:
        reasons.append(f"{exact['value']:.0%} equal a training image in every pixel")
    if reasons:
        return {"answer": "yes", "sentence": f"It copies the training images: {'; '.join(reasons)}."}
    accuracies = [figures[name]["value"] for name in ("aa_train", "aa_test") if name in figures]
    searched = f"No sign of copying among {figures['kid']['n_real']:,} training images"
    if min(accuracies) >= THRESHOLDS["aa_uninformative"]:
        return {
            "answer": "no sign",
            "sentence": f"{searched}: the generated images lie far from them. That also means that privacy loss says nothing here; judge by the closest pairs below.",
        }
    if "privacy_loss" not in figures:
        return {
            "answer": "no sign",
            "sentence": f"{searched}; without unseen real images (--test-data) privacy loss could not be computed.",
        }
    return {
        "answer": "no sign",
        "sentence": f"{searched}: privacy loss {show(figures['privacy_loss'])} does not exceed 0 for certain.",
    }


def _covers(figures):
    coverage = figures["coverage"]
    null = coverage.get("null") or 1.0
    share = coverage["value"] / null
    evidence = f"{coverage['value']:.0%} of the real images have a generated one nearby, where real images would reach {null:.0%}; recall {figures['recall']['value']:.2f}"
    if share >= THRESHOLDS["covered"]:
        return {"answer": "yes", "sentence": f"It covers the variety of the data: {evidence}."}
    if share >= THRESHOLDS["partly_covered"]:
        return {"answer": "partly", "sentence": f"It covers part of the variety of the data: {evidence}."}
    return {"answer": "no", "sentence": f"It misses most of the variety of the data: {evidence}."}


def show(entry):
    """Returns a figure as text, with its interval where it has one."""
    text = number_text(entry["value"])
    if entry.get("interval"):
        text += f" ({number_text(entry['interval'][0])} to {number_text(entry['interval'][1])})"
    return text


def number_text(value):
    """Returns a number with three or four digits that matter, and a proper minus sign."""
    if value == 0 or abs(value) < 5e-6:
        return "0"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3 if abs(value) >= 0.01 else 5
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def threshold_lines():
    """Returns the rules behind the verdict, one line each."""
    t = THRESHOLDS
    return [
        f"Distinguishable: the interval of KID lies above that of its floor, or the interval of the adversarial accuracy (on test where there is one, else on train) lies above {t['aa_ideal']}. “Clearly” from an accuracy of {t['aa_clear']}, “easily” from {t['aa_easy']}.",
        f"Copies: the interval of the adversarial accuracy on train lies under {t['aa_ideal']}, or that of privacy loss above 0, or that of near copies above {t['near_copy_share']:.0%}, or at least {t['exact_copy_share']:.0%} are exact copies.",
        f"Near copy: closer to a training image than all but {t['near_copy_quantile']:.0%} of the training images are to their own nearest.",
        f"Privacy loss is called silent where both adversarial accuracies are at least {t['aa_uninformative']}.",
        f"Covers: coverage reaches {t['covered']:.0%} of what real images would reach; “part of it” from {t['partly_covered']:.0%}.",
        f"Under {t['fewest_for_a_verdict']} images of either kind a verdict is only a hint.",
    ]
