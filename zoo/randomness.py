"""Random draws as a pure function of (run seed, step, purpose, position in the global batch).

Nothing is stateful, so a checkpoint has nothing to save for them, a resumed run draws what the uninterrupted one
would have drawn, and a run on several devices draws, for each image, what one device would have drawn.

A training step opens a `scope`; layers and losses inside it ask for `normal` or `uniform` draws whose first axis is
the batch. The n-th draw of a scope is always the same one.
"""

import contextlib
import math
import threading

import tensorflow as tf

_active = threading.local()


class _Scope:
    def __init__(self, seed, replica, num_replicas):
        self.seed = seed
        self.replica = replica
        self.num_replicas = num_replicas
        self.num_draws = 0


@contextlib.contextmanager
def scope(seed, step, purpose, replica=0, num_replicas=1):
    """Makes the draws inside a pure function of the arguments.

    Args:
        seed: Seed of the run, an int.
        step: Step of the training, an int or a scalar tensor.
        purpose: Int that keeps, within a step, the draws of different uses apart.
        replica: Index of this replica, an int or a scalar tensor.
        num_replicas: How many replicas share the global batch.
    """
    base = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    folded = tf.random.experimental.stateless_fold_in(base, tf.cast(purpose, tf.int64), alg="philox")
    previous = getattr(_active, "scope", None)
    _active.scope = _Scope(folded, replica, num_replicas)
    try:
        yield
    finally:
        _active.scope = previous


def replay():
    """Returns a context manager in which the draws that would come next are made, each time that it is entered.

    For what is computed again in the backward pass, where the scope of the forward pass may have ended.
    """
    current = getattr(_active, "scope", None)
    first = None if current is None else current.num_draws

    @contextlib.contextmanager
    def replayed():
        previous = getattr(_active, "scope", None)
        _active.scope = current
        if current is not None:
            current.num_draws = first
        try:
            yield
        finally:
            _active.scope = previous

    return replayed


def _draw(function, shape, **kwargs):
    current = getattr(_active, "scope", None)
    if current is None:
        raise ValueError(
            "A random draw was asked for outside a training step. Wrap the call in `zoo.randomness.scope(seed, "
            "step, purpose)`, or call the layer with `training=False`."
        )
    seed = tf.random.experimental.stateless_fold_in(
        current.seed, tf.constant(current.num_draws, tf.int64), alg="philox"
    )
    current.num_draws += 1
    batch = shape[0]
    # The whole global batch is drawn and this replica's part of it taken: the draws of an image then do not depend
    # on how many devices there are.
    values = function([batch * current.num_replicas, *shape[1:]], seed=seed, alg="philox", **kwargs)
    if current.num_replicas == 1:
        return values
    return tf.slice(values, [batch * current.replica] + [0] * (len(shape) - 1), shape)


def _unit_uniform(shape, seed, alg="philox"):
    # TensorFlow and XLA agree on Philox's integers but make different floats of them: these are made here.
    bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg=alg)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def _standard_normal(shape, seed, alg="philox"):
    pair = _unit_uniform([*shape, 2], seed, alg)  # Box and Muller 1958
    return tf.sqrt(-2.0 * tf.math.log(1.0 - pair[..., 0])) * tf.cos(2 * math.pi * pair[..., 1])


def normal(shape):
    """Returns standard normal draws, float32, of `shape` (batch first)."""
    return _draw(_standard_normal, shape)


def uniform(shape, minimum=0.0, maximum=1.0):
    """Returns uniform draws in [minimum, maximum), float32, of `shape` (batch first)."""
    return minimum + (maximum - minimum) * _draw(_unit_uniform, shape)


def integers(shape, minimum, maximum):
    """Returns uniform int32 draws in [minimum, maximum) of `shape` (batch first)."""
    return _draw(tf.random.stateless_uniform, shape, minval=minimum, maxval=maximum, dtype=tf.int32)


def latents(seeds, latent_dim):
    """Returns one standard normal latent per seed, `[n, latent_dim]` float32, each a function of its seed alone.

    Args:
        seeds: int64 `[n]`.
        latent_dim: Size of a latent.
    """
    return tf.map_fn(
        lambda seed: _standard_normal([latent_dim], tf.stack([seed, tf.zeros_like(seed)])),
        tf.cast(seeds, tf.int64),
        fn_output_signature=tf.float32,
    )
