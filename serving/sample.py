"""`python -m serving.sample`: images of an exported model as files, class by class, or the way from one to another.

It needs nothing but the SavedModel. Wrong options are answered before TensorFlow is imported.
"""

import argparse
import contextlib
import dataclasses
import errno
import os
import sys
from pathlib import Path

import numpy as np

from serving import interpolation, sample_folder, saved_model

SEED_LIMITS = np.iinfo(np.int64)
MOST_FRAMES = 1000

EPILOG = """examples:
  python -m serving.sample --model saved_models/emoji-faces --count 500 --out faces/
  python -m serving.sample --model saved_models/pets/3 --per-class --count 200 --out pets/ --format webp
  python -m serving.sample --model saved_models/pets --label cat --count 50 --truncation 0.7 --out cats/
  python -m serving.sample --model saved_models/emoji-faces --interpolate 3 8 --frames 48 --out between/

The same command, given again, goes on where it was stopped, and so does one with a larger --count."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line, checked."""

    export: saved_model.Export
    out: Path
    seeds: np.ndarray
    labels: np.ndarray | None
    truncation: float
    format: str
    frames: int | None  # of an interpolation between the two seeds; else None
    record: dict


def build_parser():
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.sample",
        description="Draws images of an exported model into a folder, with a manifest: file, model, version, seed, label.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", metavar="DIR", required=True, help="saved_models/NAME (its newest version) or NAME/VERSION"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="where to write; nothing there is overwritten")
    what = parser.add_argument_group("what is drawn")
    what.add_argument("--count", type=int, metavar="N", help="images in all, or of each class with --per-class")
    what.add_argument(
        "--seed", type=int, default=None, metavar="S", help="the images are those of the seeds S, S + 1 ...; default 0"
    )
    what.add_argument(
        "--label",
        metavar="L",
        help="only this class of a conditional model, its name or number; default: all of them in turn",
    )
    what.add_argument("--per-class", action="store_true", help="--count images of each class of a conditional model")
    what.add_argument(
        "--truncation",
        type=float,
        default=1.0,
        metavar="T",
        help="0 to 1, a factor on the latents: lower is more typical and less varied; default 1",
    )
    what.add_argument(
        "--format",
        choices=sample_folder.FORMATS,
        default=None,
        help="png (default), jpeg (quality 95), webp (lossless), or npz: files of up to "
        f"{sample_folder.MOST_IMAGES:,} images with their seeds and labels",
    )
    between = parser.add_argument_group("interpolation, in place of --count")
    between.add_argument(
        "--interpolate",
        nargs=2,
        type=int,
        metavar=("SEED_A", "SEED_B"),
        help="from the image of one seed to that of another, as a GIF and an animated WebP",
    )
    between.add_argument("--frames", type=int, metavar="K", help="how many images that takes; default 32")
    return parser


def resolve(arguments):
    """Turns parsed arguments into `Options`.

    Raises:
        ValueError: If one is wrong; the message says what it must be, what was received and what to do.
    """
    if (arguments.count is None) == (arguments.interpolate is None):
        raise ValueError("Say what to draw: either --count N or --interpolate SEED_A SEED_B. See --help.")
    if not 0 <= arguments.truncation <= 1:
        raise ValueError(f"--truncation must be from 0 to 1. Received: {arguments.truncation}.")
    export = saved_model.locate(arguments.model)
    out = Path(arguments.out)
    seeds, labels = (_interpolation if arguments.interpolate else _samples)(arguments, export)
    file_format = arguments.format or "png"
    _check_format(file_format, export.image_shape)
    record = {
        "model": export.name,
        "version": export.version,
        "seed": int(seeds[0]),
        "labels": _label_names(arguments, export),
        "truncation": arguments.truncation,
        "format": file_format,
        "count": len(seeds),
    }
    frames = None
    if arguments.interpolate:
        frames = 32 if arguments.frames is None else arguments.frames
        _check_interpolation(arguments, export, out, seeds, frames)
    elif arguments.frames is not None:
        raise ValueError("--frames goes with --interpolate.")
    elif out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a directory. There is a file at {str(out)!r}.")
    return Options(export, out, seeds, labels, arguments.truncation, file_format, frames, record)


