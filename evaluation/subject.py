"""What is judged: an exported model, through its SavedModel alone, or a folder of generated images.

Nothing here knows how a model was made: any SavedModel with a signature `sample` will do. TensorFlow is imported when
a model is loaded, so that a wrong path is answered at once.
"""

import difflib
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from training import data

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
SEEDS_APART = 1_000_000  # so that reports of two seeds share no image
BATCH_SIZE = 64
_CARD_KINDS = {"image_shape": list, "class_names": list, "training": dict, "step": int}  # of what is read from a card


def find_versions(path):
    """Returns `(name, {version: directory}, chosen version)` of an exported model.

    Args:
        path: `NAME`, whose newest version is chosen, or `NAME/VERSION`, or any directory that holds a SavedModel
            (then its only version is `None`).

    Raises:
        ValueError: If no SavedModel lies there.
    """
    path = Path(path)
    if not path.is_dir():
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.5)
        hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
        raise ValueError(f"--model must be the directory of an exported model. There is none at {str(path)!r}.{hint}")
    path = path.resolve()
    if (path / "saved_model.pb").is_file():
        if not path.name.isdigit():
            return path.name, {None: path}, None
        return path.parent.name, _versions_below(path.parent), int(path.name)
    found = _versions_below(path)
    if not found:
        raise ValueError(
            f"No SavedModel at {str(path)!r}: it holds neither saved_model.pb nor a numbered version that does. "
            "Export one with python -m training.fit, or judge a folder of images with --images DIR."
        )
    return path.name, found, max(found)


def _versions_below(root):
    found = {
        int(item.name): item for item in root.iterdir() if item.name.isdigit() and (item / "saved_model.pb").is_file()
    }
    return dict(sorted(found.items()))


class ExportedModel:
    """A SavedModel and what it can do.

    Args:
        directory: Holds `saved_model.pb`, and `model.json` and `assets.extra/reals.npz` where training.fit wrote it.

    Raises:
        ValueError: If it cannot be loaded, or cannot draw samples.
    """

    def __init__(self, directory):
        import tensorflow as tf

        self.directory = Path(directory)
        self.card = read_card(self.directory)
        try:
            self._loaded = tf.saved_model.load(str(directory))  # as long as its functions are in use
            signatures = self._loaded.signatures
        except Exception as error:  # whatever a damaged file leads TensorFlow into
            raise ValueError(f"The SavedModel at {directory} cannot be loaded: {_first_line(error)}") from error
        if "sample" not in signatures:
            raise ValueError(
                f"The SavedModel at {directory} has no signature `sample` (it has: {', '.join(signatures) or 'none'}). "
                "Export it with python -m training.fit, or write its images to a folder and give --images DIR."
            )
        self._signatures = signatures
        self._sample = signatures["sample"]
        self.step = self.card.get("step")
        self.image_shape = self._image_shape()

    def _image_shape(self):
        if "image_shape" in self.card:
            return tuple(self.card["image_shape"])
        shape = self._output(self._sample.structured_outputs).shape
        if shape.rank == 4 and None not in shape[1:]:
            return tuple(shape[1:])
        return self.sample(1, seed=0, progress=False).shape[1:]

    def _output(self, outputs):
        return outputs["images"] if "images" in outputs else next(iter(outputs.values()))

    def sample(self, count, seed, labels=None, progress=True):
        """Draws images as they would be saved.

        Args:
            count: How many.
            seed: Which: image i is that of the model's seed `seed * 1,000,000 + i`.
            labels: int `[count]` for a conditional model, or `None`.
            progress: Show progress on standard error.

        Returns:
            uint8 `[count, height, width, channels]`.
        """
        import tensorflow as tf

        arguments = self._sample.structured_input_signature[1]
        unknown = sorted(set(arguments) - {"seed", "truncation", "label"})
        if unknown:
            raise ValueError(
                f"The signature `sample` of {self.directory} wants {', '.join(unknown)}, which is not known here."
            )
        self._check_finite(seed)
        parts = []
        with tqdm(total=count, desc="Sampling", unit="image", disable=not progress) as bar:
            for start in range(0, count, BATCH_SIZE):
                stop = min(start + BATCH_SIZE, count)
                seeds = np.arange(start, stop, dtype=np.int64) + seed * SEEDS_APART
                given = {
                    "seed": seeds,
                    "truncation": np.ones(len(seeds)),
                    "label": np.zeros(len(seeds)) if labels is None else labels[start:stop],
                }
                inputs = {key: tf.constant(given[key], spec.dtype) for key, spec in arguments.items()}
                parts.append(as_saved(self._output(self._sample(**inputs)).numpy(), f"The model at {self.directory}"))
                bar.update(stop - start)
        return np.concatenate(parts)

    def _check_finite(self, seed):
        """A model that has diverged may give NaN, which turns into black images once they are bytes."""
        import tensorflow as tf

        if not {"latents", "serving_default"} <= set(self._signatures):
            return
        latents = self._signatures["latents"](seed=tf.constant([seed * SEEDS_APART], tf.int64))
        if list(self._signatures["serving_default"].structured_input_signature[1]) != list(latents):
            return
        images = self._output(self._signatures["serving_default"](**latents)).numpy()
        if not np.isfinite(images).all():
            raise ValueError(f"The model at {self.directory} makes NaN or infinite pixels: its training has diverged.")

    @property
    def can_reconstruct(self):
        return "reconstruct" in self._signatures

    def reconstruct(self, images):
        """Returns uint8 images `[n, height, width, channels]` as the model's autoencoder gives them back."""
        import tensorflow as tf

        return as_saved(
            self._output(self._signatures["reconstruct"](images=tf.constant(images))).numpy(), "reconstruct"
        )

    def held_out(self):
        """Returns the real images that training.fit put aside and exported with the model, or `None`."""
        path = self.directory / "assets.extra" / "reals.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as archive:
                images = archive["images"]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} cannot be read: {_first_line(error)}. Give --test-data.") from error
        return images if images.ndim == 4 and images.shape[1:] == self.image_shape and len(images) else None


