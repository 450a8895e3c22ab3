"""EfficientNet-Lite0 with its real weights against a forward pass written in PyTorch (tests/reference)."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from zoo.perceptual import sources
from zoo.perceptual.efficientnet_lite import efficientnet_lite0
from zoo.perceptual.weights import WeightsError

REFERENCE = Path(__file__).parents[1] / "reference"
seeded = SimpleNamespace(**runpy.run_path(str(REFERENCE / "seeded.py")))


@pytest.fixture(scope="module")
def weights():
    return sources.efficientnet_lite0()


def test_features_and_logits_equal_those_of_pytorch(weights):
    model = efficientnet_lite0(weights)
    golden = np.load(REFERENCE / "perceptual.npz")
    outputs = model((seeded.images(2, 224).astype(np.float32) - 127) / 128)
    for name in ("features", "logits"):
        np.testing.assert_allclose(outputs[name], golden[f"efficientnet_{name}"], rtol=0, atol=5e-5)
    assert outputs["features"].shape == (2, 1280) and outputs["logits"].shape == (2, 1000)
    assert model.trainable_weights == []
    # Every tensor of the file has a place; 42,016 of the 4,694,024 numbers are moving statistics.
    assert model.count_params() == sum(array.size for array in weights.arrays.values()) == 4_694_024
    statistics = sum(array.size for name, array in weights.arrays.items() if "running" in name)
    assert round((model.count_params() - statistics) / 1e6, 2) == 4.65


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda arrays: arrays.pop("blocks.3.bn1.running_var"), "holds no 'blocks.3.bn1.running_var'"),
        (lambda arrays: arrays.update(extra=np.ones(1)), "no place for: extra"),
        (lambda arrays: arrays.update({"fc.bias": np.ones(999)}), r"'fc.bias'.*\(1000,\). Received: \(999,\)"),
        (lambda arrays: arrays.update({"fc.bias": np.full(1000, np.nan)}), "'fc.bias'.*finite"),
    ],
)
def test_other_weights_are_refused(weights, change, message):
    arrays = dict(weights.arrays)
    change(arrays)
    with pytest.raises(WeightsError, match=message):
        efficientnet_lite0(sources.Weights(arrays, "changed.pth"))
