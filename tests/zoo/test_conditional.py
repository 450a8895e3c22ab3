"""Conditional models, over every architecture that takes `num_classes`: what labels do, and what is refused."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo import checkpoint
from zoo.layers import ConditionalBatchNormalization, LabelProjection

NUM_CLASSES, BATCH = 3, 6
TINY = {"base_filters": 4, "latent_dim": 8, "discriminator_steps": 1, "reconstruction": "multiscale_l1"}
CONDITIONAL = [
    (name, variant)
    for name in zoo.names()
    if "num_classes" in zoo.describe(name).parameters
    for variant in zoo.describe(name).recipes
]
FIRST = {name: next(iter(zoo.describe(name).recipes)) for name, _ in CONDITIONAL}
every_variant = pytest.mark.parametrize(
    ("name", "variant"),
    [
        pytest.param(name, variant, id=f"{name}-{variant}", marks=[] if FIRST[name] == variant else [pytest.mark.slow])
        for name, variant in CONDITIONAL
    ],
)


def compiled(name, variant, initial_weights=0, **changes):
    card = zoo.describe(name)
    side = min(card.recipes[variant].sizes)
    keras.utils.set_random_seed(initial_weights)
    tiny = {key: value for key, value in TINY.items() if key in card.parameters}
    model = zoo.create(name, (side, side, 3), variant=variant, num_classes=NUM_CLASSES, **(tiny | changes))
    model.compile(steps=100, steps_per_epoch=10, jit_compile=False)
    return model


def batch_at(model, step):
    generator = np.random.default_rng([3, step])
    images = generator.uniform(-1, 1, (BATCH, *model.image_shape)).astype(np.float32)
    return tf.constant(images), tf.constant(np.arange(BATCH) % NUM_CLASSES, tf.int64)


def eager_step(model):
    tf.config.run_functions_eagerly(True)
    try:
        return {name: float(value) for name, value in model.train_step(batch_at(model, int(model.step))).items()}
    finally:
        tf.config.run_functions_eagerly(False)


def values(model):
    return {
        key: np.asarray(keras.ops.convert_to_numpy(variable)).copy()
        for key, variable in checkpoint.variables(model).items()
    }


@functools.cache
def run_of(name, variant):
    """A model after three steps, and its values after each."""
    model = compiled(name, variant)
    history, logs = [values(model)], []
    for _ in range(3):
        logs.append(eager_step(model))
        history.append(values(model))
    return model, history, logs


@every_variant
def test_labels_change_the_image_and_cycle_over_the_seeds(name, variant):
    model = run_of(name, variant)[0]
    images = [model.sample(2, seed=4, labels=label) for label in range(NUM_CLASSES)]
    for one in range(NUM_CLASSES):
        for two in range(one):
            assert np.abs(images[one] - images[two]).max() > 1e-6, "the label changes nothing"
    # Seed s has the label s modulo the number of classes: 4 and 5 have 1 and 2.
    cycled = model.sample(2, seed=4)
    np.testing.assert_allclose(cycled[0], images[1][0], atol=1e-5)
    np.testing.assert_allclose(cycled[1], images[2][1], atol=1e-5)
    np.testing.assert_allclose(model.sample(2, seed=4, labels=[1, 2]), cycled, atol=1e-5)


@every_variant
def test_every_trainable_weight_moves_and_so_does_the_row_of_every_class(name, variant):
    model, history, logs = run_of(name, variant)
    assert all(np.isfinite(value) for step in logs for value in step.values())
    trainable = {id(variable) for network in model.networks.values() for variable in network.trainable_variables}
    for key, variable in checkpoint.variables(model, networks_only=True).items():
        if id(variable) in trainable:
            assert not np.array_equal(history[0][key], history[3][key]), key
        if "class_" in key and id(variable) in trainable:
            still = [np.array_equal(*rows) for rows in zip(history[0][key], history[3][key], strict=True)]
            assert len(still) == NUM_CLASSES and not any(still), key
    assert any("class_gamma" in key for key in history[0])


@every_variant
def test_the_discriminator_judges_by_class(name, variant):
    model = run_of(name, variant)[0]
    images, labels = batch_at(model, 0)
    logits = model.discriminate(images, labels)
    assert logits.shape == (BATCH,) and logits.dtype == tf.float32
    assert np.abs(logits - model.discriminate(images, (labels + 1) % NUM_CLASSES)).max() > 1e-7


@every_variant
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, name, variant):
    first = compiled(name, variant)
    for _ in range(2):
        eager_step(first)
    path = checkpoint.save(first, tmp_path)
    resumed = compiled(name, variant, initial_weights=99)
    checkpoint.load(resumed, path)
    _, history, logs = run_of(name, variant)
    assert eager_step(resumed) == logs[2]
    for key, value in values(resumed).items():
        assert value.tobytes() == history[3][key].tobytes(), key


@every_variant
def test_wrong_labels_and_data_are_refused(name, variant):
    model = run_of(name, variant)[0]
    images, labels = batch_at(model, 0)
    with pytest.raises(ValueError, match="from 0 to 2. Received: 3 to 3"):
        model.sample(1, labels=3)
    with pytest.raises(ValueError, match="one for each of the 2 images"):
        model.sample(2, labels=[0, 1, 2])
    with pytest.raises(ValueError, match="one integer"):
        model.sample(1, labels=0.5)
    with pytest.raises(ValueError, match="`labels` must be given"):
        model.generate(tf.zeros([1, model.latent_dim]))
    with pytest.raises(ValueError, match="trained on .images, labels."):
        model.train_step(images)


def test_an_unconditional_model_refuses_labels():
    model = zoo.create("dcgan", (8, 8, 3), base_filters=4, latent_dim=4)
    model.compile(jit_compile=False)
    with pytest.raises(ValueError, match="takes no labels"):
        model.sample(1, labels=0)
    with pytest.raises(ValueError, match="a tuple of 2 for num_classes=None"):
        model.train_step((tf.zeros([2, 8, 8, 3]), tf.zeros([2], tf.int64)))
    with pytest.raises(ValueError, match="`num_classes` must be at least 2"):
        zoo.create("dcgan", (8, 8, 3), num_classes=1)


def test_a_network_that_takes_no_labels_cannot_be_conditional(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('''
import keras
from zoo.adversarial import GAN
from zoo.registry import register

@register("no_labels")
class NoLabels(GAN):
    """Takes none."""
    def __init__(self, image_shape, **gan_options):
        super().__init__(image_shape, **gan_options)
        self.build_networks()
    def build_generator(self):
        return keras.Sequential([keras.layers.Dense(192), keras.layers.Reshape(self.image_shape)], name="generator")
    def build_discriminator(self):
        return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1), keras.layers.Reshape(())])
''')
    with pytest.raises(ValueError, match="the call of its generator takes no `labels`"):
        zoo.create(f"{path}:NoLabels", (8, 8, 3), num_classes=2)


# The layers.


def test_conditional_batch_norm_scales_and_shifts_by_class():
    layer = ConditionalBatchNormalization(3, epsilon=0.0)
    x = np.random.default_rng(0).normal(2, 3, (64, 2, 2, 5)).astype(np.float32)
    labels = np.arange(64) % 3
    plain = layer(x, labels=labels, training=True).numpy()
    expected = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))
    np.testing.assert_allclose(plain, expected, atol=1e-4)
    gamma, beta = np.arange(15.0).reshape(3, 5), -np.arange(15.0).reshape(3, 5)
    layer.class_gamma.assign(gamma)
    layer.class_beta.assign(beta)
    changed = layer(x, labels=labels, training=True).numpy()
    np.testing.assert_allclose(
        changed, expected * gamma[labels][:, None, None] + beta[labels][:, None, None], rtol=1e-3, atol=1e-2
    )
    again = ConditionalBatchNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_the_projection_is_the_inner_product_with_the_row_of_the_label(spectral_norm):
    layer = LabelProjection(4, spectral_norm)
    features = np.random.default_rng(0).normal(size=(5, 2, 2, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0])
    scores = layer(features, labels).numpy()
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.embedding.kernel))  # normalized, where it is
    np.testing.assert_allclose(scores, (features.sum((1, 2)) / 2 * kernel[labels]).sum(1), rtol=1e-5, atol=1e-6)
