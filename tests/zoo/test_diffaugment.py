"""DiffAugment against a NumPy version of the formulae that is given the same draws."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from zoo import diffaugment, randomness, recipe

BATCH, SIDE = 6, 16


def pictures(channels=3, batch=BATCH, side=SIDE):
    generator = np.random.default_rng(0)
    # Nothing is exactly 0, so that a zero in a result was put there.
    return generator.uniform(0.1, 1.0, (batch, side, side, channels)).astype(np.float32)


def within(function, *arguments, step=0):
    with randomness.scope(3, step, 0):
        return function(*arguments)


def transformed(function, images, step=0):
    return within(function, tf.constant(images), step=step).numpy()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_color_is_brightness_then_saturation_then_contrast(channels):
    images = pictures(channels)

    def draws():
        shape = [BATCH, 1, 1, 1]
        return (
            randomness.uniform(shape, -0.5, 0.5),
            randomness.uniform(shape, 0.0, 2.0),
            randomness.uniform(shape, 0.5, 1.5),
        )

    brightness, saturation, contrast = (draw.numpy().astype(np.float64) for draw in within(draws))
    expected = images + brightness
    gray = expected.mean(axis=3, keepdims=True)
    expected = (expected - gray) * saturation + gray
    mean = expected.mean(axis=(1, 2, 3), keepdims=True)
    expected = (expected - mean) * contrast + mean
    np.testing.assert_allclose(transformed(diffaugment.color, images), expected, atol=2e-6)


def shifts(step=0):
    """The draws of `translation`: up to an eighth of the side, both ways."""
    reach = SIDE // 8

    def draws():
        return randomness.integers([BATCH], -reach, reach + 1), randomness.integers([BATCH], -reach, reach + 1)

    return [draw.numpy() for draw in within(draws, step=step)]


def test_translation_shifts_each_image_by_its_draws_and_lets_zeros_in():
    images = pictures()
    seen = set()
    for step in range(10):
        rows, columns = shifts(step)
        result = transformed(diffaugment.translation, images, step)
        for image, out, down, right in zip(images, result, rows, columns, strict=True):
            expected = np.zeros_like(image)
            expected[max(down, 0) : SIDE + min(down, 0), max(right, 0) : SIDE + min(right, 0)] = image[
                max(-down, 0) : SIDE + min(-down, 0), max(-right, 0) : SIDE + min(-right, 0)
            ]
            np.testing.assert_array_equal(out, expected)
            seen |= {("down", down), ("right", right)}
    reach = SIDE // 8
    assert seen == {(way, offset) for way in ("down", "right") for offset in range(-reach, reach + 1)}


def test_cutout_zeroes_half_the_side_around_a_centre_in_the_image():
    images = pictures()
    for step in range(10):

        def draws():
            return randomness.integers([BATCH], 0, SIDE), randomness.integers([BATCH], 0, SIDE)

        rows, columns = (draw.numpy() for draw in within(draws, step=step))
        result = transformed(diffaugment.cutout, images, step)
        half = SIDE // 4
        for image, out, row, column in zip(images, result, rows, columns, strict=True):
            expected = image.copy()
            expected[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 0
            np.testing.assert_array_equal(out, expected)
            hole = (out == 0).all(axis=-1)
            assert SIDE // 4 <= hole.any(axis=0).sum() <= SIDE // 2
            assert SIDE // 4 <= hole.any(axis=1).sum() <= SIDE // 2
            assert hole.sum() == hole.any(axis=0).sum() * hole.any(axis=1).sum(), "the hole is a rectangle"


def test_a_hole_wholly_inside_has_exactly_a_quarter_of_the_area():
    areas = []
    for step in range(20):
        result = transformed(diffaugment.cutout, pictures(), step)
        areas += list((result == 0).all(axis=-1).sum(axis=(1, 2)))
    assert max(areas) == (SIDE // 2) ** 2
    assert min(areas) >= (SIDE // 4) ** 2
    assert len(set(areas)) > 3, "no hole ever crosses the border"


every_policy = pytest.mark.parametrize("name", list(diffaugment.POLICIES))


@every_policy
def test_the_same_scope_distorts_real_and_fake_the_same_way_and_another_step_otherwise(name):
    function = diffaugment.POLICIES[name]
    images = pictures()
    assert transformed(function, images).tobytes() == transformed(function, images).tobytes()
    assert not np.array_equal(transformed(function, images), transformed(function, images, step=1))


@every_policy
def test_every_image_has_draws_of_its_own(name):
    same = np.repeat(pictures(batch=1), BATCH, axis=0)
    result = transformed(diffaugment.POLICIES[name], same)
    assert len({image.tobytes() for image in result}) > 2


@every_policy
def test_no_image_of_the_batch_leaks_into_another(name):
    images = pictures()
    changed = images.copy()
    changed[0] = 0.5
    function = diffaugment.POLICIES[name]
    np.testing.assert_array_equal(transformed(function, images)[1:], transformed(function, changed)[1:])


@every_policy
def test_the_gradient_is_that_of_finite_differences(name):
    function = diffaugment.POLICIES[name]
    images = pictures(side=8, batch=2)
    direction = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    weights = tf.constant(np.random.default_rng(2).normal(size=images.shape), tf.float32)

    def objective(x):
        return tf.reduce_sum(within(function, x) * weights)

    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = objective(x)
    gradient = tape.gradient(value, x)
    assert gradient is not None and np.abs(gradient).max() > 0
    # Every distortion is linear in the image for given draws: a large difference is exact.
    difference = (objective(x + direction) - objective(x - direction)) / 2
    np.testing.assert_allclose(tf.reduce_sum(gradient * direction), difference, rtol=1e-3, atol=1e-3)


@every_policy
def test_the_dtype_and_the_shape_are_kept(name):
    for dtype in (tf.float32, tf.bfloat16, tf.float16):
        images = tf.cast(tf.constant(pictures(channels=4)), dtype)
        result = within(diffaugment.POLICIES[name], images)
        assert result.dtype == dtype and result.shape == images.shape


@every_policy
def test_xla_gives_what_eager_execution_gives(name):
    images = tf.constant(pictures())
    compiled = tf.function(lambda x: within(diffaugment.POLICIES[name], x), jit_compile=True)
    np.testing.assert_allclose(compiled(images), transformed(diffaugment.POLICIES[name], pictures()), atol=1e-5)


def test_a_policy_applies_its_parts_in_turn_and_none_applies_nothing():
    images = tf.constant(pictures())

    def in_turn():
        return diffaugment.cutout(diffaugment.color(images))

    np.testing.assert_array_equal(within(diffaugment.augment, images, ["color", "cutout"]), within(in_turn))
    assert diffaugment.augment(images, recipe.parse_augment("none")) is images  # and outside a scope


def test_the_names_that_the_command_line_knows_are_those_that_exist():
    assert tuple(recipe.AUGMENTATIONS) == tuple(diffaugment.POLICIES)
    assert recipe.parse_augment(" color, cutout ") == ["color", "cutout"]
    assert recipe.parse_augment("none") == recipe.parse_augment("") == []
    with pytest.raises(ValueError, match="`augment` takes color, translation, cutout.*Received: 'colour'"):
        recipe.parse_augment("colour")
