"""State dicts of the PyTorch tutorial's DCGAN-64 that the tests and the reference scripts make alike, from a seed.

Names and shapes are PyTorch's: `main.INDEX.weight`, kernels `[in, out, 4, 4]` in the generator (transposed convolutions)
and `[out, in, 4, 4]` in the discriminator; activations take an index too.
"""

import numpy as np


def generator_shapes(base_filters=64, latent_dim=100, channels=3):
    """Returns `{name: shape}` of the generator's state dict, in its order."""
    widths = [latent_dim, 8 * base_filters, 4 * base_filters, 2 * base_filters, base_filters, channels]
    shapes = {}
    for block, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        shapes[f"main.{3 * block}.weight"] = (inputs, outputs, 4, 4)
        if block < 4:
            shapes |= _batch_norm_shapes(3 * block + 1, outputs)
    return shapes


def discriminator_shapes(base_filters=64, channels=3):
    """Returns `{name: shape}` of the discriminator's state dict, in its order."""
    widths = [channels, base_filters, 2 * base_filters, 4 * base_filters, 8 * base_filters, 1]
    shapes = {}
    for block, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        shapes[f"main.{max(0, 3 * block - 1)}.weight"] = (outputs, inputs, 4, 4)
        if 0 < block < 4:
            shapes |= _batch_norm_shapes(3 * block, outputs)
    return shapes


def _batch_norm_shapes(index, width):
    return {f"main.{index}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def generator_state(base_filters=64, latent_dim=100, seed=1):
    """Returns `{name: float32 array}`, scaled so that activations stay near 1 whatever the width."""
    # A pixel of a strided transposed convolution sees a quarter of the kernel.
    return _filled(generator_shapes(base_filters, latent_dim), seed, lambda shape: shape[0] * 4)


def discriminator_state(base_filters=64, seed=2):
    """Returns `{name: float32 array}`, scaled likewise."""
    return _filled(discriminator_shapes(base_filters), seed, lambda shape: shape[1] * 16)


def _filled(shapes, seed, fan_in):
    random = np.random.RandomState(seed)
    arrays = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            array = random.standard_normal(shape) * (2 / fan_in(shape)) ** 0.5
        elif name.endswith("running_var"):
            array = random.uniform(0.5, 2.0, shape)
        elif name.endswith("weight"):
            array = random.uniform(0.7, 1.4, shape)
        else:
            array = random.normal(0, 0.2, shape)
        arrays[name] = array.astype(np.float32)
    return arrays


def latents(count, latent_dim, seed=64):
    """Returns float32 `[count, latent_dim]`, standard normal."""
    return np.random.RandomState(seed).standard_normal((count, latent_dim)).astype(np.float32)
