"""The optimizers against Keras' own, which are the reference."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import optimizers

PAIRS = [
    (optimizers.Adam, keras.optimizers.Adam, {"beta_1": 0.5}),
    (optimizers.Adam, keras.optimizers.Adam, {"beta_1": 0.0, "beta_2": 0.9, "epsilon": 1e-3}),
    (optimizers.Adam, keras.optimizers.Adam, {"amsgrad": True}),
    (optimizers.AdamW, keras.optimizers.AdamW, {"weight_decay": 0.1}),
]


def trained(optimizer, steps=20):
    """Weights and state after some updates with gradients that are a function of the step."""
    draw = np.random.default_rng(0)
    shapes = {"a": (7, 5), "b": (3,), "c": ()}
    variables = [
        keras.Variable(draw.normal(size=shape).astype(np.float32), name=name) for name, shape in shapes.items()
    ]
    optimizer.build(variables)

    @tf.function
    def update(*gradients):
        optimizer.apply(list(gradients))

    for _ in range(steps):
        update(*(tf.constant(draw.normal(size=variable.shape), tf.float32) for variable in variables))
    return [keras.ops.convert_to_numpy(each) for each in (*variables, *optimizer.variables)]


@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS)
def test_the_updates_are_those_of_keras(ours, theirs, arguments):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.01, 30, end_learning_rate=0.0)
    for rate in (0.01, schedule):
        found, expected = (trained(kind(rate, **arguments)) for kind in (ours, theirs))
        assert len(found) == len(expected) > 8
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS)
def test_names_and_arguments_are_those_of_keras_and_are_saved(ours, theirs, arguments):
    one, other = ours(0.01, **arguments), theirs(0.01, **arguments)
    for each in (one, other):
        trained(each, steps=1)
    assert [each.name for each in one.variables] == [each.name for each in other.variables], "as checkpoints have them"
    again = keras.optimizers.deserialize(keras.optimizers.serialize(one))
    assert type(again) is ours and again.get_config() == one.get_config()


def test_an_overflow_skips_the_update_under_loss_scaling():
    optimizer = keras.optimizers.LossScaleOptimizer(optimizers.Adam(0.1), initial_scale=8.0)
    variable = keras.Variable(np.ones(3, np.float32))
    optimizer.build([variable])
    tf.function(lambda: optimizer.apply([tf.constant([1.0, np.inf, 1.0])]))()
    np.testing.assert_array_equal(variable, np.ones(3))
    tf.function(lambda: optimizer.apply([tf.constant([8.0, -8.0, 8.0])]))()
    np.testing.assert_allclose(variable, [0.9, 1.1, 0.9], rtol=1e-5)  # the first step of Adam is the learning rate
