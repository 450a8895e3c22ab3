"""`python -m evaluation.report`: judges an exported model, or a folder of generated images, on one page.

It knows a model by its SavedModel alone. Wrong options are answered before TensorFlow is imported.
"""

import argparse
import dataclasses
import difflib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
import time
from pathlib import Path

from evaluation import features, page
from training import data

NETWORKS = tuple(name for name in features.NETWORKS if not name.startswith("lpips"))  # those are for neighbours, always
FITS = ("crop", "squash", "pad")
DEFAULT_COUNT = 2000

EPILOG = """examples:
  python -m evaluation.report --model saved_models/emoji-faces --data emoji --classes "Smileys & Emotion"
  python -m evaluation.report --model saved_models/mine --data photos/ --test-data photos_unseen/ --all-versions
  python -m evaluation.report --images other_tool/out --data photos/     images of any origin, all of one size
  python -m evaluation.report --real-vs-real --data photos/ --size 64    what a perfect model would score"""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line, checked."""

    kind: str  # "model", "images" or "real-vs-real"
    name: str
    directories: dict  # version: directory of the SavedModel
    version: int | None
    images: str | None
    size: int | tuple | None
    data: str
    test_data: str | None
    classes: tuple
    label_depth: str
    fit: str
    run_dir: Path | None
    count: int
    count_given: bool
    features: str
    weights: str | None
    resize: str
    seed: int
    out: Path

    @property
    def real_vs_real(self):
        return self.kind == "real-vs-real"


def build_parser():
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.report",
        description="Judges generated images against real ones: can they be told apart, are they copies, do they cover the variety?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what is judged: one of these")
    what.add_argument(
        "--model", metavar="DIR", help="SavedModel: saved_models/NAME (its newest version) or NAME/VERSION"
    )
    what.add_argument(
        "--images", metavar="DIR", help="a folder of generated images, all of one size, whoever made them"
    )
    what.add_argument("--real-vs-real", action="store_true", help="real images against real ones: the floor alone")
    what.add_argument(
        "--all-versions", action="store_true", help="also the other exported versions of the model, as curves"
    )

    against = parser.add_argument_group("real images")
    against.add_argument(
        "--data", metavar="DATA", help="what the model was trained on: emoji, a folder, a zip, or tfds:NAME"
    )
    against.add_argument(
        "--test-data",
        metavar="DATA",
        help="real images that the training did not see; default: those of the export, if any",
    )
    against.add_argument(
        "--classes", metavar="NAME", action="append", help="keep the real images with this label; repeatable"
    )
    against.add_argument("--label-depth", choices=("first", "last"), default="first", help="as for training.fit")
    against.add_argument(
        "--fit",
        choices=FITS,
        default="crop",
        help="how a real image becomes as wide and high as the generated ones; default crop",
    )
    against.add_argument(
        "--size", type=int, metavar="PIXELS", help="side of the images, for --real-vs-real without a model; default 64"
    )

    how = parser.add_argument_group("how")
    how.add_argument(
        "--count",
        type=int,
        metavar="N",
        help=f"at most so many images of each kind; default {DEFAULT_COUNT:,}, or as many as there are",
    )
    how.add_argument(
        "--features",
        metavar="NAME",
        default=NETWORKS[0],
        help=f"feature network: {', '.join(NETWORKS)}; default {NETWORKS[0]}",
    )
    how.add_argument("--weights", metavar="FILE", help="weights of the feature network, PATH or PATH@sha256:HEX")
    how.add_argument(
        "--resize",
        choices=features.RESIZES,
        default="clean",
        help="how images are brought to the network's size; default clean",
    )
    how.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which images are drawn, and the bootstrap; default 0"
    )

    where = parser.add_argument_group("where")
    where.add_argument("--run-dir", metavar="DIR", help="run directory of training.fit, for the curves of its losses")
    where.add_argument("--out", metavar="DIR", help="for report.html and report.json; default reports/NAME-VERSION")
    return parser


def resolve(arguments):
    """Turns parsed arguments into `Options`.

    Raises:
        ValueError: If one is wrong; the message says what it must be, what was received and what to do.
    """
    from evaluation import subject

    if arguments.model and arguments.images:
        raise ValueError("--model and --images exclude each other: judge one thing at a time.")
    if not (arguments.model or arguments.images or arguments.real_vs_real):
        raise ValueError(
            "Say what to judge: --model saved_models/NAME, or --images DIR, or --real-vs-real. See --help."
        )
    if not arguments.data:
        raise ValueError("--data is needed: the real images to compare with, which are those the model was trained on.")
    if arguments.all_versions and not arguments.model:
        raise ValueError("--all-versions goes with --model.")
    if arguments.size is not None and not (arguments.real_vs_real and not arguments.model and not arguments.images):
        raise ValueError("--size goes with --real-vs-real; a model and its images have a size of their own.")
    if arguments.features not in NETWORKS:
        near = difflib.get_close_matches(arguments.features, NETWORKS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"--features: unknown network {arguments.features!r}.{hint} Known: {', '.join(NETWORKS)}.")
    for option, value, least in (
        ("--count", arguments.count, 2),
        ("--seed", arguments.seed, 0),
        ("--size", arguments.size, 8),
    ):
        if value is not None and value < least:
            raise ValueError(f"{option} must be at least {least}. Received: {value}.")
    if arguments.weights and not Path(arguments.weights.partition("@sha256:")[0]).is_file():
        raise ValueError(f"--weights must be a file. There is none at {arguments.weights!r}.")
    if arguments.run_dir and not (Path(arguments.run_dir) / "metrics.csv").is_file():
        raise ValueError(
            f"--run-dir must be a run directory of training.fit. There is no metrics.csv in {arguments.run_dir!r}."
        )

    directories, version, size = {}, None, arguments.size
    if arguments.model:
        name, directories, version = subject.find_versions(arguments.model)
        if not arguments.all_versions:
            directories = {version: directories[version]}
    elif arguments.images:
        name, size = Path(arguments.images).resolve().name, subject.folder_shape(arguments.images)
    if arguments.real_vs_real:
        name = "real-vs-real-" + re.sub(r"[^A-Za-z0-9._-]+", "-", Path(arguments.data).name or "data").strip("-.")
    for each in filter(None, (arguments.data, arguments.test_data)):
        data.check_source(each)
    out = Path(
        arguments.out or Path("reports") / (name if version is None or arguments.real_vs_real else f"{name}-{version}")
    )
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a directory. There is a file at {str(out)!r}.")
    return Options(
        kind="real-vs-real" if arguments.real_vs_real else "model" if arguments.model else "images",
        name=name,
        directories=directories,
        version=version,
        images=arguments.images,
        size=size or 64,
        data=arguments.data,
        test_data=arguments.test_data,
        classes=tuple(arguments.classes or ()),
        label_depth=arguments.label_depth,
        fit=arguments.fit,
        run_dir=Path(arguments.run_dir) if arguments.run_dir else None,
        count=arguments.count or DEFAULT_COUNT,
        count_given=arguments.count is not None,
        features=arguments.features,
        weights=arguments.weights,
        resize=arguments.resize,
        seed=arguments.seed,
        out=out,
    )


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (failed), 2 (wrong option) or 130 (stopped)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        options = resolve(arguments)
    except ValueError as error:
        parser.exit(2, f"evaluation.report: {error}\n")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        from evaluation.judging import judge_all

        report, media = judge_all(options)
        report["command"] = shlex.join(["python", "-m", "evaluation.report", *(sys.argv[1:] if argv is None else argv)])
        write(report, media, options.out)
    except KeyboardInterrupt:
        print("Stopped; nothing was written.", file=sys.stderr)
        return 130
    except Exception as error:
        known = isinstance(error, (ValueError, ArithmeticError, OSError)) or type(error).__module__.startswith(
            "tensorflow"
        )
        if os.environ.get("ZOO_TRACEBACK") or not known:
            raise
        print(f"evaluation.report: {error}", file=sys.stderr)
        return 1
    summary = ""
    if "verdict" in report:
        for answer in report["verdict"].values():
            print(answer["sentence"])
        summary = ": " + "; ".join(f"{question}: {answer['answer']}" for question, answer in report["verdict"].items())
    print(f"{options.out / 'report.html'}{summary}")
    return 0


def write(report, media, directory):
    """Writes `report.html` and `report.json` into a directory: both, or neither."""
    report = report | {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions_of_packages": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy", "pillow")},
    }
    report["facts"] = report["facts"] | {
        "Command": report.get("command", ""),
        "Made": f"{report['created']}, with "
        + ", ".join(f"{name} {version}" for name, version in report["versions_of_packages"].items()),
    }
    write_together(
        directory,
        {
            "report.html": page.render(report, media).encode("utf-8"),
            "report.json": json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False).encode("utf-8"),
        },
    )


def write_together(directory, files):
    """Writes `{name: bytes}` beside their places first, and moves them there when all have been written."""
    directory = Path(directory)
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    temporaries = {name: directory / f".{name}.{os.getpid()}.tmp" for name in files}
    done = False
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            temporaries[name].write_bytes(content)
        for name, temporary in temporaries.items():
            os.replace(temporary, directory / name)
        done = True
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        for made in missing if not done else ():
            if made.is_dir() and not any(made.iterdir()):
                made.rmdir()


if __name__ == "__main__":
    sys.exit(main())
