"""`python -m evaluation.gradcam`: where a classifier looks, as maps over images. Also the maps and the figure as functions.

The maps themselves: `evaluation.attention`. Wrong options are answered before TensorFlow is imported.
"""

import argparse
import dataclasses
import difflib
import io
import os
import sys
from html import escape
from pathlib import Path

import numpy as np

from evaluation import attention, page, pictures, subject
from evaluation.attention import METHODS, attention_share, heatmaps, predict, randomized, rank_correlation
from evaluation.report import write_together
from training import data

__all__ = [
    "attention_share",
    "figure",
    "heatmaps",
    "load_classifier",
    "overlay",
    "predict",
    "randomized",
    "rank_correlation",
]

CLASSIFIER = Path("assets.extra") / "classifier.keras"
COLOURS = "turbo"
CELL_INCHES, COLUMNS, MOST_SHOWN, MOST_LETTERS = 1.3, 8, 24, 16


# Pictures


def overlay(images, maps):
    """Returns images with their maps over them.

    Args:
        images: uint8 `[n, height, width, channels]`.
        maps: float `[n, height, width]` in [0, 1].

    Returns:
        uint8 `[n, height, width, 3]`: the more a pixel counts, the more of the colour scale covers it.
    """
    import matplotlib

    images = pictures.on_white(images).astype(np.float32)
    grey = images.mean(axis=-1, keepdims=True)
    colours = matplotlib.colormaps[COLOURS](maps)[..., :3].astype(np.float32) * 255
    weights = 0.15 + 0.6 * np.asarray(maps, np.float32)[..., None]
    return np.rint((1 - weights) * grey + weights * colours).astype(np.uint8)


