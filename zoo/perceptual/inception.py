"""The Inception of 2015 by which the FID is defined (Szegedy et al. 2015; classify_image_graph_def.pb), natively in Keras.

It is keras.applications' InceptionV3 but for: the batch norms' gamma, average pools that do not count the padding (as
TensorFlow's "same" does), a max pool in the last block, and 1008 logits. Layers bear pytorch-fid's names.

Input 299 x 299, (x - 128) / 128.
"""

import keras
from keras import layers

from zoo.perceptual import sources
from zoo.perceptual.weights import assign

SIDE = 299


def _inception_a(pool_filters):
    return (
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        ("average", ("branch_pool", pool_filters, 1)),
    )


def _inception_c(filters):
    row, column = (1, 7), (7, 1)
    return (
        (("branch1x1", 192, 1),),
        (("branch7x7_1", filters, 1), ("branch7x7_2", filters, row), ("branch7x7_3", 192, column)),
        (
            ("branch7x7dbl_1", filters, 1),
            ("branch7x7dbl_2", filters, column),
            ("branch7x7dbl_3", filters, row),
            ("branch7x7dbl_4", filters, column),
            ("branch7x7dbl_5", 192, row),
        ),
        ("average", ("branch_pool", 192, 1)),
    )


def _inception_e(pool):
    # A list forks: its convolutions all take what came before, and are concatenated.
    row, column = (1, 3), (3, 1)
    return (
        (("branch1x1", 320, 1),),
        (("branch3x3_1", 384, 1), [("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column)]),
        (
            ("branch3x3dbl_1", 448, 1),
            ("branch3x3dbl_2", 384, 3),
            [("branch3x3dbl_3a", 384, row), ("branch3x3dbl_3b", 384, column)],
        ),
        (pool, ("branch_pool", 192, 1)),
    )


# A convolution is (name, filters, kernel) or, with stride 2 and no padding, (name, filters, kernel, 2).
_STEM = (
    ("Conv2d_1a_3x3", 32, 3, 2, "valid"),
    ("Conv2d_2a_3x3", 32, 3, 1, "valid"),
    ("Conv2d_2b_3x3", 64, 3, 1, "same"),
    "pool",
    ("Conv2d_3b_1x1", 80, 1, 1, "valid"),
    ("Conv2d_4a_3x3", 192, 3, 1, "valid"),
    "pool",
)
_BLOCKS = {
    "Mixed_5b": _inception_a(32),
    "Mixed_5c": _inception_a(64),
    "Mixed_5d": _inception_a(64),
    "Mixed_6a": (
        (("branch3x3", 384, 3, 2),),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
        ("reduce",),
    ),
    "Mixed_6b": _inception_c(128),
    "Mixed_6c": _inception_c(160),
    "Mixed_6d": _inception_c(160),
    "Mixed_6e": _inception_c(192),
    "Mixed_7a": (
        (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)),
        (("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)), ("branch7x7x3_4", 192, 3, 2)),
        ("reduce",),
    ),
    "Mixed_7b": _inception_e("average"),
    "Mixed_7c": _inception_e("max"),
}  # fmt: skip


def inception_2015(weights=None, cache_dir=None):
    """Returns the network: images -> features (pool_3), logits, and logits without the bias.

    The published Inception score is made of the logits without the bias (`logits_unbiased`).

    Args:
        weights: `sources.Weights`, or a file (`sources.inception_2015`); downloaded once if None.
        cache_dir: folder of the cache.

    Input shape: `[batch, 299, 299, 3]`, (x - 128) / 128.
    Output shape: `{"features": [batch, 2048], "logits": [batch, 1008], "logits_unbiased": [batch, 1008]}`.
    """
    weights = weights if isinstance(weights, sources.Weights) else sources.inception_2015(weights, cache_dir)
    model = _build()
    assign(model, weights.arrays, weights.source)
    model.trainable = False
    return model


def _build():
    images = x = keras.Input((SIDE, SIDE, 3), dtype="float32")
    for step in _STEM:
        x = _reduce(x) if step == "pool" else _conv(x, *step)
    for block, branches in _BLOCKS.items():
        x = layers.concatenate([_branch(x, block, branch) for branch in branches], dtype="float32")
    features = keras.ops.mean(x, axis=(1, 2))
    classifier = layers.Dense(1008, dtype="float32", name="fc")
    logits = classifier(features)
    outputs = {"features": features, "logits": logits, "logits_unbiased": keras.ops.matmul(features, classifier.kernel)}
    return keras.Model(images, outputs, name="inception-2015")


def _branch(x, block, steps):
    for step in steps:
        if step == "reduce":
            x = _reduce(x)
        elif step == "average":
            x = layers.AveragePooling2D(3, 1, "same", dtype="float32")(x)
        elif step == "max":
            x = layers.MaxPooling2D(3, 1, "same", dtype="float32")(x)
        elif isinstance(step, list):
            x = layers.concatenate([_branch(x, block, (fork,)) for fork in step], dtype="float32")
        else:
            name, filters, kernel, *stride = step
            x = _conv(x, f"{block}.{name}", filters, kernel, *((stride[0], "valid") if stride else (1, "same")))
    return x


def _conv(x, name, filters, kernel, stride, padding):
    x = layers.Conv2D(filters, kernel, stride, padding, use_bias=False, dtype="float32", name=f"{name}.conv")(x)
    return keras.ops.relu(layers.BatchNormalization(epsilon=1e-3, dtype="float32", name=f"{name}.bn")(x))


def _reduce(x):
    return layers.MaxPooling2D(3, 2, dtype="float32")(x)


def frozen_graph_names():
    """Returns `{array: constant}`: pytorch-fid's name of each array and that of its node in the frozen graph.

    In the graph, a branch is a tower (the first one has no scope of its own, except where it is two convolutions long),
    its convolutions are conv, conv_1 ..., and a fork is a scope `mixed` in the tower.
    """
    places = {name: "conv" if i == 0 else f"conv_{i}" for i, (name, *_) in enumerate(s for s in _STEM if s != "pool")}
    for index, (block, branches) in enumerate(_BLOCKS.items()):
        scope = "mixed" if index == 0 else f"mixed_{index}"
        towers = 0
        for position, steps in enumerate(branches):
            convolutions = [step for step in steps if not isinstance(step, str)]
            if not convolutions:
                continue  # a bare pool
            tower = scope
            if position > 0 or len(convolutions) > 1:
                tower += "/tower" if towers == 0 else f"/tower_{towers}"
                towers += 1
            for i, step in enumerate(convolutions):
                if isinstance(step, list):
                    places |= {f"{block}.{fork[0]}": f"{tower}/mixed/{_nth(j)}" for j, fork in enumerate(step)}
                else:
                    places[f"{block}.{step[0]}"] = f"{tower}/{_nth(i)}"
    names = {"fc.weight": "softmax/weights", "fc.bias": "softmax/biases"}
    for name, node in places.items():
        names[f"{name}.conv.weight"] = f"{node}/conv2d_params"
        for ours, theirs in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ):
            names[f"{name}.bn.{ours}"] = f"{node}/batchnorm/{theirs}"
    return names


def _nth(index):
    return "conv" if index == 0 else f"conv_{index}"
