"""Every random draw is a pure function of (seed, step, purpose, position): nothing else may change it."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from zoo import randomness

DRAWS = {
    "normal": lambda batch: randomness.normal([batch, 5]),
    "uniform": lambda batch: randomness.uniform([batch, 3, 1], -2.0, 3.0),
    "integers": lambda batch: randomness.integers([batch], -1000, 1000),
}

every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))


def drawn(draw, seed=1, step=2, purpose=3, batch=4, **replicas):
    with randomness.scope(seed, step, purpose, **replicas):
        return draw(batch).numpy()


@every_draw
def test_the_same_arguments_give_the_same_bytes_whatever_was_drawn_before(draw):
    first = drawn(draw)
    tf.random.set_seed(123)
    tf.random.normal([7])
    drawn(draw, seed=9)
    assert drawn(draw).tobytes() == first.tobytes()


@every_draw
def test_another_seed_step_or_purpose_gives_other_numbers(draw):
    variants = [
        (1, 2, 3),
        (0, 2, 3),
        (1, 0, 3),
        (1, 2, 0),
        (2, 1, 3),
        (3, 2, 1),
        (1, 3, 2),
        (2**40, 2, 3),
        (1, 2**40, 3),
        (-1, 2, 3),
    ]
    results = [drawn(draw, *variant).tobytes() for variant in variants]
    assert len(set(results)) == len(results)


@every_draw
def test_successive_draws_of_a_scope_differ(draw):
    with randomness.scope(0, 0, 0):
        results = [draw(8).numpy().tobytes() for _ in range(4)]
    assert len(set(results)) == 4


@every_draw
def test_the_slices_of_replicas_make_up_the_whole(draw):
    whole = drawn(draw, batch=12)
    for num_replicas in (2, 3, 4):
        batch = 12 // num_replicas
        parts = [
            drawn(draw, batch=batch, replica=replica, num_replicas=num_replicas) for replica in range(num_replicas)
        ]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
        tensors = [
            drawn(draw, batch=batch, replica=tf.constant(replica), num_replicas=num_replicas)
            for replica in range(num_replicas)
        ]
        assert np.concatenate(tensors).tobytes() == whole.tobytes()


@every_draw
def test_tensors_as_arguments_change_nothing(draw):
    expected = drawn(draw)
    assert drawn(draw, step=tf.constant(2, tf.int64), purpose=tf.constant(3, tf.int64)).tobytes() == expected.tobytes()
    assert drawn(draw, step=tf.Variable(2, dtype=tf.int64)).tobytes() == expected.tobytes()


@every_draw
def test_a_graph_and_xla_draw_what_eager_execution_draws(draw):
    def function(step):
        with randomness.scope(1, step, 3):
            return draw(4), draw(4)

    with randomness.scope(1, 2, 3):
        expected = [draw(4).numpy(), draw(4).numpy()]
    for jit_compile in (False, True):
        results = tf.function(function, jit_compile=jit_compile)(tf.constant(2, tf.int64))
        for result, value in zip(results, expected, strict=True):
            # XLA's logarithm and square root differ in the last bits; the underlying bits do not.
            np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-6)


def test_draws_have_the_distribution_they_claim():
    with randomness.scope(0, 0, 0):
        normal = randomness.normal([50_000]).numpy()
        uniform = randomness.uniform([50_000], -0.5, 0.5).numpy()
        integers = randomness.integers([50_000], -2, 3).numpy()
    assert normal.dtype == uniform.dtype == np.float32 and integers.dtype == np.int32
    assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02
    assert abs(uniform.mean()) < 0.01 and uniform.min() >= -0.5 and uniform.max() < 0.5 and uniform.max() > 0.49
    values, counts = np.unique(integers, return_counts=True)
    assert list(values) == [-2, -1, 0, 1, 2]
    assert np.abs(counts / 50_000 - 0.2).max() < 0.02


def test_a_draw_outside_a_scope_says_what_to_do():
    with pytest.raises(ValueError, match="randomness.scope"):
        randomness.normal([2])
    with pytest.raises(RuntimeError), randomness.scope(0, 0, 0):
        raise RuntimeError
    with pytest.raises(ValueError, match="randomness.scope"):  # the scope is left even through an exception
        randomness.normal([2])


def test_an_inner_scope_leaves_the_outer_one_where_it_was():
    with randomness.scope(0, 0, 0):
        expected = [randomness.normal([3]).numpy(), randomness.normal([3]).numpy()]
    with randomness.scope(0, 0, 0):
        first = randomness.normal([3]).numpy()
        with randomness.scope(5, 5, 5):
            randomness.normal([3])
        second = randomness.normal([3]).numpy()
    np.testing.assert_array_equal([first, second], expected)


def test_a_latent_is_a_function_of_its_seed_alone():
    seeds = np.array([0, 1, 2, -5, 2**40, 2**62], np.int64)
    whole = randomness.latents(tf.constant(seeds), 16).numpy()
    assert whole.shape == (6, 16) and whole.dtype == np.float32
    for index, seed in enumerate(seeds):
        assert randomness.latents(tf.constant([seed]), 16).numpy()[0].tobytes() == whole[index].tobytes()
    reverse = randomness.latents(tf.constant(seeds[::-1].copy()), 16).numpy()
    assert reverse[::-1].tobytes() == whole.tobytes()
    assert len({row.tobytes() for row in whole}) == len(seeds)


def test_latents_are_standard_normal_across_neighbouring_seeds():
    z = randomness.latents(tf.range(500, dtype=tf.int64), 32).numpy()
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    neighbours = np.mean(z[1:] * z[:-1])
    assert abs(neighbours) < 0.03, "latents of neighbouring seeds are correlated"


def test_latents_are_the_same_under_xla_and_in_a_graph():
    seeds = tf.range(7, 10, dtype=tf.int64)
    expected = randomness.latents(seeds, 8).numpy()
    for jit_compile in (False, True):
        function = tf.function(lambda values: randomness.latents(values, 8), jit_compile=jit_compile)
        np.testing.assert_allclose(function(seeds), expected, rtol=1e-5, atol=1e-6)


def test_the_draws_of_a_step_do_not_repeat_the_latents_that_sampling_uses():
    latent = randomness.latents(tf.constant([0], tf.int64), 8).numpy()[0]
    for purpose in range(4):
        with randomness.scope(0, 0, purpose):
            assert not np.isclose(randomness.normal([4, 8]).numpy(), latent).any()
