"""The real images of a report: which of them the model was trained on, and which it never saw."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training import data

EMOJI_HELD_OUT = 120  # what training.fit puts aside of `emoji`, at most a fifth; only believed where fingerprints agree


@dataclass(frozen=True)
class Images:
    """Some real images.

    Args:
        pixels: uint8 `[n, height, width, channels]`.
        names: of each.
        labels: int `[n]`.
        source: what to call the set.
        fingerprint: of the whole set.
        total: how many the whole set has, of which these may be a part.
    """

    pixels: np.ndarray
    names: list
    labels: np.ndarray
    source: str
    fingerprint: str
    total: int

    def __len__(self):
        return len(self.pixels)


@dataclass(frozen=True)
class Reals:
    """The real images of a report.

    Args:
        train: Those to compare with.
        test: Unseen ones, or `None`.
        spare: uint8, further training images, as many as `train` or what is left: for the floor alone. Or `None`.
        digests: Of all training images.
        notes: What is to be said of them.
    """

    train: Images
    test: Images | None
    spare: np.ndarray | None
    digests: set
    notes: list = field(default_factory=list)


def load(options, image_shape, held_out=None, record: dict[str, Any] | None = None):
    """Reads the real images of a report.

    Unseen images are those of `--test-data`; else those that the model's own export says were put aside. A split that the
    model may have been trained on is never made here.

    Args:
        options: `report.Options`.
        image_shape: `(height, width, channels)` of the generated images.
        held_out: uint8 images that came with the model, or `None`.
        record: What `model.json` says of the training, or `None`.
    """
    arguments = {
        "size": tuple(image_shape[:2]),
        "channels": image_shape[2],
        "fit": options.fit,
        "classes": options.classes,
        "label_depth": options.label_depth,
    }
    whole = data.load(options.data, **arguments)
    fingerprint = (record or {}).get("data_fingerprint")
    notes, test = [], None
    if options.test_data is not None:
        test = data.load(options.test_data, **arguments)
        train, train_digests = whole, digests(whole.images)
        test = _without(test, set(train_digests), "unseen", notes)
    else:
        train, test = _own_split(whole, fingerprint)
        train_digests = digests(train.images)
        if test is None and held_out is not None and fingerprint != whole.fingerprint:
            unseen = set(digests(held_out))
            kept = [i for i, digest in enumerate(train_digests) if digest not in unseen]
            if len(kept) < len(train):
                notes.append(
                    f"{len(train) - len(kept)} images of {options.data} were put aside when the model was trained (they came with the export) and serve as unseen real images."
                )
                train, train_digests = train.subset(kept), [train_digests[i] for i in kept]
            test = held_out
    if fingerprint is not None and train.fingerprint != fingerprint:
        notes.append(
            "The model's record names other training images than these (the data, its options or its version differ): what is said of copying holds for the images given, not for all that the model saw."
        )
    if test is None and not options.real_vs_real:
        notes.append(
            "Privacy loss and adversarial accuracy on test could not be computed: they need real images that the training did not see (--test-data). Taking some of --data would not do, since the model was trained on them."
        )
    for name, images in (("--data", train), ("--test-data", test)):
        if images is not None and len(images) < 2:
            raise ValueError(f"{name} must hold at least 2 usable images. Received: {len(images)}.")
    spare = _spare(train, options.count, options.seed)
    train = _some(train, options.data, options.count, options.seed, 1)
    if len(train) < train.total:
        notes.append(
            f"{len(train):,} of {train.total:,} training images were compared (--count); only exact copies were looked for among all."
        )
    if test is not None:
        source = options.test_data or "put aside by training.fit"
        test = _some(test, source, options.count, options.seed, 2)
        if len(test) < 50:
            notes.append(
                f"There are only {len(test)} unseen real images: the intervals of adversarial accuracy on test and of privacy loss are wide."
            )
    return Reals(train, test, spare, set(train_digests), notes)


def _own_split(whole, fingerprint):
    """Returns `(train, test)` if a split that training.fit makes is, by its fingerprint, the one the model was trained on."""
    if fingerprint is not None and fingerprint != whole.fingerprint and len(whole) > 1:
        try:
            train, test = whole.split(min(0.2, EMOJI_HELD_OUT / len(whole)), seed=0)
        except data.DataError:  # all images alike
            return whole, None
        if train.fingerprint == fingerprint:
            return train, test
    return whole, None


def _without(images, seen, what, notes):
    kept = [i for i, digest in enumerate(digests(images.images)) if digest not in seen]
    if len(kept) == len(images):
        return images
    notes.append(
        f"{len(images) - len(kept)} of the {len(images)} {what} images equal a training image in every pixel and were left out."
    )
    if len(kept) < 2:
        raise ValueError(
            "--test-data must hold images that are not in --data. Received: the same images, but for "
            + str(len(kept))
            + "."
        )
    return images.subset(kept)


def digests(images):
    """Returns a digest of the pixels of each image."""
    return [
        hashlib.blake2b(np.ascontiguousarray(images[i]).tobytes(), digest_size=16).digest() for i in range(len(images))
    ]


def _order(total, count, seed, stream):
    return np.arange(total) if total <= count else np.random.default_rng([seed, stream]).permutation(total)


def _spare(images, count, seed):
    """Returns the images that follow those of `_some` in its random order, as many again, or `None`."""
    places = np.sort(_order(len(images), count, seed, 1)[count : 2 * count])
    return np.asarray(images.images[places]) if len(places) else None


def _some(images, source, count, seed, stream):
    """Returns at most `count` of an `ImageSet`, or of an array, as `Images`; the same ones for the same seed."""
    total = len(images)
    places = np.sort(_order(total, count, seed, stream)[:count])
    if isinstance(images, np.ndarray):
        fingerprint = hashlib.sha256(b"".join(digests(images))).hexdigest()
        names = [f"unseen {i + 1}" for i in places]
        return Images(images[places], names, np.zeros(len(places), np.int32), source, fingerprint, total)
    chosen = images.subset(places)
    return Images(np.asarray(chosen.images), list(chosen.names), chosen.labels, source, images.fingerprint, total)
