"""LPIPS with VGG16 as its trunk, of random weights: for its cost, not its distances."""

import torch
from torch import nn

WIDTHS = (64, 64, "tap", 128, 128, "tap", 256, 256, 256, "tap", 512, 512, 512, "tap", 512, 512, 512, "tap")


class LPIPS(nn.Module):
    """The five tapped features of images in [-1, 1], of unit length at each place, and their weighted distance."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        self.parts, rows, before = nn.ModuleList(), [], 3
        for width in WIDTHS:
            if width == "tap":
                self.parts.append(nn.Sequential(*rows))
                self.register_buffer(f"head_{len(self.parts)}", torch.rand(before)[:, None, None])
                rows = [nn.MaxPool2d(2)]
                continue
            convolution = nn.Conv2d(before, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            rows += [convolution, nn.ReLU(True)]
            before = width
        self.requires_grad_(False)

    def embed(self, images):
        x, features = (images - self.shift) / self.scale, []
        for part in self.parts:
            x = part(x)
            features.append(x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt())
        return features

    def forward(self, images, target_features):
        distance = 0.0
        for index, (x, y) in enumerate(zip(self.embed(images), target_features)):
            head = getattr(self, f"head_{index + 1}")
            distance = distance + ((x - y).square() * head).sum(1).mean()
        return distance
