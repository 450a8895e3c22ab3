"""The warnings of `training.health`, each provoked by a training that goes wrong in that way, and silent in a sound one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from training import health


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    monkeypatch.setattr(health, "WINDOW", 50)


def images(count=64, side=8):
    """Smooth pictures of many colours."""
    coarse = np.random.default_rng(0).uniform(-1, 1, (count, 2, 2, 3)).astype(np.float32)
    return coarse.repeat(side // 2, 1).repeat(side // 2, 2)


def lines_of(model, steps, every=50, reals=None):
    reals = images() if reals is None else reals
    lines = []
    watch = health.Health(reals, lambda: model.sample(len(reals)), every, tell=lines.append)
    record = []
    log = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: record.append(dict(logs)))
    data = tf.data.Dataset.from_tensor_slices(reals).repeat().batch(16, drop_remainder=True)
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False, callbacks=[watch, log])
    return lines, record


def gan(**changes):
    keras.utils.set_random_seed(0)
    model = zoo.create("gan", (8, 8, 3), base_filters=16, latent_dim=8, ema_decay=0.5)
    model.compile(**changes, jit_compile=False)
    return model


def adam(rate):
    return keras.optimizers.Adam(rate, beta_1=0.5)


def test_a_discriminator_that_has_won_is_told_once():
    model = gan(d_optimizer=adam(2e-3), g_optimizer=adam(1e-12))  # a generator that cannot answer
    lines, record = lines_of(model, 250)
    won = [line for line in lines if "tells real from generated" in line]
    assert len(won) == 1 and "--augment" in won[0]
    assert record[-1]["d_real_accuracy"] > 0.95 and record[-1]["d_fake_accuracy"] > 0.95


def test_samples_that_collapse_are_told_once():
    model = gan(d_optimizer=adam(2e-4), g_optimizer=adam(2e-4))
    model.generate = lambda z, labels=None: tf.zeros([tf.shape(z)[0], 8, 8, 3]) + 1e-3 * z[:, :1, None, None]
    lines, record = lines_of(model, 150)
    assert len([line for line in lines if "nearly all the same picture" in line]) == 1
    assert record[-1]["sample_diversity"] < 0.1


def test_losses_that_have_gone_flat_are_told_once():
    model = gan(d_optimizer=adam(1e-4), g_optimizer=adam(1e-4))
    step = model.train_step

    def frozen(data):
        return {name: 0 * value + 1.0 for name, value in step(data).items()}

    model.train_step = frozen
    lines, _ = lines_of(model, 150)
    assert len([line for line in lines if "do not move" in line]) == 1


def test_a_sound_training_is_told_nothing_and_its_diversity_is_logged():
    model = gan(d_optimizer=adam(2e-4), g_optimizer=adam(2e-4))
    lines, record = lines_of(model, 150)
    assert lines == []
    assert 0.05 < record[-1]["sample_diversity"] < 3
    assert {"d_real_accuracy", "d_fake_accuracy", "d_gradient_norm", "g_gradient_norm"} <= record[-1].keys()


def test_the_diversity_is_the_mean_root_mean_squared_difference():
    rows = np.random.default_rng(0).normal(size=(6, 4, 4, 1))
    pairs = [np.sqrt(np.mean((rows[i] - rows[j]) ** 2)) for i in range(6) for j in range(6) if i != j]
    np.testing.assert_allclose(health.diversity(rows), np.mean(pairs), rtol=1e-9)
    assert health.diversity(np.ones((5, 2, 2, 3))) == 0


def test_images_that_are_all_alike_leave_the_diversity_out():
    model = gan(d_optimizer=adam(2e-4), g_optimizer=adam(2e-4))
    lines, record = lines_of(model, 60, reals=np.zeros((16, 8, 8, 3), np.float32))
    assert "sample_diversity" not in record[-1] and not lines


def test_gradient_norms_are_those_of_the_gradients():
    model = gan(d_optimizer=adam(2e-4), g_optimizer=adam(2e-4))
    gradients, logs = model.discriminator_gradients(tf.constant(images(8)), tf.constant(0, tf.int64))
    expected = np.sqrt(sum(float(tf.reduce_sum(tf.square(gradient))) for gradient in gradients))
    np.testing.assert_allclose(logs["d_gradient_norm"], expected, rtol=1e-5)
