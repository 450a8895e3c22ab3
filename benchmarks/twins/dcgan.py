"""DCGAN of the PyTorch tutorial, 64 px, and of the Keras tutorials, 32 px: the zoo's `torch64` and `keras32`."""

import torch
from torch import nn


def generator(side, latent_dim=100, base_filters=64):
    """Returns the network from z `[n, latent_dim]` to images `[n, 3, side, side]`."""
    widths = [base_filters * 2**power for power in reversed(range(side.bit_length() - 3))]
    rows = [nn.Unflatten(1, (latent_dim, 1, 1)), nn.ConvTranspose2d(latent_dim, widths[0], 4, bias=False)]
    for width, following in zip(widths, [*widths[1:], 3], strict=True):
        rows += [nn.BatchNorm2d(width), nn.ReLU(True), nn.ConvTranspose2d(width, following, 4, 2, 1, bias=False)]
    return _initialized(nn.Sequential(*rows, nn.Tanh()))


def discriminator(side, base_filters=64):
    """Returns the network from images to logits `[n]`."""
    widths = [base_filters * 2**power for power in range(side.bit_length() - 3)]
    rows = [nn.Conv2d(3, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for before, width in zip(widths, widths[1:]):
        rows += [nn.Conv2d(before, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, True)]
    return _initialized(nn.Sequential(*rows, nn.Conv2d(widths[-1], 1, 4, bias=False), nn.Flatten(0)))


def keras_generator(side, latent_dim=100, base_filters=64):
    """Returns the network of `keras32`: dense start at 4x4, a transposed convolution a doubling, biases throughout."""
    start, width = 4 * base_filters, 2 * base_filters
    rows = [nn.Linear(latent_dim, 4 * 4 * start), nn.LeakyReLU(0.2, True), nn.Unflatten(1, (start, 4, 4))]
    before = start
    for _ in range(side.bit_length() - 3):
        rows += [nn.ConvTranspose2d(before, width, 4, 2, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, True)]
        before = width
    return nn.Sequential(*rows, nn.Conv2d(before, 3, 3, padding=1), nn.Tanh())


def keras_discriminator(side, base_filters=64):
    """Returns the network of `keras32` from images to logits `[n]`: batch norm throughout, dropout before the logit."""
    halvings = side.bit_length() - 3
    widths = [2 * base_filters] * (halvings - 1) + [4 * base_filters]
    rows, before = [], 3
    for width, kernel, stride in ((base_filters, 3, 1), *((width, 4, 2) for width in widths)):
        rows += [nn.Conv2d(before, width, kernel, stride, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, True)]
        before = width
    return nn.Sequential(*rows, nn.Flatten(), nn.Dropout(0.4), nn.Linear(4 * 4 * before, 1), nn.Flatten(0))


@torch.no_grad()
def _initialized(network):
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.normal_(0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.normal_(1.0, 0.02)
    return network
