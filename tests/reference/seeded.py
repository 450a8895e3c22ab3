"""Inputs and weights that the tests and the reference scripts make alike, from seeds: so no large file is committed."""

import numpy as np

SIDES = (32, 31, 48, 64)


def image_pairs(side, num_pairs=4, seed=0):
    """float32 `[pairs, side, side, 3]` twice, in [-1, 1]: noise, gradient and blur, shift, and flat against noisy."""
    random = np.random.RandomState(seed + side)
    ramp = np.linspace(-1, 1, side)
    gradient = np.stack([np.add.outer(ramp, 0 * ramp), np.add.outer(0 * ramp, ramp), np.multiply.outer(ramp, ramp)], -1)
    noise = random.uniform(-1, 1, (side, side, 3))
    blurred = noise
    for axis in (0, 1):
        blurred = sum(np.roll(blurred, shift, axis) for shift in range(-2, 3)) / 5
    pairs = [
        (noise, random.uniform(-1, 1, (side, side, 3))),
        (gradient, 0.8 * gradient + 0.2 * blurred),
        (blurred * 2.5, np.roll(blurred * 2.5, 3, axis=1)),
        (np.full((side, side, 3), 0.25), 0.25 + 0.1 * noise),
    ][:num_pairs]
    first, second = (np.clip(np.stack(part), -1, 1).astype(np.float32) for part in zip(*pairs))
    return first, second


def images(num_images, side, seed=0):
    """uint8 `[n, side, side, 3]`: smooth blobs with noise, all different."""
    random = np.random.RandomState(seed)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side), indexing="ij"), -1)
    result = np.empty((num_images, side, side, 3))
    for image in result:
        for channel in range(3):
            waves = random.uniform(1, 9, 2) * grid + random.uniform(0, 6, 2)
            image[:, :, channel] = np.sin(waves[..., 0]) * np.cos(waves[..., 1])
    return np.clip(127.5 + 110 * result + random.normal(0, 9, result.shape), 0, 255).astype(np.uint8)


def inception_state(shapes, seed=2015):
    """float32 arrays for `{name: shape}` of the 2015 Inception's state dict, scaled so that activations stay near 1.

    Args:
        shapes: in PyTorch's layout (OIHW).
    """
    random = np.random.RandomState(seed)
    state = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("conv.weight"):
            array = random.standard_normal(shape).astype(np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        elif name == "fc.weight":
            array = random.standard_normal(shape) * 0.05
        elif name.endswith("running_var"):
            array = random.uniform(0.5, 2.0, shape)
        elif name.endswith("bn.weight"):
            array = random.uniform(0.7, 1.4, shape)
        else:
            array = random.normal(0, 0.2, shape)
        state[name] = array.astype(np.float32)
    return state
