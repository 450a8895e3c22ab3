"""What the classifiers of an augmentation study are trained on: real, augmented, mixed with synthetic, synthetic alone.

All regimes take the same number of optimizer steps, so that more images never mean more training.
"""

import dataclasses
import hashlib

import numpy as np

from evaluation.reals import digests

CLASSICAL = ("flip", "translation", "rotation", "contrast")
TRANSLATION, ROTATION_DEGREES, CONTRAST = 0.1, 10, 0.2


@dataclasses.dataclass(frozen=True)
class Regime:
    """One way to train a classifier.

    Args:
        name: For files and records.
        label: For people.
        real: Whether the real train images are in.
        ratio: Synthetic images of each class, as a multiple of its real train images.
        classical: Whether each batch is changed at random by Keras' layers.
    """

    name: str
    label: str
    real: bool = True
    ratio: float = 0.0
    classical: bool = False


def regimes(ratios):
    """Returns the regimes of a study, the baseline first.

    Synthetic images with classical augmentation, and alone, are tried at ratio 1, or the largest if 1 is not asked for.
    """
    ratio = 1.0 if 1.0 in ratios else max(ratios)
    return [
        Regime("real", "Real"),
        Regime("classical", "Real, classical augmentation", classical=True),
        *(Regime(f"synthetic-{each:g}", f"Real + {each:.0%} synthetic", ratio=each) for each in ratios),
        Regime(f"classical-synthetic-{ratio:g}", f"Classical + {ratio:.0%} synthetic", ratio=ratio, classical=True),
        Regime(f"synthetic-only-{ratio:g}", f"Synthetic only ({ratio:.0%})", real=False, ratio=ratio),
    ]


def needed(ratio, real_counts):
    """Returns how many synthetic images of each class a ratio needs, `[classes]`: at least one."""
    return [max(1, round(ratio * count)) if ratio else 0 for count in real_counts]


class Pool:
    """The images of a regime, from several arrays, read when they are indexed.

    Args:
        parts: list of (images uint8 `[n, height, width, channels]`, labels int `[n]`).
    """

    def __init__(self, parts):
        self._images = [images for images, _ in parts if len(images)]
        self.labels = np.concatenate([np.asarray(labels, np.int32) for images, labels in parts if len(images)])
        self._ends = np.cumsum([len(images) for images in self._images])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, indices):
        """Returns the images at `indices`, int `[b]`, as one array."""
        indices = np.asarray(indices)
        owner = np.searchsorted(self._ends, indices, side="right")
        batch = np.empty((len(indices), *self._images[0].shape[1:]), np.uint8)
        for i, images in enumerate(self._images):
            here = owner == i
            batch[here] = images[indices[here] - (self._ends[i] - len(images))]
        return batch

    def sha256(self):
        """Returns the hex digest of images and labels, in their order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels, "<i4").tobytes())
        for images in self._images:
            for each in digests(images):
                digest.update(each)
        return digest.hexdigest()


def pool(regime, train, synthetic):
    """Returns the `Pool` of a regime.

    Args:
        regime: A `Regime`.
        train: The train side of the split, an `ImageSet`.
        synthetic: uint8 `[n, height, width, channels]` of each class, a list; of a smaller ratio the first ones are taken,
            so that a larger ratio only adds to it.
    """
    parts = [(train.images, train.labels)] if regime.real else []
    counts = needed(regime.ratio, np.bincount(train.labels, minlength=len(synthetic)))
    parts += [(images[:count], [label] * count) for label, (images, count) in enumerate(zip(synthetic, counts))]
    return Pool(parts)


def classical_layers(names, seed):
    """Returns Keras' layers of classical augmentation for pixels in [0, 255].

    Args:
        names: Some of `CLASSICAL`: mirrored left and right; moved by up to a tenth of the side; turned by up to 10 degrees
            (both filled by reflection); contrast changed by up to a fifth.
        seed: int.
    """
    from keras import layers

    made = {
        "flip": lambda: layers.RandomFlip("horizontal", seed=seed),
        "translation": lambda: layers.RandomTranslation(TRANSLATION, TRANSLATION, fill_mode="reflect", seed=seed + 1),
        "rotation": lambda: layers.RandomRotation(ROTATION_DEGREES / 360, fill_mode="reflect", seed=seed + 2),
        "contrast": lambda: layers.RandomContrast(CONTRAST, value_range=(0, 255), seed=seed + 3),
    }
    return [made[name]() for name in names]
