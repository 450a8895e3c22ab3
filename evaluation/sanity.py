"""`python -m evaluation.sanity`: does the judge see, on your data, what it must see?

Images are damaged more and more, copied, mixed and collapsed, where the right answer is known beforehand. The table that
it prints, as Markdown, has for each case what is expected and what was seen.
"""

import argparse
import io
import sys

import numpy as np
from PIL import Image, ImageFilter

from training import data

# Damages by name: the levels, mildest first, and what each does to one uint8 image.
NOISE, BLUR, QUALITY = (4, 12, 36), (0.5, 1.0, 2.0), (60, 20, 5)


def main(argv=None):
    """Runs the command line; returns 0 if all that is expected was seen, 1 if not, 2 for a wrong option."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.sanity",
        description="Checks the judge on data where the answer is known, and prints a table of expected and seen.",
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, help="training images: a folder, a zip, tfds:NAME or emoji")
    parser.add_argument("--test-data", required=True, help="held-out images of the same distribution")
    parser.add_argument("--size", type=int, default=32, help="side in pixels; default 32")
    parser.add_argument("--count", type=int, default=1000, help="images of each kind; default 1000")
    parser.add_argument("--features", default="efficientnet-lite0", metavar="NAME", help="feature network")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.count < 20:
        parser.exit(2, f"evaluation.sanity: --count must be at least 20. Received: {arguments.count}\n")
    try:
        rows = check(arguments)
    except ValueError as error:
        print(f"evaluation.sanity: {error}", file=sys.stderr)
        return 1
    print(f"\nn = {arguments.count}, {arguments.features}, resize clean, seed {arguments.seed}\n")
    print("| case | expected | seen | as expected |\n|---|---|---|---|")
    for case, expected, seen, holds in rows:
        print(f"| {case} | {expected} | {seen} | {'yes' if holds else '**no**'} |")
    return 0 if all(holds for *_, holds in rows) else 1


def check(arguments):
    """Yields `(case, expected, seen, whether it holds)` for every case."""
    import evaluation

    train_images, test_images = (
        _drawn(data.load(source, size=arguments.size).images, arguments.count, arguments.seed)
        for source in (arguments.data, arguments.test_data)
    )
    n = min(len(train_images), len(test_images)) // 2 * 2
    train_images, test_images = train_images[:n], test_images[:n]

    def features(images):
        return evaluation.extract_features(images, arguments.features).features

    train, test = features(train_images), features(test_images)
    rows = [*_damages(train_images[: n // 2], train[n // 2 :], train[: n // 2], features, arguments.seed)]

    half, quarter = n // 2, n // 4
    loss = evaluation.privacy_loss(train, test, train, seed=arguments.seed)
    expected = (("0", 0.0, 0.0), ("about .5", 0.4, 0.6), ("about .5", 0.4, 0.6))
    rows += _privacy_rows("a copy of the train set", loss, expected)

    # For the next two the held-out images are needed twice: half of them play the generator, half the test set.
    subset, a, b = train[:half], test[:half], test[half:]
    synthetic = np.concatenate([subset[:quarter], a[:quarter]])
    loss = evaluation.privacy_loss(subset, b, synthetic, seed=arguments.seed)
    # With exact copies and a strict comparison, a share c of copies gives (1 - c)^2 / (2 - c) on train: 1/6 at one half.
    expected = (("1/6", 0.1, 0.25), ("about .5", 0.4, 0.6), ("about 1/3", 0.23, 0.43))
    rows += _privacy_rows("half copies, half other held-out images", loss, expected)
    loss = evaluation.privacy_loss(subset, b, a, seed=arguments.seed)
    for label, result, expected in (
        ("adversarial accuracy on train", loss.details["aa_train"], 0.5),
        ("adversarial accuracy on test", loss.details["aa_test"], 0.5),
        ("privacy loss", {"value": loss.value, "interval": loss.interval}, 0.0),
    ):
        low, high = result["interval"]
        seen = f"{result['value']:.3f}, interval {low:.3f} to {high:.3f}"
        rows.append(
            (f"real held-out images: {label}", f"{expected:g} within the interval", seen, low <= expected <= high)
        )

    collapsed = np.repeat(train[:1], half, axis=0)
    coverage = evaluation.density_coverage(subset, collapsed).coverage
    rows.append(("one image repeated (collapse): coverage", "near 0", f"{coverage.value:.3f}", coverage.value < 0.05))
    coverage = evaluation.density_coverage(subset, a).coverage
    rows.append(
        ("real held-out images: coverage", "near its null, .97", f"{coverage.value:.3f}", coverage.value > 0.85)
    )
    return rows


def _privacy_rows(case, loss, expected):
    values = (loss.details["aa_train"]["value"], loss.details["aa_test"]["value"], loss.value)
    labels = ("adversarial accuracy on train", "adversarial accuracy on test", "privacy loss")
    return [
        (f"{case}: {label}", text, f"{value:.3f}", low <= value <= high)
        for label, value, (text, low, high) in zip(labels, values, expected, strict=True)
    ]


def _damages(images, reference, undamaged, features, seed):
    """Yields a row for each damage: KID and Fréchet distance must rise with its level."""
    import evaluation

    generator = np.random.default_rng(seed)
    damages = {
        "noise, deviation": (NOISE, lambda image, level: _noisy(image, level, generator)),
        "blur, radius": (BLUR, lambda image, level: image.filter(ImageFilter.GaussianBlur(level))),
        "JPEG, quality": (QUALITY, _recompressed),
    }
    for name, (levels, damage) in damages.items():
        sets = [undamaged]
        for level in levels:
            damaged = [np.asarray(damage(Image.fromarray(image), level)) for image in images]
            sets.append(features(np.stack(damaged)))
        kids = [evaluation.kid(reference, each).value for each in sets]
        distances = [evaluation.frechet_distance(reference, each).value for each in sets]
        for label, values, digits in (("KID", kids, 4), ("Fréchet distance", distances, 1)):
            yield (
                f"{label} against {name} none, {', '.join(map(str, levels))}",
                "rises",
                ", ".join(f"{value:.{digits}f}" for value in values),
                all(after > before for before, after in zip(values, values[1:], strict=False)),
            )


def _noisy(image, level, generator):
    array = np.asarray(image, np.float64)
    return Image.fromarray((array + generator.normal(0, level, array.shape)).round().clip(0, 255).astype(np.uint8))


def _recompressed(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _drawn(images, count, seed):
    # Not sorted: the halves of what is drawn are compared, and the order of files may carry a trend.
    return np.asarray(images[np.random.default_rng(seed).permutation(len(images))[:count]])


if __name__ == "__main__":
    sys.exit(main())
