"""Trainable parameters against the papers' and documents' tables (design/architectures.md): the cheapest fidelity check."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gc

import numpy as np
import pytest

import zoo

# architecture, side, channels, arguments, generator's parameters, discriminator's
TABLE = [
    ("dcgan", 32, 3, {}, 1_466_883, 925_057),
    ("dcgan", 32, 3, {"variant": "keras32", "latent_dim": 100}, 1_466_883, 925_057),
    ("dcgan", 64, 3, {}, 3_576_704, 2_765_568),
    ("dcgan", 64, 3, {"variant": "torch64", "latent_dim": 100}, 3_576_704, 2_765_568),
    ("sngan", 32, 3, {}, 3_812_355, 2_935_873),
    ("sngan", 48, 3, {"variant": "cnn"}, 5_133_315, 2_946_113),
    ("sngan", 32, 3, {"variant": "resnet"}, 4_276_739, 1_053_824),
]


def counts(model):
    return tuple(
        sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
        for network in (model.generator, model.discriminator)
    )


@pytest.mark.parametrize(("name", "side", "channels", "arguments", "generator", "discriminator"), TABLE)
def test_the_networks_have_the_parameters_of_the_table(name, side, channels, arguments, generator, discriminator):
    model = zoo.create(name, (side, side, channels), **arguments)
    assert counts(model) == (generator, discriminator)


def test_the_painters_discriminator_with_a_flat_head_has_the_documents_137_million():
    # Its half gigabyte is freed at once.
    model = zoo.create("sngan", (128, 128, 3), variant="dense_head", head_pooling="flatten")
    assert model.latent_dim == 100
    assert counts(model) == (15_993_859, 137_150_273)
    del model
    gc.collect()


def test_pooling_takes_the_134_million_out_of_the_painters_head():
    model = zoo.create("sngan", (128, 128, 3), variant="dense_head")
    # Dense 1024 on 512 pooled features in place of 16 * 16 * 512.
    assert counts(model) == (15_993_859, 137_150_273 - (16 * 16 * 512 - 512) * 1024)


@pytest.mark.parametrize(("side", "channels"), [(32, 1), (32, 4)])
def test_other_channels_change_only_the_first_and_last_convolutions(side, channels):
    reference, model = zoo.create("dcgan", (side, side, 3)), zoo.create("dcgan", (side, side, channels))
    (generator, discriminator), (other_generator, other_discriminator) = counts(reference), counts(model)
    assert other_generator - generator == (channels - 3) * (3 * 3 * 128 + 1)
    assert other_discriminator - discriminator == (channels - 3) * 3 * 3 * 64


def test_above_128_px_the_width_of_dcgan_stops_doubling():
    model = zoo.create("dcgan", (256, 256, 3), base_filters=4)
    widest = max(variable.shape[-1] for variable in model.discriminator.trainable_variables if len(variable.shape) == 4)
    assert widest == 16 * 4
    assert model.generate(np.zeros((1, 100), np.float32)).shape == (1, 256, 256, 3)


@pytest.mark.parametrize("side", [32, 48, 64, 128])
def test_every_residual_network_has_one_block_a_doubling(side):
    model = zoo.create("sngan", (side, side, 3), variant="resnet", base_filters=2)
    start = {32: 4, 48: 6, 64: 4, 128: 4}[side]
    assert start * 2 ** len(model.generator.blocks) == side
    assert len(model.discriminator.blocks) == {32: 4, 48: 5, 64: 5, 128: 6}[side]
    assert not [variable for variable in model.discriminator.trainable_variables if "batch_norm" in variable.path]
    assert not model.discriminator.logit.use_bias
