"""Geometric augmentation of training images: mirror, rotation, random resized crop.

Every draw is a pure function of (seed, place in the stream of images), so nothing has to be saved for a resume and
any number of devices draws the same numbers.
"""

import difflib
import math
from dataclasses import dataclass

import numpy as np

from training.decode import DataError

ALLOWED = "flip, rotate=DEGREES (over 0, up to 180), crop"
MIN_CROP_AREA = 0.8


@dataclass(frozen=True)
class Transform:
    """What to do to each image.

    Args:
        flip: mirror left and right, with probability 1/2.
        rotate: turn about the centre by an angle uniform in +-`rotate` degrees; the corners are filled by reflection.
        crop: a window of 80% to 100% of the area, of the same aspect, anywhere, scaled back to the whole size.
    """

    flip: bool = False
    rotate: float = 0.0
    crop: bool = False

    @property
    def warps(self):
        """Whether pixels are interpolated (a mirrored image keeps its pixels exactly)."""
        return self.crop or self.rotate > 0


def parse_transform(text):
    """Reads "flip,rotate=10,crop", any part of it or nothing, into a `Transform`."""
    if isinstance(text, Transform):
        return text
    chosen = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        name, equals, value = part.partition("=")
        if name not in ("flip", "rotate", "crop"):
            close = difflib.get_close_matches(name, ("flip", "rotate", "crop"), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(f"transform must be made of {ALLOWED}. Received: {part!r}.{hint}")
        if name in chosen:
            raise DataError(f"transform must name {name} once. Received: {text!r}.")
        if name != "rotate" and equals:
            raise DataError(f"transform {name} takes no value. Received: {part!r}. Write {name!r}.")
        chosen[name] = _degrees(part, value) if name == "rotate" else True
    return Transform(**chosen)


def _degrees(part, value):
    try:
        degrees = float(value)
    except ValueError:
        degrees = math.nan
    if not 0 < degrees <= 180:
        raise DataError(f"transform rotate must be rotate=DEGREES, over 0 and up to 180. Received: {part!r}.")
    return degrees


def random_bits(*words):
    """uint64 hash of the words: integers or integer arrays that broadcast. The n-th draw without the draws before.

    The finalizer of SplitMix64 (Steele, Lea, Flood 2014, Fig. 16) over the words, one after another. It is spelled
    out because the streams of NumPy and TensorFlow may change with their versions, and a resume must not.
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        word = np.asarray(word)
        if word.dtype == object or word.ndim == 0:
            word = np.array([int(word) & 0xFFFFFFFFFFFFFFFF], np.uint64)
        state = state ^ word.astype(np.uint64)
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def uniform(*words):
    """float64 in [0, 1) for the words, 53 bits."""
    return (random_bits(*words) >> np.uint64(11)) * 2.0**-53


def flips(seed, places):
    """bool `[b]`: which of the images at `places` of the stream are mirrored."""
    return uniform(seed, 1, places) < 0.5


def affine_matrices(transform, seed, places, height, width):
    """Where each pixel of the result is taken from.

    Args:
        transform: a `Transform`.
        seed: any integer.
        places: int64 `[b]`, places in the stream of images.
        height: rows of the images.
        width: columns of the images.

    Returns:
        float32 `[b, 8]`, rows (a0, a1, a2, b0, b1, b2, 0, 0): the pixel with centre (x, y) of the result is read at
        (a0 x + a1 y + a2, b0 x + b1 y + b2).
    """
    draws = [uniform(seed, 2 + i, places) for i in range(4)]
    angle = np.radians(transform.rotate) * (2 * draws[0] - 1)
    side = np.sqrt(MIN_CROP_AREA + (1 - MIN_CROP_AREA) * draws[1]) if transform.crop else np.ones_like(angle)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    # the window's centre, relative to the image's: anywhere that keeps the window inside
    shift_x, shift_y = ((1 - side) * length * (draw - 0.5) for length, draw in ((width, draws[2]), (height, draws[3])))
    cos, sin = np.cos(angle), np.sin(angle)
    # first the window (scale, shift), then the rotation about the image's centre
    a0, a1, b0, b1 = side * cos, -side * sin, side * sin, side * cos
    a2 = centre_x + cos * shift_x - sin * shift_y - a0 * centre_x - a1 * centre_y
    b2 = centre_y + sin * shift_x + cos * shift_y - b0 * centre_x - b1 * centre_y
    zero = np.zeros_like(angle)
    return np.stack([a0, a1, a2, b0, b1, b2, zero, zero], -1).astype(np.float32)
