"""The command line of `training.fit` as one checked, frozen configuration. Nothing here imports TensorFlow."""

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

from training import data, devices
from training.recipes import EXPERIMENTS
from zoo.recipe import Recipe, parse_augment
from zoo.registry import describe, names, parse_settings, unknown_name

PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")

EPILOG = """examples:
  python -m training.fit --recipe emoji-faces-small         faces of emoji in a few minutes, on any machine
  python -m training.fit --recipe photos-small --data photos/    your own folder of pictures, 20 minutes of a CPU core
  python -m training.fit --arch sngan --data photos/             the same, SN-GAN at its paper's width
  python -m training.fit --arch dcgan --data set.zip --size 64 --steps 5000
  python -m training.fit --arch sngan --set base_filters=16 --set loss=hinge --augment color,translation
  python -m training.fit --arch sngan --data photos/ --conditional      one folder a class, and the class can be asked for
  python -m training.fit --arch sngan --data 300_pictures/ --init-from runs/sngan-photos-32
  python -m training.fit --arch my_models/mine.py:Mine      an architecture of your own
  python -m training.fit --arch sngan --dry-run             what would be done, and nothing else

The same command, given again, goes on where the run stopped. What is not given comes from the recipe of the
architecture (--list). A step is one update of the generator."""


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """What one training run does, complete but for what only the data can tell.

    Args:
        arch: Architecture, a name or `file.py:Class`.
        image_shape: `(side, side, channels)`.
        hyperparameters: Arguments of the constructor, recipe defaults filled in.
        recipe: Training settings, with what the command line changed.
        steps: Generator updates, or `None` for the recipe's.
        data: Source of the training images; the fields after it are the options of `training.data.load`.
    """

    arch: str
    image_shape: tuple[int, int, int]
    hyperparameters: dict[str, Any]
    recipe: Recipe
    steps: int | None
    data: str
    test_data: str | None
    classes: tuple[str, ...]
    label_depth: str
    fit: str
    strict: bool
    transform: str
    conditional: bool
    per_class: bool
    init_from: str | None
    batch_size: int
    seed: int
    precision: str
    jit: bool | str  # or "auto"
    strategy: str
    sync_batch_norm: bool
    accumulate: int
    gradient_checkpointing: bool
    name: str
    run_dir: Path
    export_dir: Path
    export_every: int
    log_every: int
    sample_every: int
    checkpoint_every: int
    workers: int | None


