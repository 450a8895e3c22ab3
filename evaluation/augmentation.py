"""`python -m evaluation.augmentation`: does enlarging a labelled set with synthetic images help a classifier?

The experiment of the image-augmentation document without its confounds: every regime takes the same number of optimizer
steps, generators see the train side of the split alone, several seeds, paired intervals. Wrong options are answered before
TensorFlow is imported.
"""

import argparse
import dataclasses
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from evaluation import augmentation_generators as generators
from evaluation import augmentation_plan, classifiers
from evaluation.augmentation_regimes import CLASSICAL
from serving.saved_model import Export, import_tensorflow, locate
from training import data
from training.config import slug

DEFAULT_RATIOS = "0.2,0.5,1,1.25,2"
MOST_RATIO = 100
DEFAULT_TEST = 0.2  # share of each class
DEFAULT_STEPS, DEFAULT_BATCH_SIZE = 2000, 32

EPILOG = """examples:
  python -m evaluation.augmentation --data photos/ --arch sngan --generator-steps 9000 --ratios .5,1,2
  python -m evaluation.augmentation --data photos/ --test-data unseen/ --arch fastgan --per-class --dry-run
  python -m evaluation.augmentation --data photos/ --models saved_models/mine     a model trained on OUT/train
  python -m evaluation.augmentation --data photos/ --arch sngan --set base_filters=16 -- --batch-size 32 --augment translation

What follows -- is for training.fit, which trains the generators. The same command, given again, goes on where it was
stopped; one with more --ratios or --seeds adds to what is there."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line, checked."""

    data: str
    test_data: str | None
    classes: tuple[str, ...]
    label_depth: str
    fit: str
    image_shape: tuple[int, int, int]
    validation_share: float
    test_share: float
    recipe: Any  # augmentation_generators.Recipe, or None where there are models
    models: tuple[Export, ...]
    truncation: float
    samples: int | None
    ratios: tuple[float, ...]
    seeds: int
    classifier: str
    weights: str | None
    steps: int
    batch_size: int
    learning_rate: float
    classical: tuple[str, ...]
    seed: int
    out: Path
    title: str


def build_parser():
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.augmentation",
        description="Trains classifiers on real, augmented, mixed and synthetic images, and says what helped.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--data", metavar="DATA", required=True, help="labelled: emoji, a folder of class folders, a zip, or tfds:NAME"
    )
    images.add_argument("--test-data", metavar="DATA", help="to test on; default: a part of --data")
    images.add_argument(
        "--classes", metavar="NAME", action="append", help="keep the images with this label; repeatable"
    )
    images.add_argument("--label-depth", choices=("first", "last"), default="first", help="as for training.fit")
    images.add_argument(
        "--size", type=int, metavar="PIXELS", help="side; default that of the architecture or the models"
    )
    images.add_argument("--channels", type=int, choices=(1, 3, 4), help="1 gray, 3 colour (default), 4 with alpha")
    images.add_argument("--fit", choices=("crop", "squash", "pad"), default="crop", help="how an image becomes square")
    images.add_argument("--validation", type=float, metavar="SHARE", default=0.1, help="of each class; default 0.1")
    images.add_argument("--test", type=float, metavar="SHARE", help="of each class, without --test-data; default 0.2")

    made = parser.add_argument_group("synthetic images")
    made.add_argument("--arch", metavar="NAME", help="architecture of the generators (python -m training.fit --list)")
    made.add_argument(
        "--models", metavar="DIR", nargs="+", help="in place of --arch: exports, trained on OUT/train alone"
    )
    made.add_argument("--conditional", action="store_true", help="one model of all classes (the default)")
    made.add_argument("--per-class", action="store_true", help="a model for each class")
    made.add_argument("--generator-steps", type=int, metavar="N", help="of each model; default its recipe's")
    made.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="as for training.fit; repeatable"
    )
    made.add_argument(
        "--truncation", type=float, metavar="T", default=1.0, help="0 to 1, as for serving.sample; default 1"
    )
    made.add_argument(
        "--samples", type=int, metavar="N", help="images to draw of each class; default what --ratios need"
    )

    how = parser.add_argument_group("classifiers")
    how.add_argument("--ratios", metavar="LIST", default=DEFAULT_RATIOS,
                     help=f"synthetic images as multiples of the real ones; default {DEFAULT_RATIOS}")  # fmt: skip
    how.add_argument("--seeds", type=int, metavar="N", default=3, help="classifiers of each regime; default 3")
    how.add_argument("--classifier", choices=tuple(classifiers.CLASSIFIERS), default="cnn",
                     help="; ".join(f"{name}: {each.summary}" for name, each in classifiers.CLASSIFIERS.items()))  # fmt: skip
    how.add_argument(
        "--weights", metavar="FILE", help="start from these: a .keras file, or ImageNet's without top (.h5)"
    )
    how.add_argument("--steps", type=int, metavar="N", default=DEFAULT_STEPS, help="of every regime; default 2000")
    how.add_argument("--batch-size", type=int, metavar="N", default=DEFAULT_BATCH_SIZE, help="default 32")
    how.add_argument("--learning-rate", type=float, metavar="X", help="of Adam; default that of the classifier")
    how.add_argument("--classical", metavar="LIST", default=",".join(CLASSICAL),
                     help=f"classical augmentation; default {','.join(CLASSICAL)}")  # fmt: skip

    where = parser.add_argument_group("how, and where")
    where.add_argument(
        "--seed", type=int, metavar="N", default=0, help="of split, generators, samples, bootstrap; default 0"
    )
    where.add_argument("--out", metavar="DIR", help="default studies/NAME-OF-DATA-NAME-OF-GENERATOR")
    where.add_argument("--dry-run", action="store_true", help="print the plan and how long it will take, write nothing")
    return parser


