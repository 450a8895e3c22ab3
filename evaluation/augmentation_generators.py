"""The generators of an augmentation study: trained on the train side of the split, or shown to have been, and their images.

`training.fit` trains them, with the options that a user would give it, so that a study that was stopped goes on with the
run. A generator that saw validation or test images would carry them into the training of the classifiers: every export
is compared with the train side by the fingerprint that `training.fit` wrote into its `model.json`.
"""

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np

from serving.saved_model import locate
from training import config, data
from training.pictures import save_atomically

NAME = "generator"
CLASSES_APART = 1_000_000  # seeds, from one class to the next; a thousand times that from one study seed to the next
ROUNDED_TO = 64  # images are drawn by so many, so that a larger ratio adds to those of a smaller one
CALIBRATION_STEPS = 10
# Options of training.fit that are not the user's here: the study gives them, or they would let other images in.
RESERVED = ("arch", "data", "test_data", "classes", "label_depth", "size", "channels", "fit", "steps", "seed", "name",
            "run_dir", "export_dir", "export_every", "conditional", "per_class", "init_from", "recipe", "list",
            "recipe_help", "dry_run")  # fmt: skip


class Stopped(Exception):
    """The training of a generator was stopped by a signal, and its state was saved; `status` is the exit status."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the generators of a study are trained.

    Args:
        arch: As for `training.fit`.
        steps: Generator updates of each model; `None` for those of the architecture's own recipe.
        per_class: One model a class; else one conditional model.
        words: Further options of `training.fit`, as words of its command line.
        seed: int.
    """

    arch: str
    steps: int | None
    per_class: bool
    words: tuple[str, ...]
    seed: int

    def command(self, image_shape, train_folder, directory):
        """Returns the words of `python -m training.fit`.

        Args:
            image_shape: `(side, side, channels)`, each `None` for what training.fit takes by default.
            train_folder: `--data`.
            directory: Where the run and the exports are to lie.
        """
        words = ["--arch", self.arch, "--data", str(train_folder), "--per-class" if self.per_class else "--conditional"]
        side, _, channels = image_shape
        words += [] if side is None else ["--size", str(side)]
        words += [] if channels is None else ["--channels", str(channels)]
        if self.steps is not None:
            words += ["--steps", str(self.steps)]
        words += ["--seed", str(self.seed), "--name", NAME, *self.words]
        return [
            *words,
            "--run-dir",
            str(Path(directory) / "run"),
            "--export-dir",
            str(Path(directory) / "saved_models"),
        ]

    def key(self, image_shape, fingerprint):
        """Returns a short hex digest of what decides the run, but for its length, which may grow."""
        identity = [self.arch, self.per_class, self.words, self.seed, image_shape, fingerprint]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

    def names(self, class_names):
        """Returns the names of the exports, of the run's subdirectories, and of their classes (`None`: all of them)."""
        if not self.per_class:
            return [(NAME, "", None)]
        return [(f"{NAME}-{config.slug(name)}", config.slug(name), name) for name in class_names]


def resolve(recipe, image_shape, source="emoji"):
    """Returns the `training.config.FitConfig` of a recipe. Nothing heavy is imported.

    Args:
        recipe: `Recipe`.
        image_shape: `(side, side, channels)`, each `None` for what training.fit takes by default.
        source: `--data`.

    Raises:
        ValueError: If an option is wrong, or is one that the study decides.
    """
    parser = config.build_parser()
    given = vars(parser.parse_args(list(recipe.words)))
    taken = [name for name in RESERVED if given[name]]
    if taken:
        raise ValueError(
            f"--{taken[0].replace('_', '-')} cannot be given for the generators: the study decides it, so that they see "
            "the train side of its split and nothing else. Leave it out."
        )
    return config.resolve(parser.parse_args(recipe.command(image_shape, source, ".")))