def build_parser():
    """Returns the parser; defaults are `None` where a recipe decides."""
    parser = argparse.ArgumentParser(
        prog="python -m training.fit",
        description="Trains a generative model on a folder of images, shows what it makes, and exports it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    show = parser.add_argument_group("to look around")
    show.add_argument("--list", action="store_true", help="the architectures, their recipes and arguments")
    show.add_argument("--recipe-help", action="store_true", help="the named recipes, and what each reported")
    show.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")

    what = parser.add_argument_group("what to train")
    what.add_argument("--recipe", metavar="NAME", help="a named experiment (--recipe-help); other options win over it")
    what.add_argument("--arch", metavar="NAME", help="architecture (--list), or path/to/file.py:Class; default sngan")
    what.add_argument("--set", metavar="NAME=VALUE", action="append", dest="settings",
                      help="argument of the architecture, or learning-rate setting; repeatable (--list shows them)")  # fmt: skip
    what.add_argument("--conditional", action="store_true", default=None,
                      help="one model of all classes, told each image's label (its folder)")  # fmt: skip
    what.add_argument("--per-class", action=argparse.BooleanOptionalAction, default=None,
                      help="a model for each class in turn, exported as NAME-CLASS")  # fmt: skip
    what.add_argument("--init-from", metavar="RUN",
                      help="start from the weights of another run's directory: those that fit; the others are listed")  # fmt: skip
    what.add_argument("--augment", metavar="POLICY",
                      help="DiffAugment on what the discriminator sees: color,translation,cutout or none")  # fmt: skip

    images = parser.add_argument_group("images")
    images.add_argument("--data", metavar="DATA",
                        help="emoji (built in, the default), a folder, a zip, or tfds:NAME")  # fmt: skip
    images.add_argument("--test-data", metavar="DATA", help="held-out images, where there is a set of them")
    images.add_argument("--classes", metavar="NAME", action="append",
                        help="keep the images with this label; repeatable")  # fmt: skip
    images.add_argument("--label-depth", choices=("first", "last"),
                        help="an image's label: the first folder below DATA (default), or the folder that holds it")  # fmt: skip
    images.add_argument("--size", type=int, metavar="PIXELS", help="side of the square images")
    images.add_argument("--channels", type=int, choices=(1, 3, 4), help="1 gray, 3 colour (default), 4 with alpha")
    images.add_argument("--fit", choices=("crop", "squash", "pad"), help="how an image becomes square; default crop")
    images.add_argument("--transform", metavar="LIST",
                        help="random changes of the training images: flip,rotate=DEGREES,crop")  # fmt: skip
    images.add_argument("--strict", action="store_true", default=None, help="a bad image is an error, not skipped")
    images.add_argument("--workers", type=int, metavar="N", help="threads that decode images; default all cores")

    how = parser.add_argument_group("how long, and how")
    how.add_argument("--steps", type=int, metavar="N", help="generator updates in all (resuming counts from 0)")
    how.add_argument("--batch-size", type=int, metavar="N", help="images an update, over all devices")
    how.add_argument("--seed", type=int, metavar="N", help="every random draw follows from it; default 0")
    how.add_argument("--precision", choices=PRECISIONS,
                     help="auto: mixed_float16 on GPUs with tensor cores, float32 elsewhere")  # fmt: skip
    how.add_argument(
        "--jit", action=argparse.BooleanOptionalAction, default=None, help="compile with XLA; default on GPUs only"
    )
    how.add_argument("--strategy", choices=devices.STRATEGIES,
                     help="auto (default): the machines of TF_CONFIG or Slurm, else all GPUs (mirrored), else one device")  # fmt: skip
    how.add_argument("--sync-batch-norm", action="store_true", default=None,
                     help="batch norm over all devices' images, not over each device's own; without XLA")  # fmt: skip
    how.add_argument("--accumulate", type=int, metavar="K",
                     help="put an update's images through the networks in K parts, to save memory; default 1")  # fmt: skip
    how.add_argument("--gradient-checkpointing", action="store_true", default=None,
                     help="compute activations again for the gradient, to save memory; slower by about a third")  # fmt: skip

    where = parser.add_argument_group("where, and how often")
    where.add_argument("--name", help="name of the exported model; default ARCH-DATA-SIZE")
    where.add_argument("--run-dir", metavar="DIR", help="checkpoints, samples, metrics; default runs/NAME")
    where.add_argument("--export-dir", metavar="DIR", help="default saved_models")
    where.add_argument(
        "--export-every", type=int, metavar="N", help="also export every N steps; default only at the end"
    )
    where.add_argument("--log-every", type=int, metavar="N", help="steps between log lines; default 50")
    where.add_argument("--sample-every", type=int, metavar="N", help="steps between sample grids; default 250")
    where.add_argument("--checkpoint-every", type=int, metavar="N", help="steps between checkpoints; default 250")
    return parser


def resolve(arguments):
    """Turns parsed arguments into a `FitConfig`.

    Raises:
        ValueError: If an option is wrong; the message says what it must be, what was received and what to do.
    """
    options = {key: value for key, value in vars(arguments).items() if value is not None}
    if arguments.recipe is not None:
        if arguments.recipe not in EXPERIMENTS:
            raise ValueError(unknown_name("recipe", arguments.recipe, EXPERIMENTS))
        preset = dict(EXPERIMENTS[arguments.recipe].options)
        preset["settings"] = preset.get("settings", []) + options.pop("settings", [])
        if "data" in options:
            preset.pop("classes", None)  # names of the recipe's own data
        if "conditional" in options:
            preset.pop("per_class", None)
        options = preset | options
    card = describe(options.get("arch", "sngan"))
    hyperparameters, fields = parse_settings(card, options.get("settings", []))
    _refuse(hyperparameters, {"seed": "--seed", "augment": "--augment", "num_classes": "--conditional, not"})
    _check_labels(card, options)
    seed = options.get("seed", 0)
    if "seed" in card.parameters:
        hyperparameters["seed"] = seed
    if "augment" in options:
        parse_augment(options["augment"])
        if "augment" not in card.parameters:
            raise ValueError(f"--augment is for GANs: {card.name} takes none")
        hyperparameters["augment"] = options["augment"]
    size, channels = _size(card, options, hyperparameters), options.get("channels", 3)
    recipe, hyperparameters = card.select((size, size, channels), hyperparameters)
    recipe = dataclasses.replace(recipe, **fields)
    if options.get("init_from") is not None and not (Path(options["init_from"]) / "config.json").is_file():
        raise ValueError(
            f"--init-from takes the directory of a run (with config.json and checkpoints/). Received: "
            f"{options['init_from']!r}, which holds no config.json"
        )
    for option, least in {"steps": 1, "batch_size": 1, "workers": 1, "accumulate": 1, "export_every": 1, "log_every": 1,
                          "sample_every": 1, "checkpoint_every": 1}.items():  # fmt: skip
        if option in options and options[option] < least:
            raise ValueError(f"--{option.replace('_', '-')} must be at least {least}. Received: {options[option]}")
    source = options.get("data", "emoji")
    for each in filter(None, (source, options.get("test_data"))):
        data.check_source(each)
    data.parse_transform(options.get("transform", ""))
    strategy = options.get("strategy", "auto")
    devices.check(strategy)
    batch_size, accumulate = options.get("batch_size", recipe.batch_size), options.get("accumulate", 1)
    if batch_size % accumulate:
        raise ValueError(
            f"--accumulate must divide the batch size, {batch_size}, into equal parts. Received: {accumulate}"
        )
    name = options.get("name") or default_name(card.class_name.lower() if ":" in card.name else card.name, source, size)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            f"--name must be letters, digits, '.', '_' and '-', starting with a letter or digit. Received: {name!r}"
        )
    return FitConfig(
        arch=card.name,
        image_shape=(size, size, channels),
        hyperparameters=hyperparameters,
        recipe=recipe,
        steps=options.get("steps"),
        data=source,
        test_data=options.get("test_data"),
        classes=tuple(options.get("classes", ())),
        label_depth=options.get("label_depth", "first"),
        fit=options.get("fit", "crop"),
        strict=options.get("strict", False),
        transform=options.get("transform", ""),
        conditional=options.get("conditional", False),
        per_class=options.get("per_class", False),
        init_from=options.get("init_from"),
        batch_size=batch_size,
        seed=seed,
        precision=options.get("precision", "auto"),
        jit=options.get("jit", "auto"),
        strategy=strategy,
        sync_batch_norm=options.get("sync_batch_norm", False),
        accumulate=accumulate,
        gradient_checkpointing=options.get("gradient_checkpointing", False),
        name=name,
        run_dir=Path(options.get("run_dir") or Path("runs") / name),
        export_dir=Path(options.get("export_dir", "saved_models")),
        export_every=options.get("export_every", 0),
        log_every=options.get("log_every", 50),
        sample_every=options.get("sample_every", 250),
        checkpoint_every=options.get("checkpoint_every", 250),
        workers=options.get("workers"),
    )