def figure(images, maps, predictions, labels=None, class_names=(), confidences=None, captions=None):
    """Draws images, each beside its maps by one or several classifiers.

    Args:
        images: uint8 `[n, height, width, channels]`.
        maps: `{classifier: float [n, height, width] in [0, 1]}`.
        predictions: `{classifier: int [n]}`, the class that each gives.
        labels: int `[n]`, the true classes, or `None`.
        class_names: Names of the classes; numbers where there are none.
        confidences: `{classifier: float [n]}`, 0 to 1, or `None`.
        captions: a word on each image, such as "real", or `None`.

    Returns:
        `{theme: PNG bytes}`, as the charts of `evaluation.pictures`. Right and wrong predictions are marked ✓ and ✗.
    """

    def named(place):
        name = str(class_names[place]) if len(class_names) else f"class {place}"
        return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"

    def about(i):
        words = [captions[i]] if captions is not None else []
        return "\n".join([*words, *([f"true: {named(labels[i])}"] if labels is not None else [])])

    def result(name, i):
        said = predictions[name][i]
        mark = "" if labels is None else "✓ " if said == labels[i] else "✗ "
        sure = "" if confidences is None else f" {confidences[name][i]:.2f}"
        return f"{mark}{named(said)}{sure}"

    width = 1 + len(maps)
    a_row = min(len(images), max(1, COLUMNS // width))
    rows = -(-len(images) // a_row)
    overlays = {name: overlay(images, each) for name, each in maps.items()}
    originals = pictures.on_white(images)
    # In units of a cell's width.
    tall, line = images.shape[1] / images.shape[2], 0.1
    pitch = tall + line * (2 + (captions is not None))
    heading = line if len(maps) > 1 else 0
    whole = (width * a_row, heading + pitch * rows)

    def draw(canvas, colour):
        plot = canvas.subplots()
        for i, image in enumerate(originals):
            row, column = divmod(i, a_row)
            left, bottom = column * width, heading + (row + 1) * pitch
            _show(plot, image, left, bottom, tall, about(i))
            for place, (name, drawn) in enumerate(overlays.items(), start=1):
                above = f"{name}\n" if len(maps) > 1 and row == 0 else ""
                shade = {}
                if labels is not None:
                    shade["color"] = colour("#009E73" if predictions[name][i] == labels[i] else "#D55E00")
                _show(plot, drawn[i], left + place, bottom, tall, above + result(name, i), **shade)
        plot.set(xlim=(0, whole[0]), ylim=(whole[1], 0), aspect="equal")
        plot.set_axis_off()

    return pictures.chart(draw, tuple(CELL_INCHES * side for side in whole))


def _show(plot, image, left, bottom, tall, title, **style):
    inset = 0.03
    extent = (left + inset, left + 1 - inset, bottom - inset, bottom - tall + inset)
    picture = image[..., 0] if image.shape[-1] == 1 else image
    plot.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent)
    plot.text(left + 0.5, bottom - tall, title, fontsize=7, ha="center", va="bottom", **style)


# The command


EPILOG = """examples:
  python -m evaluation.gradcam --model saved_models/pets-cnn --images pets/test
  python -m evaluation.gradcam --model classifier.keras --images photos/ --method scorecam --layer conv2d_3
  python -m evaluation.gradcam --model saved_models/pets-cnn --images pets/test --target cat --sanity"""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line, checked."""

    name: str
    path: Path
    class_names: tuple
    images: str
    count: int
    fit: str
    method: str
    layer: str | None
    target: str
    sanity: bool
    out: Path


def build_parser():
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.gradcam",
        description="Shows where a classifier looks: maps of the pixels that speak for a class, over the images.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        metavar="CLASSIFIER",
        required=True,
        help="a .keras file, or an exported classifier: saved_models/NAME (its newest version) or NAME/VERSION",
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        required=True,
        help="a folder of images, flat or with one subfolder a class; whatever training.fit --data takes",
    )
    parser.add_argument("--count", type=int, default=MOST_SHOWN, metavar="N", help="so many of them, evenly taken")
    parser.add_argument(
        "--fit", choices=("crop", "squash", "pad"), default="crop", help="how they are brought to the classifier's size"
    )
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"default {METHODS[0]}")
    parser.add_argument("--layer", metavar="NAME", help="layer to look at; default: the last convolution")
    parser.add_argument(
        "--target",
        metavar="CLASS",
        default="predicted",
        help="the class that a map explains: predicted (default), true, or the name of one",
    )
    parser.add_argument(
        "--sanity",
        action="store_true",
        help="also the maps of the classifier with random weights: they must be others, or the maps say nothing",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="for gradcam.html, gradcam.png and maps.npz; default reports/NAME-METHOD. Nothing is overwritten",
    )
    return parser


def resolve(arguments):
    """Turns parsed arguments into `Options`.

    Raises:
        ValueError: If one is wrong; the message says what it must be, what was received and what to do.
    """
    if arguments.count < 1:
        raise ValueError(f"--count must be at least 1. Received: {arguments.count}.")
    if arguments.layer and arguments.method == "saliency":
        raise ValueError("--layer does not go with --method saliency, which looks at no layer.")
    name, path, class_names = _find_classifier(Path(arguments.model))
    if class_names and arguments.target not in (*class_names, "predicted", "true"):
        near = difflib.get_close_matches(arguments.target, class_names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"--target must be predicted, true or a class. Received: {arguments.target!r}.{hint} Classes: "
            f"{', '.join(class_names)}."
        )
    data.check_source(arguments.images)
    out = Path(arguments.out or Path("reports") / f"{name}-{arguments.method}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a directory. There is a file at {str(out)!r}.")
    for each in ("gradcam.html", "gradcam.png", "maps.npz"):
        if (out / each).exists():
            raise ValueError(f"{out / each} exists, and nothing is overwritten. Give another --out, or move it.")
    return Options(
        name=name,
        path=path,
        class_names=class_names,
        images=arguments.images,
        count=arguments.count,
        fit=arguments.fit,
        method=arguments.method,
        layer=arguments.layer,
        target=arguments.target,
        sanity=arguments.sanity,
        out=out,
    )


def _find_classifier(path):
    """Returns `(name, path of the .keras file, class names)`; the names are () where nothing tells them."""
    if path.is_file():
        if path.suffix != ".keras":
            raise ValueError(f"--model must be a .keras file or an exported classifier. Received: {str(path)!r}.")
        return path.stem, path, ()
    name, directories, version = subject.find_versions(path)
    directory = directories[version]
    if not (directory / CLASSIFIER).is_file():
        raise ValueError(
            f"The SavedModel at {directory} has no {CLASSIFIER}: maps need the inner layers of a classifier, which a "
            "SavedModel does not show. Give the .keras file it was made of, or an export of python -m "
            "evaluation.augmentation."
        )
    class_names = subject.read_card(directory).get("class_names", ())
    return name if version is None else f"{name}-{version}", directory / CLASSIFIER, tuple(class_names)


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (failed), 2 (wrong option) or 130 (stopped)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        options = resolve(arguments)
    except ValueError as error:
        parser.exit(2, f"evaluation.gradcam: {error}\n")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        run(options)
    except KeyboardInterrupt:
        print("Stopped; nothing was written.", file=sys.stderr)
        return 130
    except Exception as error:
        known = isinstance(error, (ValueError, OSError, MemoryError)) or type(error).__module__.startswith("tensorflow")
        if os.environ.get("ZOO_TRACEBACK") or not known:
            raise
        print(f"evaluation.gradcam: {error}", file=sys.stderr)
        return 1
    return 0


def run(options):
    """Writes `gradcam.html`, `gradcam.png` and `maps.npz`: all of them, or none.

    Raises:
        ValueError: If the classifier or the images cannot be used, or their classes differ.
        OSError: If they cannot be written.
    """
    classifier = load_classifier(options.path)
    model = attention.functional(classifier)
    _, height, width, channels = model.input_shape
    reals = data.load(options.images, size=(height, width), channels=channels, fit=options.fit)
    reals = reals.subset(np.unique(np.linspace(0, len(reals) - 1, min(options.count, len(reals))).astype(int)))
    images = np.asarray(reals.images)
    labels, class_names = _agreed_classes(reals, options.class_names, model.output_shape[-1])
    predicted, confidences = predict(classifier, images)
    targets = _targets(options.target, predicted, labels, class_names)
    layer = None if options.method == "saliency" else attention.find_layer(model, options.layer).name

    classifiers = {options.name: classifier} | (
        {"random weights": randomized(classifier, seed=0)} if options.sanity else {}
    )
    results = {name: predict(each, images) for name, each in classifiers.items()}
    maps = {
        name: heatmaps(each, images, targets, options.method, layer, progress=True)
        for name, each in classifiers.items()
    }
    facts = {
        "Classifier": str(options.path),
        "Images": f"{options.images}: {len(images):,} shown",
        "Method": options.method + (f", layer {layer}" if layer else ""),
        "Explained class": options.target,
        "Share of a map above half its maximum": f"{attention_share(maps[options.name]).mean():.3f} on average",
    }
    if labels is not None:
        facts["Right"] = f"{int((predicted == labels).sum()):,} of {len(labels):,}"
    if options.sanity:
        similar = rank_correlation(maps[options.name], maps["random weights"]).mean()
        facts["Sanity"] = (
            f"rank correlation with the maps of random weights: {similar:.2f} on average. Near 1, the maps would show "
            "the image and not what was learned (Adebayo et al. 2018)"
        )
    shown = slice(MOST_SHOWN)
    drawn = figure(
        images[shown],
        {name: each[shown] for name, each in maps.items()},
        {name: said[shown] for name, (said, _) in results.items()},
        labels=None if labels is None else labels[shown],
        class_names=class_names,
        confidences={name: sure[shown] for name, (_, sure) in results.items()},
    )
    arrays = {
        "maps": maps[options.name],
        "files": np.array(list(reals.names)),
        "predictions": predicted,
        "confidences": confidences,
        "targets": targets,
        "class_names": np.array(class_names, str),
        "method": np.array(options.method),
        "layer": np.array(layer or ""),
    } | ({} if labels is None else {"labels": labels})
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    files = {
        "gradcam.html": _page(options.name, facts, drawn).encode("utf-8"),
        "gradcam.png": drawn["light"],
        "maps.npz": archive.getvalue(),
    }
    write_together(options.out, files)
    for key, value in facts.items():
        print(f"{key}: {value}")
    print(options.out / "gradcam.html")


def load_classifier(path):
    """Returns the Keras model in a `.keras` file, without its optimizer. Code in the file is not run.

    Raises:
        ValueError: If it cannot be loaded.
    """
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever a damaged or foreign file leads Keras into
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"The classifier {path} cannot be loaded: {text}") from error


def _agreed_classes(reals, class_names, num_classes):
    """Returns `(true classes int [n] or None, class names)`, both in the classifier's numbering."""
    if class_names and len(class_names) != num_classes:
        raise ValueError(
            f"The classifier gives {num_classes} logits, and its model.json names {len(class_names)} classes. Export it "
            "again."
        )
    if not reals.class_names:
        return None, class_names
    if not class_names:  # a bare .keras file: folders are numbered in the order of their names, as in training
        if len(reals.class_names) != num_classes:
            print(
                f"The images have {len(reals.class_names)} classes and the classifier {num_classes}, whose names nothing "
                "tells: the folders are not taken for classes.",
                file=sys.stderr,
            )
            return None, ()
        return reals.labels, tuple(reals.class_names)
    strange = [name for name in reals.class_names if name not in class_names]
    if strange:
        raise ValueError(
            f"The classifier has no class {', '.join(map(repr, strange[:5]))}. Its classes: {', '.join(class_names)}. "
            "Name the folders of --images so, or put the images into one flat folder to do without labels."
        )
    return np.array([class_names.index(name) for name in reals.class_names])[reals.labels], class_names


def _targets(target, predicted, labels, class_names):
    if target == "predicted":
        return predicted
    if target == "true":
        if labels is None:
            raise ValueError("--target true needs labels: one folder a class in --images.")
        return labels
    if target not in class_names:
        known = f" Classes: {', '.join(class_names)}." if class_names else " The classifier's classes have no names."
        raise ValueError(f"--target must be predicted, true or a class. Received: {target!r}.{known}")
    return np.full(len(predicted), class_names.index(target))


def _page(name, facts, drawn):
    rows = "".join(f"<tr><th scope=row>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
    title = f"Where {name} looks"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>{page.STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        "<p>Warm colours mark the pixels that speak most for the explained class. A map shows what the score depends on, "
        "not why.</p>"
        f"{page.chart_card(drawn, 'Images, and the maps over them')}<h2>What was done</h2>"
        f'<div class="card scroll" tabindex=0><table class=facts><tbody>{rows}</tbody></table></div></main></body></html>\n'
    )


if __name__ == "__main__":
    sys.exit(main())