def resolve(arguments, fit_words=()):
    """Turns parsed arguments, and the words after `--`, into `Options`.

    Raises:
        ValueError: If one is wrong; the message says what it must be, what was received and what to do.
    """
    ratios = _ratios(arguments.ratios)
    classical = tuple(filter(None, (name.strip() for name in arguments.classical.split(","))))
    wrong = [name for name in classical if name not in CLASSICAL]
    if wrong or not classical:
        raise ValueError(f"--classical takes some of {', '.join(CLASSICAL)}. Received: {arguments.classical!r}.")
    for option in ("seeds", "steps", "batch_size", "generator_steps", "samples"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} must be at least 1. Received: {value}.")
    if arguments.seed < 0:
        raise ValueError(f"--seed must be at least 0. Received: {arguments.seed}.")
    if not 0 <= arguments.truncation <= 1:
        raise ValueError(f"--truncation must be from 0 to 1. Received: {arguments.truncation:g}.")
    if arguments.learning_rate is not None and not 0 < arguments.learning_rate < 10:
        raise ValueError(f"--learning-rate must be above 0 and below 10. Received: {arguments.learning_rate:g}.")
    _check_shares(arguments)
    for each in filter(None, (arguments.data, arguments.test_data)):
        data.check_source(each)
    recipe, models, image_shape = _generators(arguments, fit_words)
    classifiers.check(arguments.classifier, image_shape, arguments.weights)
    source = slug(Path(arguments.data).name if Path(arguments.data).exists() else arguments.data)
    maker = slug(Path(arguments.arch.partition(":")[0]).stem if recipe else models[0].name)
    out = Path(arguments.out or Path("studies") / f"{source}-{maker}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a directory. There is a file at {str(out)!r}.")
    return Options(
        data=arguments.data,
        test_data=arguments.test_data,
        classes=tuple(arguments.classes or ()),
        label_depth=arguments.label_depth,
        fit=arguments.fit,
        image_shape=image_shape,
        validation_share=arguments.validation,
        test_share=DEFAULT_TEST if arguments.test is None else arguments.test,
        recipe=recipe,
        models=models,
        truncation=arguments.truncation,
        samples=arguments.samples,
        ratios=ratios,
        seeds=arguments.seeds,
        classifier=arguments.classifier,
        weights=arguments.weights,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate or classifiers.CLASSIFIERS[arguments.classifier].learning_rate,
        classical=tuple(name for name in CLASSICAL if name in classical),
        seed=arguments.seed,
        out=out,
        title=f"{arguments.data}, {maker}",
    )


def _ratios(text):
    try:
        ratios = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        ratios = []
    if not ratios or not all(0 < ratio <= MOST_RATIO for ratio in ratios):
        raise ValueError(
            f"--ratios must be numbers above 0, up to {MOST_RATIO}, with commas between, such as .5,1,2. Received: {text!r}."
        )
    return tuple(ratios)