def _check_labels(card, options):
    """Raises `ValueError` where `--conditional` or `--per-class` cannot be had."""
    if options.get("conditional") and options.get("per_class"):
        raise ValueError("--conditional (one model of all classes) and --per-class (one each) exclude each other")
    if options.get("conditional") and "num_classes" not in card.parameters:
        able = [name for name in names() if "num_classes" in describe(name).parameters]
        raise ValueError(
            f"--conditional is for {', '.join(able)}: {card.name} takes no labels. Use --per-class, or one of those."
        )


def _refuse(hyperparameters, options):
    for name, option in options.items():
        if name in hyperparameters:
            raise ValueError(f"`{name}` has an option of its own: {option} {hyperparameters[name]}")


def _size(card, options, hyperparameters):
    """Returns the side: as asked, or that of the recipe of the variant asked for."""
    if "size" in options:
        return options["size"]
    variant = hyperparameters.get("variant")
    if variant is not None and variant not in card.recipes:
        raise ValueError(unknown_name(f"variant of {card.name}", variant, card.recipes))
    return card.recipes[variant or next(iter(card.recipes))].size


def default_name(arch, source, size):
    """Returns a name such as `sngan-emoji-32` for the run of an architecture on a data source."""
    stem = source.removeprefix("tfds:") if source.startswith("tfds:") else Path(source).resolve().stem
    return slug(f"{arch}-{stem}-{size}")


def slug(text):
    """Returns a text as a part of a file's or a model's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


def list_text():
    """Returns what `--list` prints."""
    lines = []
    for name in names():
        card = describe(name)
        lines += [f"{name}: {card.summary}"]
        for variant, recipe in card.recipes.items():
            length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs} epochs"
            lines.append(
                f"    {variant:12} {recipe.size} px, batch {recipe.batch_size}, {length}, learning rates "
                f"{recipe.g_learning_rate:g} / {recipe.d_learning_rate:g}  [{recipe.source}]"
            )
        lines.append("    --set " + ", ".join(f"{key}={value.default}" for key, value in card.parameters.items()
                                              if key not in ("seed", "augment", "num_classes")))  # fmt: skip
        lines.append("")
    lines.append("For any of them: --set g_learning_rate, d_learning_rate, beta_1, beta_2, learning_rate_decay ...")
    return "\n".join(lines)


def recipes_text():
    """Returns what `--recipe-help` prints."""
    lines = []
    for name, experiment in EXPERIMENTS.items():
        lines += [name, f"    {experiment.summary}"]
        lines.append("    " + " ".join(command_options(experiment.options)))
        if experiment.reported:
            lines.append(f"    reported: {experiment.reported}")
        if experiment.choices:
            lines.append(f"    here: {experiment.choices}")
        lines.append(f"    on your own copy: {experiment.command(name)}")
        lines.append("")
    return (
        "\n".join(lines) + "Run one with: python -m training.fit --recipe NAME [--data YOUR_IMAGES] [any other option]"
    )


def command_options(options):
    """Returns options, by their Python names, as words of a command line."""
    import shlex

    words = []
    for key, value in options.items():
        option = "--set" if key == "settings" else f"--{key.replace('_', '-')}"
        if value is True:
            words.append(option)
            continue
        for item in value if isinstance(value, list) else [value]:
            words += [option, shlex.quote(str(item))]
    return words
