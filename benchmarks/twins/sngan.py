"""SN-GAN of Miyato et al. 2018 at 32 px: tables 3 (`cnn`) and 4 (`resnet`)."""

from torch import nn
from torch.nn import functional

from benchmarks.twins.layers import SpectralConv2d, SpectralLinear


def cnn_generator(side, latent_dim=128, base_filters=64):
    """Table 3, left."""
    start = side // 8
    rows = [nn.Linear(latent_dim, start * start * 8 * base_filters), nn.Unflatten(1, (8 * base_filters, start, start))]
    for before, width in ((8, 4), (4, 2), (2, 1)):
        rows += [nn.ConvTranspose2d(before * base_filters, width * base_filters, 4, 2, 1)]
        rows += [nn.BatchNorm2d(width * base_filters), nn.ReLU(True)]
    return nn.Sequential(*rows, nn.Conv2d(base_filters, 3, 3, padding=1), nn.Tanh())


def cnn_discriminator(side, base_filters=64):
    """Table 3, right."""
    rows, before = [], 3
    for width, kernel, stride in ((1, 3, 1), (1, 4, 2), (2, 3, 1), (2, 4, 2), (4, 3, 1), (4, 4, 2), (8, 3, 1)):
        rows += [SpectralConv2d(before, width * base_filters, kernel, stride, 1), nn.LeakyReLU(0.1, True)]
        before = width * base_filters
    return nn.Sequential(*rows, nn.Flatten(), SpectralLinear((side // 8) ** 2 * before, 1), nn.Flatten(0))


class UpBlock(nn.Module):
    """BN, ReLU, nearest x2, conv3, BN, ReLU, conv3, beside conv1 and nearest x2."""

    def __init__(self, before, width):
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(before), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(before, width, 3, padding=1),
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(before, width, 1)

    def forward(self, x):
        return self.residual(x) + functional.interpolate(self.shortcut(x), scale_factor=2)


def resnet_generator(side, latent_dim=128, base_filters=64):
    """Table 4, left, 32 px: three blocks of 4 `base_filters`."""
    width, start = 4 * base_filters, side // 8
    return nn.Sequential(
        nn.Linear(latent_dim, start * start * width), nn.Unflatten(1, (width, start, start)),
        *(UpBlock(width, width) for _ in range(3)),
        nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1), nn.Tanh(),
    )  # fmt: skip


class DownBlock(nn.Module):
    """[ReLU,] conv3, ReLU, conv3 [, average pool] beside a shortcut of [pool,] conv1."""

    def __init__(self, before, width, downsample, first):
        super().__init__()
        self.first = SpectralConv2d(before, width, 3, padding=1)
        self.second = SpectralConv2d(width, width, 3, padding=1)
        self.shortcut = SpectralConv2d(before, width, 1) if downsample or before != width else nn.Identity()
        self.pool = nn.AvgPool2d(2) if downsample else nn.Identity()
        self.starts_with_relu = not first

    def forward(self, x):
        residual = functional.relu(x) if self.starts_with_relu else x
        residual = self.second(functional.relu(self.first(residual)))
        return self.pool(residual) + self.shortcut(self.pool(x))


class ResnetDiscriminator(nn.Module):
    """Table 4, right, 32 px: four blocks of 2 `base_filters`, two of which halve the side; sum pooling."""

    def __init__(self, side, base_filters=64):
        super().__init__()
        width = 2 * base_filters
        self.blocks = nn.Sequential(
            DownBlock(3, width, True, first=True),
            *(DownBlock(width, width, downsample, first=False) for downsample in (True, False, False)),
        )
        self.logit = SpectralLinear(width, 1, bias=False)

    def forward(self, images):
        return self.logit(functional.relu(self.blocks(images)).sum((2, 3)))[:, 0]