def _samples(arguments, export):
    """Returns `(seeds, labels)` of a folder of samples."""
    if arguments.label is not None and arguments.per_class:
        raise ValueError("--label and --per-class exclude each other: one class, or all of them.")
    if arguments.count < 1:
        raise ValueError(f"--count must be at least 1. Received: {arguments.count}.")
    _check_labels(arguments, export)
    count = arguments.count * (len(export.class_names) if arguments.per_class else 1)
    first = arguments.seed or 0
    if not SEED_LIMITS.min <= first <= SEED_LIMITS.max - count:
        raise ValueError(f"--seed must leave room for {count:,} seeds in 64 bits. Received: {first}.")
    seeds = first + np.arange(count, dtype=np.int64)
    return seeds, _labels(seeds, arguments.label, export)


def _interpolation(arguments, export):
    """Returns `(seeds, labels)` of the two ends of an interpolation, whose class is that of the first."""
    for option, given in (
        ("--per-class", arguments.per_class),
        ("--seed", arguments.seed),
        ("--format", arguments.format),
    ):
        if given not in (None, False):
            raise ValueError(
                f"{option} does not go with --interpolate, which has two seeds, one class and two formats."
            )
    _check_labels(arguments, export)
    for seed in arguments.interpolate:
        if not SEED_LIMITS.min <= seed <= SEED_LIMITS.max:
            raise ValueError(f"--interpolate takes seeds of 64 bits. Received: {seed}.")
    seeds = np.array(arguments.interpolate, np.int64)
    labels = _labels(seeds, arguments.label, export)
    return seeds, None if labels is None else labels[[0, 0]]


def _check_labels(arguments, export):
    if (arguments.label is not None or arguments.per_class) and not export.class_names:
        option = "--per-class" if arguments.per_class else "--label"
        raise ValueError(
            f"{export.title} is unconditional: it has no classes. Leave out {option}, or give a model that was trained "
            "with --conditional."
        )


def _labels(seeds, label, export):
    """Returns the place of the class of each seed: the one that was asked for, or all in turn."""
    names = export.class_names
    if not names:
        return None
    if label is None:
        return seeds % len(names)
    if label in names:
        place = names.index(label)
    elif label.isdecimal() and int(label) < len(names):
        place = int(label)
    else:
        near = saved_model.nearest(label, names)
        raise ValueError(f"Unknown --label {label!r} of {export.title}.{near} Known: {', '.join(names)}.")
    return np.full(len(seeds), place)


def _label_names(arguments, export):
    """Returns the names of the classes that are asked for, or `None` where there are none."""
    if arguments.label is None:
        return list(export.class_names) or None
    return [export.class_names[place] for place in _labels(np.zeros(1, np.int64), arguments.label, export)]


def _check_format(file_format, image_shape):
    if file_format == "jpeg" and image_shape and image_shape[2] == 4:
        raise ValueError("JPEG has no transparency, and the images of this model have. Give --format png or webp.")


def _check_interpolation(arguments, export, out, seeds, frames):
    if not 2 <= frames <= MOST_FRAMES:
        raise ValueError(f"--frames must be from 2 to {MOST_FRAMES:,}. Received: {frames}.")
    for path in _animations(out, seeds):
        if path.exists():
            raise ValueError(f"{path} exists, and nothing is overwritten. Give another --out, or move it.")


def _animations(out, seeds):
    return [out / f"{seeds[0]}-to-{seeds[1]}.{suffix}" for suffix in ("gif", "webp")]


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (failed), 2 (wrong option) or 130 (stopped)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        options = resolve(arguments)
    except ValueError as error:
        parser.exit(2, f"serving.sample: {error}\n")
    try:
        (interpolate if options.frames else fill)(options)
    except KeyboardInterrupt:
        print(f"Stopped. What is in {options.out} is whole; the same command goes on from there.", file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        print(f"serving.sample: {_explained(error, options)}", file=sys.stderr)
        return 1
    return 0


def _explained(error, options):
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"{os.strerror(error.errno)} in {options.out}. What is there is whole, and manifest.csv lists it. Make room, "
            "then give the same command again: it goes on from there."
        )
    return str(error)


