"""What an augmentation study is going to do, from its options and its data. Nothing here imports TensorFlow."""

import dataclasses
import shlex
from typing import Any

import numpy as np

from evaluation import augmentation_generators as generators
from evaluation import augmentation_split as splitting
from evaluation.augmentation_regimes import Regime, needed, regimes
from training import data


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study before it starts.

    Args:
        options: `augmentation.Options`.
        split: `augmentation_split.Split`.
        regimes: The baseline first.
        synthetic_counts: Synthetic images to draw of each class.
        recipe: `augmentation_generators.Recipe` with a number of steps, or `None` where models were given.
    """

    options: Any
    split: splitting.Split
    regimes: list[Regime]
    synthetic_counts: list[int]
    recipe: generators.Recipe | None

    @property
    def jobs(self):
        """`[(regime, seed)]`, all regimes of one seed before the next seed."""
        return [(regime, seed) for seed in range(self.options.seeds) for regime in self.regimes]

    @property
    def num_classes(self):
        return len(self.split.class_names)


def make(options):
    """Reads and splits the data.

    Raises:
        ValueError: If they are not labelled, a class has too few images, or `--samples` are too few for a ratio.
    """
    arguments = {
        "size": options.image_shape[:2],
        "channels": options.image_shape[2],
        "fit": options.fit,
        "classes": options.classes,
        "label_depth": options.label_depth,
    }
    images = data.load(options.data, **arguments)
    test = None if options.test_data is None else data.load(options.test_data, **arguments)
    split = splitting.make(images, test, options.validation_share, options.test_share, options.seed)
    real = split.counts()["train"]
    counts = needed(max(options.ratios), real)
    if options.samples is not None:
        _check_samples(options, split.class_names, real, counts)
        counts = [options.samples] * len(counts)
    recipe = options.recipe
    if recipe is not None and recipe.steps is None:
        settings = generators.resolve(recipe, options.image_shape)
        architecture = dataclasses.replace(settings.recipe, batch_size=settings.batch_size)
        seen = len(split.train) // (len(real) if recipe.per_class else 1)
        recipe = dataclasses.replace(recipe, steps=architecture.generator_updates(seen))
    return Plan(options, split, regimes(options.ratios), counts, recipe)


def _check_samples(options, class_names, real, counts):
    most = int(np.argmax(counts))
    if options.samples < counts[most]:
        raise ValueError(
            f"--ratios {max(options.ratios):g} needs {counts[most]} synthetic images of {class_names[most]!r}, "
            f"{max(options.ratios):g} times its {real[most]} real ones, and --samples gives {options.samples} of each class. "
            f"Give --samples {counts[most]}, or ratios up to {int(100 * options.samples / real[most]) / 100:g}."
        )


def text(plan):
    """Returns the plan in lines for a terminal, without what only a measurement can tell."""
    options, split = plan.options, plan.split
    height, width, channels = split.image_shape
    sides = ", ".join(f"{side} {sum(counts):,} ({_spread(counts)} a class)" for side, counts in split.counts().items())
    total = len(plan.jobs)
    lines = [
        ("Images", f"{width}x{height}, {channels} channels, {plan.num_classes} classes"),
        ("Split", sides),
        ("Duplicates", duplicates_text(split.found)),
    ]
    if plan.recipe is None:
        lines.append(("Generators", ", ".join(export.title for export in options.models) + " (given)"))
    else:
        kind = f"{plan.num_classes} models, one a class" if plan.recipe.per_class else "one conditional model"
        more = f" {shlex.join(plan.recipe.words)}" if plan.recipe.words else ""
        lines.append(("Generators", f"{kind} {plan.recipe.arch}, {plan.recipe.steps:,} steps{more}"))
    lines += [
        ("Synthetic", f"{sum(plan.synthetic_counts):,} images ({_spread(plan.synthetic_counts)} a class)"),
        ("Classifiers", f"{total}: {len(plan.regimes)} regimes x {options.seeds} seeds of {options.classifier}, "
                        f"{options.steps:,} steps x {options.batch_size} images each"),
        *(("", f"  {regime.label}: {_size(regime, split)}") for regime in plan.regimes),
    ]  # fmt: skip
    return "\n".join(f"{name:12} {value}" for name, value in lines)


def duplicates_text(found):
    """Returns what `Split.found` says, as one line."""
    parts = [
        f"{found['duplicates']} images in {found['groups']} groups of equal ones, each group kept on one side"
        if found["groups"]
        else "none within the data"
    ]
    if found["two_labels"]:
        parts.append(f"{found['two_labels']} of the groups have several labels")
    if found["in_test"]:
        parts.append(f"{found['in_test']} images also in the test set, left out of the training")
    if found["duplicates_in_test"]:
        parts.append(f"{found['duplicates_in_test']} equal images within the test set")
    return "; ".join(parts)


def regime_counts(regime, split):
    """Returns `(real, synthetic)` images that a regime trains on."""
    real = split.counts()["train"]
    return sum(real) if regime.real else 0, sum(needed(regime.ratio, real))


def _size(regime, split):
    real, synthetic = regime_counts(regime, split)
    return " + ".join([f"{real:,} real"] * bool(real) + [f"{synthetic:,} synthetic"] * bool(synthetic))


def _spread(counts):
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
