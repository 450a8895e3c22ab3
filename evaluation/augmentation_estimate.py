"""How long an augmentation study is going to take: from what its directory has measured, or from short trainings."""

import json
import sys

from evaluation import augmentation_generators as generators
from evaluation.augmentation_regimes import Regime, pool
from evaluation.augmentation_training import CALIBRATION_STEPS, calibrate
from training.callbacks import duration


def estimate(study):
    """Returns what is left to do in words, with its time; drawing images and the page are not counted.

    Args:
        study: `augmentation_study.Study`.
    """
    seconds = {"generators": _generator_seconds(study), "classifiers": _classifier_seconds(study)}
    parts = [
        f"{what} {'not measured, few steps' if each is None else duration(each)}" for what, each in seconds.items()
    ]
    return f"about {duration(sum(each or 0 for each in seconds.values()))} ({', '.join(parts)})"


def _generator_seconds(study):
    """Returns the seconds that are left, or `None` for a training too short to be measured."""
    plan, options = study.plan, study.plan.options
    if plan.recipe is None:
        return 0.0
    left = generators.steps_left(plan.recipe, plan.split.class_names, study.generator_dir)
    pace = generators.measured_seconds(plan.recipe, plan.split.class_names, study.generator_dir)
    if left and pace is None:
        if left <= 10 * generators.CALIBRATION_STEPS:
            return None
        _tell("Measuring how fast generators train")
        shape = plan.split.image_shape
        pace = generators.calibrate(plan.recipe, shape, options.data, options.classes, options.label_depth)
    return left * pace if left else 0.0


def _classifier_seconds(study):
    plan, settings = study.plan, study.settings
    took = _times(study)
    left = len(plan.jobs) - len(took)
    if left <= 0:
        return 0.0
    if took:
        return left * sum(took) / len(took)
    if settings.steps <= CALIBRATION_STEPS:
        return None
    _tell("Measuring how fast classifiers train")
    paces = {}
    for classical in (False, True):
        images = pool(Regime("calibration", "", classical=classical), plan.split.train, [[]] * plan.num_classes)
        paces[classical] = calibrate(settings, images, plan.split.validation, plan.num_classes, classical)
    return sum(paces[regime.classical].seconds(settings.steps) for regime, _ in plan.jobs)


def _times(study):
    """Returns the seconds of the classifiers that the directory holds, of these settings."""
    try:
        times = json.loads((study.out / "timings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    settings = study.settings
    return [
        each["seconds"]
        for key, each in times.items()
        if (each["steps"], each["classifier"]) == (settings.steps, settings.classifier)
        and (study.out / "classifiers" / f"{key}.json").exists()
    ]


def _tell(what):
    print(f"{what} ...", file=sys.stderr, flush=True)