def draw(saved_model_dir, seeds, labels=None, truncation=1.0, progress=True):
    """Draws images from an exported model, some at a time.

    Args:
        saved_model_dir: `saved_models/NAME`, whose newest version is taken, or `NAME/VERSION`.
        seeds: int `[n]`; the same seed gives the same image.
        labels: int `[n]`, places in the class names of a conditional model; `None`: seed s has the label s modulo the
            number of classes. An unconditional model takes none.
        truncation: 0 to 1, a factor on each latent.
        progress: Show progress on standard error.

    Returns:
        uint8 `[n, height, width, channels]`.

    Raises:
        ValueError: If there is no such model, it is damaged, or cannot do that.
    """
    from tqdm import tqdm

    generator = saved_model.Generator(saved_model.locate(saved_model_dir))
    seeds = np.asarray(seeds, np.int64)
    labels = generator.checked_labels(seeds, labels)
    images = np.empty((len(seeds), *generator.image_shape), np.uint8)
    with tqdm(total=len(seeds), desc="Sampling", unit="image", disable=not progress) as bar:
        for part in _batches(len(seeds), generator.batch_size):
            images[part] = generator.sample(seeds[part], _part(labels, part), truncation)
            bar.update(part.stop - part.start)
    return images


def _batches(count, size, start=0):
    return [slice(first, min(first + size, count)) for first in range(start, count, size)]


def fill(options):
    """Writes the samples that are missing in the folder.

    Raises:
        ValueError: If the model cannot draw them, or the folder holds others.
        OSError: If they cannot be written.
    """
    export = options.export
    record = options.record | {"savedmodel_sha256": export.sha256()}
    sample_folder.check(options.out, record)
    generator = None if export.image_shape else saved_model.Generator(export)
    image_shape = export.image_shape or generator.image_shape
    _check_format(options.format, image_shape)
    samples = sample_folder.plan(options.seeds, options.labels, export.class_names, options.format, image_shape)
    before = sum(stop - start for _, start, stop in sample_folder.present(options.out, samples))
    if before < len(samples):
        generator = generator or saved_model.Generator(export)
    with sample_folder.SampleFolder(options.out, samples, export.name, export.version, record) as folder:
        if generator is not None:
            _fill(folder, samples, generator, options)
    rest = f" ({before:,} of them were there)" if before else ""
    print(f"{len(samples):,} images in {options.out}{rest}; {options.out / sample_folder.MANIFEST} lists them")


def _fill(folder, samples, generator, options):
    """Draws and writes what is missing."""
    from tqdm import tqdm

    present = set(sample_folder.present(options.out, samples))
    before = sum(stop - start for _, start, stop in present)
    with tqdm(total=len(samples), initial=before, desc="Sampling", unit="image") as bar:
        # A batch is the same whatever part of it is there already: the last bit of a pixel may hang on its company.
        for group in _groups(samples, generator.batch_size):
            missing = [each for each in group if each not in present]
            if not missing:
                continue
            first, last = group[0][1], group[-1][2]
            images = np.concatenate(
                [
                    generator.sample(samples.seeds[part], _part(samples.labels, part), options.truncation)
                    for part in _batches(last, generator.batch_size, first)
                ]
            )
            for name, start, stop in missing:
                content = sample_folder.encode(images[start - first : stop - first], samples, start, options.format)
                folder.write(name, start, stop, content)
                bar.update(stop - start)


def _part(labels, part):
    return None if labels is None else labels[part]


def _groups(samples, batch_size):
    """Yields the files whose images are drawn together: those of a batch, or one that holds many."""
    if any(stop - start > 1 for _, start, stop in samples.files):
        yield from ([each] for each in samples.files)
    else:
        yield from (samples.files[part] for part in _batches(len(samples.files), batch_size))


def interpolate(options):
    """Writes a GIF and an animated WebP of the way from one seed's image to the other's.

    Raises:
        ValueError: If the model cannot do that.
        OSError: If they cannot be written; then there is neither.
    """
    generator = saved_model.Generator(options.export)
    if not generator.can_interpolate:
        raise ValueError(
            f"{options.export.title} cannot interpolate: it lacks the signatures latents, serving_default."
        )
    first, second = generator.latents(options.seeds)
    latents = interpolation.slerp(first, second, np.linspace(0, 1, options.frames)) * options.truncation
    labels = None if options.labels is None else np.full(options.frames, options.labels[0])
    frames = np.concatenate(
        [
            generator.generate(latents[part], _part(labels, part))
            for part in _batches(options.frames, generator.batch_size)
        ]
    )
    paths = _animations(options.out, options.seeds)
    _write_together({path: interpolation.animation(frames, path.suffix[1:]) for path in paths})
    print(f"{options.frames} frames in {' and '.join(map(str, paths))}")


def _write_together(files):
    """Writes all of `{path: bytes}`, or none."""
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporaries[path].write_bytes(content)
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()


if __name__ == "__main__":
    sys.exit(main())
