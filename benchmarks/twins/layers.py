"""Layers of the twins that PyTorch has not in this form."""

import torch
from torch import nn
from torch.nn import functional


class _Spectral:
    """Divides the weight by its spectral norm; `power_iteration` once a step, as the zoo does.

    torch.nn.utils.parametrizations.spectral_norm iterates at every forward pass, which costs the twin more.
    """

    output_axis = 0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        matrix = self._matrix()
        self.register_buffer("u", functional.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", functional.normalize(torch.randn(matrix.shape[1]), dim=0))
        self.power_iteration()

    def _matrix(self):
        return self.weight.movedim(self.output_axis, 0).flatten(1)

    @torch.no_grad()
    def power_iteration(self):
        matrix = self._matrix()
        self.v.copy_(functional.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(functional.normalize(matrix @ self.v, dim=0))

    def normalized_weight(self):
        return self.weight / torch.dot(self.u, self._matrix() @ self.v)


class SpectralConv2d(_Spectral, nn.Conv2d):
    """Convolution with spectral norm."""

    def forward(self, x):
        return self._conv_forward(x, self.normalized_weight(), self.bias)


class SpectralConvTranspose2d(_Spectral, nn.ConvTranspose2d):
    """Transposed convolution with spectral norm."""

    output_axis = 1

    def forward(self, x):
        return functional.conv_transpose2d(x, self.normalized_weight(), self.bias, self.stride, self.padding)


class SpectralLinear(_Spectral, nn.Linear):
    """Dense layer with spectral norm."""

    def forward(self, x):
        return functional.linear(x, self.normalized_weight(), self.bias)


def power_iterations(network):
    """Moves every spectral norm of a network by one iteration."""
    for module in network.modules():
        if isinstance(module, _Spectral):
            module.power_iteration()


def count_parameters(network):
    """Returns the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