def as_saved(images, origin):
    """Returns generated images as the bytes that would be saved: uint8 as they are, floats in [-1, 1] rounded.

    Raises:
        ValueError: If there is NaN, or they are neither.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{origin} must give images [n, height, width, channels]. Received: shape {images.shape}.")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{origin} must give uint8, or floats in [-1, 1]. Received: {images.dtype}.")
    if not np.isfinite(images).all():
        raise ValueError(f"{origin} gives NaN or infinite pixels: its training has diverged.")
    if np.abs(images).max() > 1.5:
        raise ValueError(f"{origin} must give floats in [-1, 1]. Received: {images.min():g} to {images.max():g}.")
    return data.to_uint8(images)


def folder_shape(folder):
    """Returns `(height, width)` of the images in a folder, reading no more than their headers.

    Raises:
        ValueError: If the folder is none, holds no image or images of several sizes.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"--images must be a folder of images. There is none at {str(folder)!r}.")
    sizes = {}
    for directory, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            try:
                with Image.open(Path(directory) / name) as image:
                    size = image.size
            except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
                continue  # `training.data.load` lists it as skipped
            sizes.setdefault(size, []).append(str((Path(directory) / name).relative_to(root)))
    if not sizes:
        raise ValueError(f"The folder {str(folder)!r} holds no image ({', '.join(SUFFIXES)}).")
    if len(sizes) > 1:
        (usual, many), *others = sorted(sizes.items(), key=lambda item: -len(item[1]))
        odd = [f"{name} ({size[0]}x{size[1]})" for size, names in others for name in names]
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise ValueError(
            f"The images in {str(folder)!r} are of different sizes: {len(many)} of {usual[0]}x{usual[1]}, for example "
            f"{many[0]}, but also {', '.join(odd[:3])}{more}. Judge images as your model makes them, all of one size."
        )
    (width, height), _ = next(iter(sizes.items()))
    return height, width


def read_card(directory):
    """Returns what the `model.json` of an export holds, {} where there is none.

    Raises:
        ValueError: If it cannot be read, or what is taken from it here is not of the kind that it must be.
    """
    path = Path(directory) / "model.json"
    if not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise ValueError(f"an object is expected, not {type(card).__name__}")
        for key, kind in _CARD_KINDS.items():
            if card.get(key) is None:
                card.pop(key, None)
            elif not isinstance(card[key], kind):
                raise ValueError(f"{key} must be of the kind {kind.__name__}, not {type(card[key]).__name__}")
        shape, class_names = card.get("image_shape", [1, 1, 1]), card.get("class_names", [])
        if len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
            raise ValueError("image_shape must be three whole numbers above 0")
        if not all(isinstance(name, str) for name in class_names):
            raise ValueError("class_names must be texts")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({_first_line(error)}). Repair it, or remove it.") from error
    return card


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]
