"""Training in mixed_float16: an overflow costs one optimizer one step, and the training is what it is in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.generative import dtype_policy

SIDE, BATCH, STEPS = 8, 16, 300
SEEDS = (3, 4, 5)  # the losses of the second lie between those of the others in float32


def images():
    draw = np.random.default_rng(0)
    coarse = draw.uniform(-1, 1, (64, 2, 2, 3))
    return np.kron(coarse, np.ones((1, SIDE // 2, SIDE // 2, 1))).astype(np.float32)


def compiled(seed=0):
    keras.utils.set_random_seed(seed)
    model = zoo.create("dcgan", (SIDE, SIDE, 3), base_filters=4, seed=seed)
    model.compile(jit_compile=False)
    return model


def values(network):
    return [np.asarray(variable) for variable in network.trainable_variables]


def same(before, after):
    return [np.array_equal(one, other) for one, other in zip(before, after, strict=True)]


@pytest.mark.parametrize("which", ["d_optimizer", "g_optimizer"])
def test_an_overflow_skips_the_update_of_the_optimizer_that_it_befell(which):
    with dtype_policy("mixed_float16"):
        model = compiled()
        batch = tf.constant(images()[:BATCH])
        step = tf.function(model.train_step)
        step(batch)
        networks = {"d_optimizer": model.discriminator, "g_optimizer": model.generator}
        optimizer, network = getattr(model, which), networks.pop(which)
        (other_name, other_network), (other,) = next(iter(networks.items())), [getattr(model, *networks)]
        too_much = 2.0**120
        optimizer.dynamic_scale.assign(too_much)
        before, others_before = values(network), values(other_network)
        others_scale = float(other.dynamic_scale)
        counts = [int(each.iterations) for each in (optimizer, other)]
        step(batch)
        assert float(optimizer.dynamic_scale) == too_much / 2 and float(other.dynamic_scale) == others_scale
        assert all(same(before, values(network))), "an update was made of gradients that overflowed"
        assert not any(same(others_before, values(other_network))), f"{other_name} made no update"
        assert [int(each.iterations) for each in (optimizer, other)] == [counts[0], counts[1] + 1]
        assert all(np.isfinite(np.asarray(variable)).all() for variable in model.variables)


def train(seed, overflow_at=None):
    """Returns the logs of 300 steps, `{name: [a value a step]}`, and how many updates were skipped."""
    model = compiled(seed)
    reals, draw = images(), np.random.default_rng(seed)
    step, logs = tf.function(model.train_step), []
    for number in range(STEPS):
        if number == overflow_at:
            model.d_optimizer.dynamic_scale.assign(2.0**18)
        logs.append(step(tf.constant(reals[draw.integers(0, len(reals), BATCH)])))
    assert all(np.isfinite(np.asarray(variable)).all() for variable in model.variables)
    values = {name: np.array([float(each[name]) for each in logs]) for name in logs[0]}
    return values, STEPS - int(model.d_optimizer.iterations)


def test_float16_with_an_overflow_trains_as_float32_does():
    runs = [train(seed)[0] for seed in SEEDS]
    with dtype_policy("mixed_float16"):
        found, skipped = train(SEEDS[1], overflow_at=50)
    assert 1 <= skipped < 10
    for name in ("d_loss", "g_loss"):
        assert np.isfinite(found[name]).all()
        means = [run[name][-100:].mean() for run in runs]
        assert min(means) <= found[name][-100:].mean() <= max(means), f"{name}: {found[name][-100:].mean()} in {means}"
