"""Exported models through their SavedModels alone: TensorFlow and NumPy are all that is needed.

TensorFlow is imported when a model is loaded, so that a wrong path is answered at once.
"""

import difflib
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MOST_IMAGES, MOST_PIXELS = 64, 2**20  # a batch, so that memory is bounded whatever the number and size of the images


@dataclass(frozen=True)
class Export:
    """Where an exported model lies, and what its `model.json` says.

    Args:
        name: of the model.
        version: its number; `None` where the directory is not numbered.
        directory: holds `saved_model.pb`.
        card: what `model.json` holds; {} if there is none.
    """

    name: str
    version: int | None
    directory: Path
    card: dict

    @property
    def title(self):
        return self.name if self.version is None else f"{self.name}/{self.version}"

    @property
    def class_names(self):
        """The names of the classes that a conditional model was told of; () of an unconditional one."""
        return tuple(self.card.get("class_names") or ()) if self.takes_labels else ()

    @property
    def takes_labels(self):
        """Whether `model.json` says that the model is conditional."""
        return "label" in (self.card.get("signatures") or {}).get("sample", {}).get("inputs", {})

    @property
    def image_shape(self):
        """`(height, width, channels)`, or `None` where `model.json` does not say."""
        shape = self.card.get("image_shape")
        return tuple(shape) if shape else None

    def sha256(self):
        """Returns the hex digest of the SavedModel: graph and weights."""
        digest = hashlib.sha256()
        for path in [self.directory / "saved_model.pb", *sorted((self.directory / "variables").glob("*"))]:
            digest.update(path.name.encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def locate(path):
    """Finds an exported model: `NAME`, whose newest version is taken, `NAME/VERSION`, or any SavedModel.

    Raises:
        ValueError: If none lies there, or its `model.json` cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"There is no exported model at {str(path)!r}.{_instead(path)}")
    path = path.resolve()
    if (path / "saved_model.pb").is_file():
        name, version = (path.parent.name, int(path.name)) if path.name.isdecimal() else (path.name, None)
        return Export(name, version, path, _read_card(path))
    versions = _versions(path)
    if not versions:
        raise ValueError(
            f"No SavedModel at {str(path)!r}: it holds neither saved_model.pb nor a numbered version that does. "
            "Export one with python -m training.fit."
        )
    newest = versions[max(versions)]
    return Export(path.name, max(versions), newest, _read_card(newest))


def _versions(root):
    return {int(each.name): each for each in root.iterdir() if each.name.isdecimal() and _is_savedmodel(each)}


def _is_savedmodel(directory):
    return (directory / "saved_model.pb").is_file()


def _instead(path):
    """Returns what a path that does not exist may have meant."""
    if not path.parent.is_dir():
        return ""
    versions = _versions(path.parent)
    if versions:
        return f" {path.parent.name!r} has the versions {', '.join(map(str, sorted(versions)))}."
    return nearest(path.name, [each.name for each in path.parent.iterdir()])


def nearest(received, known):
    """Returns " Did you mean ...?" with the nearest of the known names, or "" if none is near."""
    near = difflib.get_close_matches(received, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _read_card(directory):
    path = directory / "model.json"
    if not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        _check_card(card)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({first_line(error)}). Repair it, or export the model again."
        ) from error
    return card


def _check_card(card):
    """Raises ValueError unless what this package takes from a `model.json` is of the kind that it must be."""
    if not isinstance(card, dict):
        raise ValueError(f"an object is expected, not {type(card).__name__}")
    shape, class_names, signatures = (card.get(key) for key in ("image_shape", "class_names", "signatures"))
    if shape is not None and not (
        isinstance(shape, list) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)
    ):
        raise ValueError("image_shape must be three whole numbers above 0")
    if class_names is not None and not (
        isinstance(class_names, list) and all(isinstance(name, str) for name in class_names)
    ):
        raise ValueError("class_names must be a list of texts")
    described = [{}] if signatures is None else [signatures]
    if isinstance(signatures, dict):
        described += signatures.values()
        described += [each.get("inputs") for each in signatures.values() if isinstance(each, dict)]
    if not all(isinstance(each, dict) for each in described):
        raise ValueError("signatures must be objects that have inputs, which are objects")


class Generator:
    """A loaded SavedModel that draws images.

    Args:
        export: An `Export`.

    Raises:
        ValueError: If it cannot be loaded, has no usable signature `sample`, or makes NaN.
    """

    def __init__(self, export):
        self._tf = import_tensorflow()
        self.export = export
        try:
            self._loaded = self._tf.saved_model.load(str(export.directory))
            self._signatures = self._loaded.signatures  # a damaged graph may have none
        except Exception as error:  # whatever a damaged file leads TensorFlow into
            raise ValueError(
                f"The SavedModel at {export.directory} cannot be loaded: {first_line(error)}. Export it again."
            ) from error
        self._inputs = self._check_sample()
        self.image_shape = self.sample([0]).shape[1:]
        self._check_finite()

    def _check_sample(self):
        """Returns the names of the inputs of `sample`, which must be some that are known here."""
        signatures = self._signatures
        if "sample" not in signatures:
            raise ValueError(
                f"The SavedModel at {self.export.directory} has no signature `sample` (it has: "
                f"{', '.join(sorted(signatures)) or 'none'}). Images are drawn from generators that "
                "python -m training.fit exported."
            )
        inputs = set(signatures["sample"].structured_input_signature[1])
        if "seed" not in inputs or inputs - {"seed", "truncation", "label"}:
            raise ValueError(
                f"The signature `sample` of {self.export.directory} must take `seed`, and may take `truncation` and "
                f"`label`. It takes: {', '.join(sorted(inputs)) or 'nothing'}."
            )
        if ("label" in inputs) != bool(self.export.class_names):
            raise ValueError(
                f"The SavedModel at {self.export.directory} does not agree with its model.json on whether it takes "
                f"labels: it takes {', '.join(sorted(inputs))}, and the names of its classes are "
                f"{list(self.export.class_names)}. Export it again."
            )
        return inputs

    def _check_finite(self):
        """A model that has diverged gives NaN, which turns into black images once they are bytes."""
        if not self.can_interpolate:
            return
        images = self._call("serving_default", z=self.latents([0]), **self._labels(np.zeros(1, np.int64)))
        if not np.isfinite(images).all():
            raise ValueError(f"{self.export.title} makes NaN or infinite pixels: its training has diverged.")

    @property
    def can_interpolate(self):
        """Whether the model has the signatures that `latents` and `generate` call."""
        return {"latents", "serving_default"} <= set(self._signatures)

    @property
    def batch_size(self):
        """How many images are drawn at a time."""
        height, width, _ = self.image_shape
        return min(MOST_IMAGES, max(1, MOST_PIXELS // (height * width)))

    def sample(self, seeds, labels=None, truncation=1.0):
        """Draws one batch of images.

        Args:
            seeds: int64 `[n]`.
            labels: int64 `[n]`, places in the model's class names; if `None`, of a conditional model, seed s has the
                label s modulo the number of classes.
            truncation: 0 to 1, a factor on each latent.

        Returns:
            uint8 `[n, height, width, channels]`.

        Raises:
            ValueError: If the model cannot do that.
        """
        seeds = np.asarray(seeds, np.int64)
        given = {"seed": seeds, **self._labels(self.checked_labels(seeds, labels))}
        if "truncation" in self._inputs:
            given["truncation"] = np.full(len(seeds), truncation, np.float32)
        elif truncation != 1:
            raise ValueError(f"{self.export.title} knows no truncation. Leave it at 1. Received: {truncation}.")
        images = self._call("sample", **given)
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or len(images) != len(seeds)
            or images.shape[3] not in (1, 3, 4)
        ):
            raise ValueError(
                f"The signature `sample` of {self.export.directory} must give images as uint8 [n, height, width, "
                f"channels], 1, 3 or 4 channels. Received: {images.dtype} {list(images.shape)} for {len(seeds)} seeds."
            )
        return images

    def latents(self, seeds):
        """Returns one latent a seed, float32 `[n, d]`."""
        return self._call("latents", seed=np.asarray(seeds, np.int64))

    def generate(self, z, labels=None):
        """Turns latents float32 `[n, d]` (and labels int64 `[n]`) into images uint8 `[n, height, width, channels]`."""
        images = self._call("serving_default", z=np.asarray(z, np.float32), **self._labels(labels))
        return np.rint((images.astype(np.float32) + 1) * 127.5).clip(0, 255).astype(np.uint8)

    def checked_labels(self, seeds, labels):
        """Returns the labels of some seeds as `sample` takes them, or `None`; see there."""
        count = len(self.export.class_names)
        if not count:
            if labels is not None:
                raise ValueError(f"{self.export.title} is unconditional: it takes no labels. Leave them out.")
            return None
        if labels is None:
            return seeds % count
        labels = np.asarray(labels, np.int64)
        if labels.shape != seeds.shape or (len(labels) and not 0 <= labels.min() <= labels.max() < count):
            raise ValueError(
                f"labels must be one whole number from 0 to {count - 1} for each of the {len(seeds)} seeds. Received: "
                f"{len(labels)} labels from {labels.min(initial=0)} to {labels.max(initial=0)}."
            )
        return labels

    def _labels(self, labels):
        return {} if labels is None or "label" not in self._inputs else {"label": labels}

    def _call(self, signature, **arrays):
        function = self._signatures[signature]
        try:
            specs = function.structured_input_signature[1]
            outputs = function(**{name: self._tf.constant(array, specs[name].dtype) for name, array in arrays.items()})
        except self._tf.errors.ResourceExhaustedError as error:
            raise MemoryError(f"Memory ran out while {self.export.title} made images: {first_line(error)}") from error
        except (KeyError, TypeError, ValueError, self._tf.errors.OpError) as error:
            raise ValueError(
                f"The signature `{signature}` of {self.export.directory} cannot be used with "
                f"{', '.join(arrays)}: {first_line(error)}"
            ) from error
        return next(iter(outputs.values())).numpy()


def import_tensorflow():
    """Returns the module, imported without the lines that it writes before its log level is read."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            import tensorflow as tf

            tf.config.list_physical_devices()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    return tf


def first_line(error):
    """Returns the first line of an error's message, or its kind if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