def train(recipe, images, folder, directory):
    """Trains the generators, going on where an earlier call stopped; what is done is passed over.

    Args:
        recipe: `Recipe`, its `steps` a number.
        images: The train side as `ImageSet`, read from `folder`.
        folder: Holds the train side, a folder a class.
        directory: Where the run and the exports are to lie.

    Returns:
        The `serving.saved_model.Export` of each.

    Raises:
        Stopped: If a signal ended the training.
        ValueError: If it failed; why was written to standard error.
    """
    exports = _finished(recipe, images, directory)
    if exports is None:
        import keras

        from training import fit

        status = fit.main(recipe.command(images.images.shape[1:], folder, directory))
        keras.config.set_dtype_policy("float32")
        keras.backend.clear_session()
        if status in (130, 143):
            raise Stopped(status)
        exports = _finished(recipe, images, directory)
        if status or exports is None:
            raise ValueError(
                "The generators could not be trained: see the message of training.fit above. What is done is kept."
            )
    return exports


def _finished(recipe, images, directory):
    """Returns the exports if all of them are there, at the last step, else `None`."""
    exports = []
    for name, _, _ in recipe.names(images.class_names):
        root = Path(directory) / "saved_models" / name
        if not root.is_dir():
            return None
        exports.append(locate(root))
        if exports[-1].card.get("step") != recipe.steps:
            return None
    return exports


def check(exports, images, folder):
    """Makes sure that generators were trained on the train side and nothing else, and can make every class.

    Args:
        exports: `serving.saved_model.Export`s: one conditional model, or one model a class.
        images: The train side as `ImageSet`, read from `folder`.
        folder: Holds the train side.

    Returns:
        `[(export, label)]` for each class, in their order; the label is `None` for an unconditional model.

    Raises:
        ValueError: If one saw other images, makes other classes or other sizes, or a class has none or several.
    """
    sources = {}
    for export in exports:
        _check_shape(export, images)
        for source in _sources(export, images, folder):
            name = images.class_names[source[0]]
            if name in sources:
                raise ValueError(
                    f"{sources[name][0].title} and {export.title} both make {name!r}. Give one model for each class."
                )
            sources[name] = (export, source[1])
    missing = [name for name in images.class_names if name not in sources]
    if missing:
        raise ValueError(
            f"No model makes {', '.join(missing)}. Give one model for each class, or one conditional model (--models)."
        )
    return [sources[name] for name in images.class_names]


def _check_shape(export, images):
    shape = tuple(images.images.shape[1:])
    if export.image_shape is not None and export.image_shape != shape:
        height, width, channels = export.image_shape
        raise ValueError(
            f"{export.title} makes images of {width}x{height} pixels and {channels} channels, and the study has "
            f"{shape[1]}x{shape[0]} and {shape[2]}. Give --size {height} --channels {channels}, or another model."
        )


def _sources(export, images, folder):
    """Returns `[(place of the class in the study, label to ask the model for)]` of the classes that an export makes."""
    record = export.card.get("training") or {}
    known = export.class_names if export.takes_labels else tuple(record.get("class_names") or ())
    others = sorted(set(known) - set(images.class_names))
    lacking = sorted(set(images.class_names) - set(known)) if export.takes_labels else []
    if others or lacking:
        what = [f"it knows {', '.join(others)}, which the data lack"] if others else []
        what += [f"the data have {', '.join(lacking)}, which it lacks"] if lacking else []
        raise ValueError(
            f"The classes of {export.title} are not those of the data: {'; '.join(what)}. Rename the folders of the data, "
            "choose among them (--classes), or give a model of these classes."
        )
    own = record.get("data_fingerprint")
    if record.get("init_from"):
        raise ValueError(
            f"{export.title} was started from the weights of {record['init_from']}, which may have seen validation or test "
            f"images. {_way_out(folder)}"
        )
    options = {"size": images.images.shape[1:3], "channels": images.images.shape[3], "progress": False}
    options["fit"] = record.get("fit", "crop")
    if own is not None and own == data.load(folder, **options).fingerprint:
        if export.takes_labels:
            return [(place, export.class_names.index(name)) for place, name in enumerate(images.class_names)]
        raise ValueError(
            f"{export.title} was trained on all classes without their labels, and cannot be asked for one. Train it with "
            "--conditional, or one a class with --per-class."
        )
    for place, name in enumerate(images.class_names):
        if own is not None and not export.takes_labels and (not known or name in known):
            if own == data.load(folder, classes=(name,), **options).fingerprint:
                return [(place, None)]
    of = (
        f"{record.get('num_images', '?')} images of {record.get('data', 'an unknown source')}"
        if own
        else "nobody knows what"
    )
    raise ValueError(
        f"{export.title} was trained on {of}, not on the train side of this split ({len(images)} images): it may have seen "
        f"validation or test images, and would carry them into the training. {_way_out(folder)}"
    )


