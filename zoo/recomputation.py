"""Gradient checkpointing (Chen et al. 2016): activations inside a block are computed again for its gradient, not kept.

Training then keeps the inputs of each block in place of all that is in it, for about a third more work. What is computed
the second time is what was computed the first time: the same random draws, and no second update of batch norm.
"""

import tensorflow as tf

from zoo import randomness
from zoo.layers import batch_norms, moving_statistics


def recompute_activations(model):
    """Makes the blocks of a model's trained networks recompute their activations.

    A block is a layer of a network that holds layers of its own. To be called before `compile`.

    Args:
        model: A `GenerativeModel`.

    Returns:
        The number of blocks.

    Raises:
        ValueError: If the loss has a penalty on a gradient, which recomputed activations cannot be differentiated for.
    """
    for name in ("r1_weight", "gradient_penalty_weight"):
        if getattr(model, name, 0):
            raise ValueError(
                f"--gradient-checkpointing cannot be combined with {name}={getattr(model, name)}: the penalty is on a "
                "gradient, whose own gradient is then not known. Use --accumulate to save memory."
            )
    blocks = [
        layer
        for name, network in model.networks.items()
        if not name.startswith("ema_")
        for layer in network._layers
        if layer._layers
    ]
    for block in blocks:
        block.call = _recomputed(block, block.call)
    return len(blocks)


def _recomputed(block, call):
    statistics = moving_statistics(batch_norms(block))
    direct = False

    def in_training(*inputs, **options):
        replayed = randomness.replay()
        passes = 0

        def forward(*inputs):
            nonlocal passes, direct
            passes += 1
            before = [tf.identity(variable) for variable in statistics] if passes > 1 else []
            direct = True
            try:
                with replayed():
                    outputs = block(*inputs, **options)  # a call, so that the layers inside know of the training
            finally:
                direct = False
            for variable, value in zip(statistics, before, strict=False):
                variable.assign(value)
            return outputs

        return tf.recompute_grad(forward)(*inputs)

    def recomputed(*inputs, **options):
        # A block that takes no `training` computes the same in both.
        if direct or not options.get("training", True):
            return call(*inputs, **options)
        return in_training(*inputs, **options)

    return recomputed
