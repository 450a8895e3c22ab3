"""Recomputed activations: the same numbers. What memory they save is measured in docs/scaling.md."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo import checkpoint, recomputation

CASES = {
    "dcgan": {"variant": "keras32", "base_filters": 4, "generator_dropout": 0.2},
    "sngan": {"variant": "resnet", "base_filters": 4, "discriminator_steps": 1},
    "fastgan": {"base_filters": 2, "reconstruction": "multiscale_l1"},
    "vae": {"base_filters": 2, "latent_dim": 4},
}


def trained(arch, recompute, steps=2, **arguments):
    keras.utils.set_random_seed(0)
    model = zoo.create(arch, (32, 32, 3), **CASES[arch] | arguments)
    if recompute:
        assert recomputation.recompute_activations(model) > 1
    model.compile(steps=100, steps_per_epoch=10, jit_compile=False)
    images = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    step = tf.function(model.train_step)
    logs = [{name: float(value) for name, value in step(tf.constant(images)).items()} for _ in range(steps)]
    return logs, {key: np.asarray(variable) for key, variable in checkpoint.variables(model).items()}


@pytest.mark.parametrize(
    "arch", ["dcgan", "vae", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sngan", "fastgan"))]
)
def test_recomputed_activations_give_the_same_step(arch):
    (logs, plain), (found_logs, found) = (trained(arch, recompute) for recompute in (False, True))
    for step, (one, other) in enumerate(zip(logs, found_logs, strict=True)):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5), step
    for key, value in plain.items():
        if "moving" in key:  # the second pass must not move them again
            np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-4, err_msg=key)


def test_the_activations_are_computed_again():
    counts = []
    for recompute in (False, True):
        model = zoo.create("dcgan", (32, 32, 3), **CASES["dcgan"])
        if recompute:
            recomputation.recompute_activations(model)
        model.compile(jit_compile=False)
        step = tf.function(model.train_step).get_concrete_function(tf.TensorSpec([4, 32, 32, 3]))
        functions = step.graph.as_graph_def().library.function
        counts.append(sum(node.op == "Conv2D" for function in functions for node in function.node_def))
    assert counts[1] > counts[0] > 0


def test_a_penalty_on_a_gradient_is_refused():
    with pytest.raises(ValueError, match="cannot be combined with r1_weight=1"):
        recomputation.recompute_activations(zoo.create("dcgan", (32, 32, 3), base_filters=4, r1_weight=1.0))
