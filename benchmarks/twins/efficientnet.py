"""EfficientNet-Lite0 with TensorFlow's "same" padding, and the antialiased bicubic resizing before it."""

import torch
from torch import nn
from torch.nn import functional

SIDE = 224
# kernel, repeats, filters, expansion, stride of the first
STAGES = (
    (3, 1, 16, 1, 1), (3, 2, 24, 6, 2), (5, 2, 40, 6, 2), (3, 3, 80, 6, 2), (5, 3, 112, 6, 1), (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)  # fmt: skip


def _convolution(before, width, kernel, stride=1, groups=1, activate=True):
    # "Same" for an even side: of stride 2, one column less on the left.
    total = kernel - stride
    padding = (total // 2, total - total // 2) * 2
    pad = [nn.ZeroPad2d(padding)] if total and stride == 2 else []
    convolution = nn.Conv2d(
        before, width, kernel, stride, 0 if stride == 2 else total // 2, groups=groups, bias=False
    )  # fmt: skip
    return nn.Sequential(
        *pad, convolution, nn.BatchNorm2d(width, eps=1e-3), *([nn.ReLU6(True)] if activate else [])
    )  # fmt: skip


class Block(nn.Module):
    """Inverted residual without squeeze and excitation."""

    def __init__(self, before, width, kernel, expansion, stride):
        super().__init__()
        wide = before * expansion
        rows = [_convolution(before, wide, 1)] if expansion > 1 else []
        rows += [_convolution(wide, wide, kernel, stride, wide), _convolution(wide, width, 1, activate=False)]
        self.rows, self.skips = nn.Sequential(*rows), before == width and stride == 1

    def forward(self, x):
        return x + self.rows(x) if self.skips else self.rows(x)


class EfficientNetLite0(nn.Module):
    """uint8 images `[n, 3, side, side]` -> features `[n, 1280]` and logits `[n, 1000]`."""

    def __init__(self):
        super().__init__()
        rows, before = [_convolution(3, 32, 3, 2)], 32
        for kernel, repeats, width, expansion, stride in STAGES:
            for repeat in range(repeats):
                rows.append(Block(before, width, kernel, expansion, stride if repeat == 0 else 1))
                before = width
        self.rows = nn.Sequential(*rows, _convolution(before, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.logits = nn.Linear(1280, 1000)

    def forward(self, images):
        x = functional.interpolate(images.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True)
        x = (x.clamp(0, 255) - 127) / 128
        if self.rows[0][1].weight.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous(memory_format=torch.channels_last)
        features = self.rows(x)
        return features, self.logits(features)