def _way_out(folder):
    return f"Train it on that side alone: python -m training.fit --data {folder} --conditional (or --per-class)."


def synthesize(sources, counts, truncation, seed, directory):
    """Draws the synthetic images, or reads those drawn before.

    Args:
        sources: `[(export, label)]` of each class, as `check` returns them.
        counts: How many of each class.
        truncation: 0 to 1.
        seed: int of the study.
        directory: Where they are kept.

    Returns:
        uint8 `[count, height, width, channels]` of each class, a list of read-only arrays.
    """
    drawn = [None] * len(sources)
    for export in dict.fromkeys(export.directory for export, _ in sources):
        places = [place for place, (other, _) in enumerate(sources) if other.directory == export]
        rounded = [-(-counts[place] // ROUNDED_TO) * ROUNDED_TO for place in places]
        images = _drawn([sources[place] for place in places], places, rounded, truncation, seed, Path(directory))
        for place, part in zip(places, np.split(images, np.cumsum(rounded)[:-1])):
            drawn[place] = part[: counts[place]]
    return drawn


def _drawn(sources, places, counts, truncation, seed, directory):
    """Returns the images of one export, its classes one after another."""
    export = sources[0][0]
    labels = [label for _, label in sources]
    identity = [export.sha256(), labels, places, counts, truncation, seed]
    path = directory / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        from serving.sample import draw

        first = seed * 1000 * CLASSES_APART
        seeds = [first + place * CLASSES_APART + np.arange(count) for place, count in zip(places, counts)]
        asked = None if labels[0] is None else np.repeat(labels, counts)
        images = draw(export.directory, np.concatenate(seeds), asked, truncation)
        save_atomically(path, lambda file: np.save(file, images))
    return np.load(path, mmap_mode="r", allow_pickle=False)


# How long it takes


def steps_left(recipe, class_names, directory):
    """Returns how many generator updates are still to be done, over all models."""
    left = 0
    for _, run, _ in recipe.names(class_names):
        rows = _log(Path(directory) / "run" / run / "metrics.csv")
        left += max(0, recipe.steps - (rows[-1][0] if rows else 0))
    return left


def measured_seconds(recipe, class_names, directory):
    """Returns the seconds a generator update took in the runs so far, or `None`."""
    paces = []
    for _, run, _ in recipe.names(class_names):
        rows = _log(Path(directory) / "run" / run / "metrics.csv")
        paces += [(after[1] - before[1]) / (after[0] - before[0]) for before, after in zip(rows, rows[1:])]
    return float(np.median(paces)) if paces else None


def calibrate(recipe, image_shape, source, classes=(), label_depth="first"):
    """Returns the seconds that a generator update takes, from a run of a few steps that leaves nothing behind."""
    import keras

    from training import fit

    with tempfile.TemporaryDirectory() as directory:
        short = dataclasses.replace(recipe, steps=CALIBRATION_STEPS, per_class=False)
        words = short.command(image_shape, source, directory)
        if recipe.per_class:
            words.remove("--conditional")
        words += [word for name in classes for word in ("--classes", name)]
        words += ["--label-depth", label_depth, "--log-every", str(CALIBRATION_STEPS // 2)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
            status = fit.main(words)
        keras.config.set_dtype_policy("float32")
        keras.backend.clear_session()
        if status in (130, 143):
            raise KeyboardInterrupt
        if status:
            raise ValueError(f"The generators cannot be trained: {errors.getvalue().strip()}")
        return measured_seconds(short, (), directory)


def _log(path):
    """Returns `[(step, time)]` of a run's `metrics.csv`, [] if there is none."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("time")]  # a killed run leaves half a row
    return sorted({int(row["step"]): float(row["time"]) for row in rows}.items())
