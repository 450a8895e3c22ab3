"""VAE of the indoor-scenes document: five strided convolutions and back."""

import torch
from torch import nn


class VAE(nn.Module):
    """Encoder to mean and log variance, decoder from a draw."""

    def __init__(self, side, latent_dim=256, base_filters=32):
        super().__init__()
        rows, before = [], 3
        for power in range(5):
            width = base_filters * 2**power
            rows += [nn.Conv2d(before, width, 3, 2, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.01, True)]
            before = width
        start = side // 32
        self.encoder = nn.Sequential(*rows, nn.Flatten(), nn.Linear(start * start * before, 2 * latent_dim))
        rows = [nn.Linear(latent_dim, start * start * before), nn.Unflatten(1, (before, start, start))]
        for factor in (8, 4, 2, 1, 1):
            width = factor * base_filters
            rows += [nn.ConvTranspose2d(before, width, 3, 2, 1, output_padding=1)]
            rows += [nn.BatchNorm2d(width), nn.LeakyReLU(0.01, True)]
            before = width
        self.decoder = nn.Sequential(*rows, nn.Conv2d(before, 3, 3, padding=1), nn.Tanh())

    def forward(self, images):
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        log_variance = log_variance.clamp(-30.0, 20.0)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1).mean()
        return self.decoder(z), divergence
