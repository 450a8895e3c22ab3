"""Differentiable augmentation (Zhao et al. 2020): the same random distortions of what the discriminator sees, real
and fake, so that a small set is not memorized by it. Per image, differentiable, drawn inside a `randomness.scope`.

All functions take and return float `[batch, height, width, channels]` in [-1, 1] (the colour ones may leave the range).
"""

import tensorflow as tf

from zoo import randomness


def color(images):
    """Brightness + U(-.5, .5); saturation x U(0, 2) about the channel mean; contrast x U(.5, 1.5) about the mean."""
    shape = [images.shape[0], 1, 1, 1]
    images = images + tf.cast(randomness.uniform(shape, -0.5, 0.5), images.dtype)
    gray = tf.reduce_mean(images, axis=3, keepdims=True)
    images = (images - gray) * tf.cast(randomness.uniform(shape, 0.0, 2.0), images.dtype) + gray
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return (images - mean) * tf.cast(randomness.uniform(shape, 0.5, 1.5), images.dtype) + mean


def translation(images, ratio=0.125):
    """Shifts by up to `ratio` of the side in each direction, zeros moving in."""
    batch, height, width, _ = images.shape
    images = _shift(images, randomness.integers([batch], -int(height * ratio + 0.5), int(height * ratio + 0.5) + 1), 1)
    return _shift(images, randomness.integers([batch], -int(width * ratio + 0.5), int(width * ratio + 0.5) + 1), 2)


def _shift(images, offsets, axis):
    # A matrix with ones at (i, i - offset): rows out of range stay zero. A product is fast under XLA, and unlike a
    # gather its gradient is no scatter.
    size = images.shape[axis]
    rows = tf.range(size)[None, :, None]
    columns = tf.range(size)[None, None, :]
    matrix = tf.cast(tf.equal(columns, rows - offsets[:, None, None]), images.dtype)
    return tf.einsum("bij,bjwc->biwc" if axis == 1 else "bij,bhjc->bhic", matrix, images)


def cutout(images, ratio=0.5):
    """Sets a square of `ratio` of the side to zero, its centre anywhere in the image."""
    batch, height, width, _ = images.shape
    mask_rows = _outside(randomness.integers([batch], 0, height), height, int(height * ratio + 0.5))
    mask_columns = _outside(randomness.integers([batch], 0, width), width, int(width * ratio + 0.5))
    keep = tf.logical_or(mask_rows[:, :, None], mask_columns[:, None, :])
    return images * tf.cast(keep, images.dtype)[..., None]


def _outside(centres, size, length):
    start = centres[:, None] - length // 2
    position = tf.range(size)[None, :]
    return tf.logical_or(position < start, position >= start + length)


POLICIES = {"color": color, "translation": translation, "cutout": cutout}


def augment(images, policy):
    """Applies the named distortions of `policy` in turn.

    Args:
        images: Float `[batch, height, width, channels]`, batch known.
        policy: Names from `POLICIES`, as `zoo.recipe.parse_augment` returns them.
    """
    for name in policy:
        images = POLICIES[name](images)
    return images