def _check_shares(arguments):
    if arguments.test is not None and arguments.test_data is not None:
        raise ValueError("--test and --test-data exclude each other: test on a part of --data, or on other images.")
    test = DEFAULT_TEST if arguments.test is None else arguments.test
    shares = (arguments.validation,) if arguments.test_data else (arguments.validation, test)
    if min(shares) <= 0 or sum(shares) > 0.9:
        raise ValueError(
            f"--validation and --test must be shares above 0 that leave a tenth to train. Received: "
            f"{' and '.join(f'{share:g}' for share in shares)}."
        )


def _generators(arguments, fit_words):
    """Returns `(recipe or None, exports, image shape)`."""
    if arguments.conditional and arguments.per_class:
        raise ValueError("--conditional (one model of all classes) and --per-class (one each) exclude each other.")
    if bool(arguments.arch) == bool(arguments.models):
        raise ValueError(
            "Say where the synthetic images come from: either --arch NAME, to train generators, or --models DIR ..."
        )
    asked = (arguments.size, arguments.size, arguments.channels)
    if arguments.models:
        for option, given in (("--generator-steps", arguments.generator_steps), ("--set", arguments.set),
                              ("--conditional", arguments.conditional), ("--per-class", arguments.per_class),
                              ("what follows --", fit_words)):  # fmt: skip
            if given:
                raise ValueError(
                    f"{option} is for training generators, and --models gives trained ones. Leave one out."
                )
        models = tuple(locate(path) for path in arguments.models)
        own = models[0].image_shape or (None, None, 3)
        height, width, channels = (mine or theirs for mine, theirs in zip(asked, own))
        if height is None:
            raise ValueError(f"{models[0].title} does not say how large its images are. Give --size.")
        return None, models, (height, width, channels)
    words = [word for setting in arguments.set for word in ("--set", setting)] + list(fit_words)
    recipe = generators.Recipe(
        arguments.arch, arguments.generator_steps, arguments.per_class, tuple(words), arguments.seed
    )
    return recipe, (), generators.resolve(recipe, asked).image_shape


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (failed), 2 (wrong option), 130 or 143 (stopped)."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, fit_words = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = build_parser()
    arguments = parser.parse_args(own)
    try:
        options = resolve(arguments, fit_words)
    except ValueError as error:
        parser.exit(2, f"evaluation.augmentation: {error}\n")
    try:
        command = shlex.join(["python", "-m", "evaluation.augmentation", *words])
        run(options, command, dry_run=arguments.dry_run)
    except generators.Stopped as stopped:
        return stopped.status
    except KeyboardInterrupt:
        print(f"Stopped. What is in {options.out} is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except Exception as error:
        known = isinstance(error, (ValueError, ArithmeticError, OSError, MemoryError)) or _is_tensorflow_error(error)
        if os.environ.get("ZOO_TRACEBACK") or not known:
            raise
        print(f"evaluation.augmentation: {_explained(error, options)}", file=sys.stderr)
        return 1
    return 0


def _is_tensorflow_error(error):
    return any(kind.__name__ == "OpError" for kind in type(error).__mro__)


def _explained(error, options):
    if isinstance(error, (ValueError, ArithmeticError)):
        return str(error)
    what = str(error).partition("\n")[0] or type(error).__name__
    return f"{what}. What is in {options.out} is whole; make room, or give a smaller --batch-size, and the same command goes on."


def run(options, command="", dry_run=False):
    """Runs a study, from where it was stopped if it was.

    Args:
        options: `Options`.
        command: To be shown on the page.
        dry_run: Tell what would be done, and how long it would take, and write nothing.

    Raises:
        ValueError: If the data or the models cannot be used.
        OSError: If something cannot be written.
    """
    plan = augmentation_plan.make(options)
    print(augmentation_plan.text(plan), flush=True)
    import_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of each classifier that it traces anew
    from evaluation.augmentation_estimate import estimate
    from evaluation.augmentation_study import Study

    study = Study(plan)
    print(f"{'Time left':12} {estimate(study)}", flush=True)
    if dry_run:
        return
    with study.alone():
        study.make_synthetic()
        records = study.train_classifiers()
        for line in study.write(records, command):
            print(line)


if __name__ == "__main__":
    sys.exit(main())
