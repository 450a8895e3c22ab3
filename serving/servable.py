"""A version of a model that answers: its signatures, its card, and the images that it draws."""

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from serving.errors import invalid, not_found, shown
from serving.interpolation import slerp
from serving.saved_model import first_line
from serving.tensors import DEFAULT_SIGNATURE

logger = logging.getLogger("serving")
INT64 = np.iinfo(np.int64)
PATH_KEYS = ("data", "test_data", "run_dir", "init_from", "weights")
# An absolute path in a text: what comes before its last part.
ABSOLUTE = re.compile(r"(?:(?<=[\s\"'=(@])|^)(?:~|[A-Za-z]:)?[/\\](?:[^\s\"'/\\]+[/\\]+)*(?=[^\s\"'/\\])")


@dataclass(frozen=True)
class Signature:
    """A signature of a model: its inputs and outputs, each `{name: TensorInfo}`."""

    inputs: dict
    outputs: dict

    @property
    def batched(self):
        """Whether every input and output has an open leading dimension, so that rows can be computed together."""
        infos = [*self.inputs.values(), *self.outputs.values()]
        return all(info.shape and info.shape[0] is None for info in infos)


@dataclass(eq=False)
class Servable:
    """A version of a model. Only `run` depends on where it is computed: here, or by an upstream server.

    Args:
        name: Of the model.
        version: Its number.
        card: What its `model.json` holds; {} where there is none.
        signatures: `{name: Signature}`.
        metadata: Its `signature_def` as TensorFlow Serving writes it, JSON.
        run: Coroutine function `(signature name, {input: array})` -> `{output: array}`.
        directory: Where it lies on this machine; `None` if it does not.
        identity: A text that is another one when the files are.
    """

    name: str
    version: int
    card: dict
    signatures: dict
    metadata: dict
    run: object
    directory: Path | None = None
    identity: str = ""
    _reals: tuple | None = field(default=None, repr=False)

    @property
    def image_shape(self):
        """`(height, width, channels)` of its images; `None` if it makes none."""
        for signature, output in (("sample", "images"), (DEFAULT_SIGNATURE, "images")):
            info = self.signatures.get(signature, Signature({}, {})).outputs.get(output)
            if info is not None and info.shape is not None and len(info.shape) == 4 and None not in info.shape[1:]:
                return tuple(info.shape[1:])
        return None

    @property
    def conditional(self):
        """Whether images are drawn of a class."""
        return any(
            "label" in self.signatures[name].inputs for name in ("sample", DEFAULT_SIGNATURE) if name in self.signatures
        )

    @property
    def class_names(self):
        """The names of its classes; () where it has none, or does not say."""
        return tuple(map(str, self.card.get("class_names") or ())) if self.conditional else ()

    @property
    def reals_file(self):
        """The file of real images that may be shown; `None` if there is none."""
        path = self.directory / "assets.extra" / "reals.npz" if self.directory else None
        return path if path is not None and path.is_file() else None

    def described(self):
        """Returns `model.json` with the `report` beside it, as JSON that may be shown to anybody."""
        report = None
        if self.directory is not None:
            try:
                report = json.loads((self.directory / "assets.extra" / "report.json").read_text(encoding="utf-8"))
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                logger.warning("%s/%s: its report cannot be read: %s", self.name, self.version, first_line(error))
        return publishable({**self.card, "report": report})

    def reals(self):
        """Returns `(uint8 [n, height, width, channels], credit)` of real images that may be shown; reads a file once.

        Raises:
            ApiError: 404 if there are none.
        """
        if self._reals is None:
            self._reals = self._read_reals()
        return self._reals

    def _read_reals(self):
        none = not_found(f"Model {shown(self.name)} has no real images that may be shown (assets.extra/reals.npz).")
        if self.reals_file is None:
            raise none
        try:
            with np.load(self.reals_file, allow_pickle=False) as file:
                images, credit = file["images"], str(file["credit"]) if "credit" in file else ""
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s/%s: its real images cannot be read: %s", self.name, self.version, first_line(error))
            raise none from error
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape or not len(images):
            logger.warning("%s/%s: its real images are not as its own: %s", self.name, self.version, images.shape)
            raise none
        return images, credit

    def check_inputs(self, inputs):
        """Raises ApiError where values would make a model fail, or answer nonsense: NaN, infinity, unknown classes."""
        for name, array in inputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise invalid(f"{name} must be finite numbers. Received: {shown(float(array[~np.isfinite(array)][0]))}")
            if name == "label" and self.class_names and array.size:
                self._check_label(array.min())
                self._check_label(array.max())

    def _check_label(self, label):
        most = len(self.class_names) - 1
        if not 0 <= label <= most:
            raise invalid(f"label must be from 0 to {most}, a place in class_names. Received: {label}")

    def labels(self, seeds, label):
        """Returns the class of each seed, int64 `[n]`: `label`, or if `None` the seed modulo the number of classes.

        Returns:
            `None` where the model has no classes.

        Raises:
            ApiError: If there is no such class.
        """
        if not self.conditional:
            if label is not None:
                raise invalid(f"label: model {shown(self.name)} has no classes. Leave it out. Received: {label}")
            return None
        if label is None:
            return seeds % max(1, len(self.class_names))
        if self.class_names:
            self._check_label(label)
        return np.full(len(seeds), label, np.int64)

    async def sample(self, seeds, label=None, truncation=1.0):
        """Draws images.

        Args:
            seeds: int64 `[n]`.
            label: Class of all of them; `None` goes round the classes.
            truncation: 0 to 1, a factor on the latents.

        Returns:
            uint8 `[n, height, width, channels]`.

        Raises:
            ApiError: If the model cannot do that.
        """
        given = {"seed": seeds, "truncation": np.full(len(seeds), truncation, np.float32)}
        return await self._images("sample", given, self.labels(seeds, label))

    async def walk(self, seed_a, seed_b, fractions, label=None, truncation=1.0):
        """Draws images on the way from one seed's latent to another's, by spherical interpolation.

        Args:
            seed_a, seed_b: Whole numbers.
            fractions: float `[n]`, 0 for the image of `seed_a` to 1 for that of `seed_b`.
            label: Class of all of them; `None` takes that of `seed_a`.
            truncation: 0 to 1, a factor on the latents.

        Returns:
            uint8 `[n, height, width, channels]`.

        Raises:
            ApiError: If the model cannot do that.
        """
        ends = np.array([seed_a, seed_b], np.int64)
        labels = self.labels(ends[:1], label)
        first, second = (await self._call("latents", {"seed": ends}))["z"]
        z = slerp(first, second, fractions).astype(np.float32) * np.float32(truncation)
        labels = None if labels is None else np.repeat(labels, len(z))
        return to_uint8(await self._images(DEFAULT_SIGNATURE, {"z": z}, labels))

    async def _images(self, signature, inputs, labels):
        takes = self._signature(signature).inputs
        if labels is not None:
            inputs = {**inputs, "label": labels}
        outputs = await self._call(signature, {name: array for name, array in inputs.items() if name in takes})
        if "images" not in outputs or outputs["images"].ndim != 4:
            raise not_found(f"Signature {signature!r} of model {shown(self.name)} gives no images.")
        return outputs["images"]

    async def _call(self, signature, inputs):
        missing = self._signature(signature).inputs.keys() ^ inputs.keys()
        if missing:
            raise not_found(
                f"Signature {signature!r} of model {shown(self.name)} does not take what this address gives it: "
                f"{', '.join(sorted(missing))}."
            )
        return await self.run(signature, inputs)

    def _signature(self, name):
        if name not in self.signatures:
            raise not_found(
                f"Model {shown(self.name)} has no signature {name!r}, which this address needs. It has: "
                f"{', '.join(sorted(self.signatures))}."
            )
        return self.signatures[name]


def to_uint8(images):
    """Returns images of [-1, 1], float, as uint8: round((x + 1) * 127.5), clipped."""
    return np.rint((np.nan_to_num(images) + np.float32(1)) * np.float32(127.5)).clip(0, 255).astype(np.uint8)


def publishable(value, key=None):
    """Returns JSON in which a path of this machine is reduced to its last part, and a number that is not finite null."""
    if isinstance(value, dict):
        return {name: publishable(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [publishable(each, key) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if not isinstance(value, str):
        return value
    if "://" not in value and (key in PATH_KEYS or re.match(r"(~|[A-Za-z]:)?[/\\]", value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return ABSOLUTE.sub("", value)


def consecutive(seed, count):
    """Returns the seeds `seed` ... `seed + count - 1`, int64 `[count]`.

    Raises:
        ApiError: If they leave the range of int64.
    """
    if seed + count - 1 > INT64.max:
        raise invalid(f"seed must be at most {INT64.max - count + 1} for {count} images. Received: {seed}")
    return seed + np.arange(count, dtype=np.int64)
