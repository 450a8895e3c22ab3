"""FastGAN (Liu et al. 2021), the zoo's `fastgan` variant `standard`, up to 256 px."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.twins.layers import SpectralConv2d, SpectralConvTranspose2d

# Channels by side of the map over `base_filters`; the maps that gate others.
GENERATOR = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5}
DISCRIMINATOR = {8: 8, 16: 4, 32: 2, 64: 1, 128: 0.5, 256: 0.25}
DECODER = {16: 2, 32: 1, 64: 1, 128: 0.5}
EXCITED = {64: 4, 128: 8, 256: 16}
GATED = {32: 256, 16: 128, 8: 64}
NOISY = (8, 32, 128)


def small_side(side):
    """Returns the side of the small image."""
    return min(128, side // 2)


def _convolution(before, width, kernel, stride=1, padding=None):
    padding = (kernel - 1) // 2 if padding is None else padding
    return SpectralConv2d(before, width, kernel, stride, padding, bias=False)


class Noise(nn.Module):
    """Adds noise of one channel times a learned scalar."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + self.weight * torch.randn(x.shape[0], 1, *x.shape[2:])


class Excitation(nn.Module):
    """A small map gates the channels of a large one."""

    def __init__(self, before, width):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), _convolution(before, width, 4, padding=0), nn.SiLU(), _convolution(width, width, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, small, large):
        return large * self.gate(small)


def up_block(before, width, noisy):
    """Nearest x2, then one or two of conv3, [noise,] BN, GLU."""
    rows = [nn.Upsample(scale_factor=2)]
    for _ in range(2 if noisy else 1):
        noise = [Noise()] if noisy else []
        rows += [_convolution(before, 2 * width, 3), *noise, nn.BatchNorm2d(2 * width), nn.GLU(1)]
        before = width
    return nn.Sequential(*rows)


class Generator(nn.Module):
    """z -> (image, small image)."""

    def __init__(self, side, latent_dim=256, base_filters=64):
        super().__init__()
        widths = {key: max(1, int(factor * base_filters)) for key, factor in GENERATOR.items() if key <= side}
        self.sides, self.small_side = [key for key in widths if key > 4], small_side(side)
        self.start = nn.Sequential(
            nn.Unflatten(1, (latent_dim, 1, 1)), SpectralConvTranspose2d(latent_dim, 2 * widths[4], 4, bias=False),
            nn.BatchNorm2d(2 * widths[4]), nn.GLU(1),
        )  # fmt: skip
        self.blocks = nn.ModuleList(up_block(widths[key // 2], widths[key], key in NOISY) for key in self.sides)
        self.excitations = nn.ModuleDict(
            {str(key): Excitation(widths[EXCITED[key]], widths[key]) for key in self.sides if key in EXCITED}
        )
        self.to_small_image = _convolution(widths[self.small_side], 3, 1)
        self.to_image = _convolution(widths[side], 3, 3)

    def forward(self, z):
        x = self.start(z)
        maps = {4: x}
        for side, block in zip(self.sides, self.blocks):
            x = block(x)
            if side in EXCITED:
                x = self.excitations[str(side)](maps[EXCITED[side]], x)
            maps[side] = x
        return torch.tanh(self.to_image(x)), torch.tanh(self.to_small_image(maps[self.small_side]))


class DownBlock(nn.Module):
    """The mean of two ways down: convolutions of 4 and 3, and an average pool with a convolution of 1."""

    def __init__(self, before, width):
        super().__init__()
        self.main = nn.Sequential(
            _convolution(before, width, 4, 2), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, True),
            _convolution(width, width, 3), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, True),
        )  # fmt: skip
        self.direct = nn.Sequential(
            nn.AvgPool2d(2), _convolution(before, width, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, True)
        )

    def forward(self, x):
        return (self.main(x) + self.direct(x)) / 2


def decoder(before, side, base_filters):
    """A map of 8x8 back to an image."""
    rows = []
    for key in (key for key in DECODER if key <= side):
        width = max(1, int(DECODER[key] * base_filters))
        rows += [nn.Upsample(scale_factor=2), _convolution(before, 2 * width, 3), nn.BatchNorm2d(2 * width), nn.GLU(1)]
        before = width
    return nn.Sequential(*rows, _convolution(before, 3, 3), nn.Tanh())


class Discriminator(nn.Module):
    """(image, small image) -> logits `[n, 50]`, and what the decoders rebuild where quadrants are given."""

    def __init__(self, side, base_filters=64):
        super().__init__()
        widths = {key: max(1, int(factor * base_filters)) for key, factor in DISCRIMINATOR.items() if key <= side}
        self.side, self.sides = side, [key for key in (128, 64, 32, 16, 8) if key < side]
        self.stem = nn.Sequential(_convolution(3, widths[side], 3), nn.LeakyReLU(0.2, True))
        self.blocks = nn.ModuleList(DownBlock(widths[2 * key], widths[key]) for key in self.sides)
        self.excitations = nn.ModuleDict(
            {
                str(key): Excitation(widths[GATED[key]], widths[key])
                for key in self.sides
                if GATED.get(key, side + 1) <= side
            }
        )
        self.logits = nn.Sequential(
            _convolution(widths[8], 16 * base_filters, 1), nn.BatchNorm2d(16 * base_filters), nn.LeakyReLU(0.2, True),
            _convolution(16 * base_filters, 1, 4, padding=0), nn.Flatten(),
        )  # fmt: skip
        branch = [base_filters * 32 // key for key in (64, 32, 16, 8) if key < small_side(side)]
        rows = [_convolution(3, branch[0], 4, 2), nn.LeakyReLU(0.2, True)]
        for before, width in zip(branch, branch[1:]):
            rows += [_convolution(before, width, 4, 2), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, True)]
        self.small = nn.Sequential(*rows)
        self.small_logits = nn.Sequential(_convolution(branch[-1], 1, 4, padding=0), nn.Flatten())
        decoded = min(128, side)
        self.decode_big = decoder(widths[8], decoded, base_filters)
        self.decode_part = decoder(widths[16], decoded, base_filters)
        self.decode_small = decoder(branch[-1], decoded, base_filters)

    def forward(self, image, small_image, quadrant=None):
        x = self.stem(image)
        maps = {self.side: x}
        for side, block in zip(self.sides, self.blocks):
            x = block(x)
            if str(side) in self.excitations:
                x = self.excitations[str(side)](maps[GATED[side]], x)
            maps[side] = x
        small = self.small(small_image)
        logits = torch.cat([self.logits(x), self.small_logits(small)], 1)
        if quadrant is None:
            return logits
        return logits, (self.decode_big(x), self.decode_small(small), self.decode_part(cut(maps[16], quadrant)))


def cut(maps, quadrant):
    """Returns a quadrant of each map: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    half = maps.shape[2] // 2
    which = quadrant.view(-1, 1, 1, 1)
    rows = torch.where(which < 2, maps[:, :, :half], maps[:, :, half:])
    return torch.where(which % 2 == 0, rows[..., :half], rows[..., half:])


def distorted(images):
    """DiffAugment's colour and translation (Zhao et al. 2020)."""
    count, _, height, width = images.shape
    images = images + torch.rand(count, 1, 1, 1) - 0.5
    gray = images.mean(1, keepdim=True)
    images = (images - gray) * (2 * torch.rand(count, 1, 1, 1)) + gray
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (torch.rand(count, 1, 1, 1) + 0.5) + mean
    most = int(height * 0.125 + 0.5)
    rows = torch.arange(height)[None] + torch.randint(0, 2 * most + 1, (count, 1))
    columns = torch.arange(width)[None] + torch.randint(0, 2 * most + 1, (count, 1))
    padded = functional.pad(images, (most,) * 4)
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
