"""The Inception of 2015 on seeded weights of the published layout, against an independent implementation in PyTorch.

tests/reference/make_perceptual.py made the golden features from the same seeded weights and images.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from zoo.perceptual import inception, sources
from zoo.perceptual.weights import WeightsError, file_sha256, from_torch

REFERENCE = Path(__file__).parents[1] / "reference"
seeded = SimpleNamespace(**runpy.run_path(str(REFERENCE / "seeded.py")))
write_state_dict = runpy.run_path(str(REFERENCE / "torch_format.py"))["write_state_dict"]
GOLDEN = np.load(REFERENCE / "perceptual.npz")

# Nodes of classify_image_graph_def.pb and what pytorch-fid calls them: one of every kind, as published converters list them.
NODES = {
    "conv/conv2d_params": "Conv2d_1a_3x3.conv.weight",
    "conv_4/batchnorm/gamma": "Conv2d_4a_3x3.bn.weight",
    "mixed/conv/batchnorm/beta": "Mixed_5b.branch1x1.bn.bias",
    "mixed/tower/conv_1/conv2d_params": "Mixed_5b.branch5x5_2.conv.weight",
    "mixed/tower_1/conv_2/conv2d_params": "Mixed_5b.branch3x3dbl_3.conv.weight",
    "mixed_2/tower_2/conv/batchnorm/moving_mean": "Mixed_5d.branch_pool.bn.running_mean",
    "mixed_3/conv/conv2d_params": "Mixed_6a.branch3x3.conv.weight",
    "mixed_3/tower/conv_2/batchnorm/moving_variance": "Mixed_6a.branch3x3dbl_3.bn.running_var",
    "mixed_4/tower/conv_1/conv2d_params": "Mixed_6b.branch7x7_2.conv.weight",
    "mixed_7/tower_1/conv_4/conv2d_params": "Mixed_6e.branch7x7dbl_5.conv.weight",
    "mixed_8/tower/conv/conv2d_params": "Mixed_7a.branch3x3_1.conv.weight",
    "mixed_8/tower_1/conv_3/conv2d_params": "Mixed_7a.branch7x7x3_4.conv.weight",
    "mixed_9/tower/mixed/conv_1/conv2d_params": "Mixed_7b.branch3x3_2b.conv.weight",
    "mixed_10/tower_1/conv_1/conv2d_params": "Mixed_7c.branch3x3dbl_2.conv.weight",
    "mixed_10/tower_1/mixed/conv/conv2d_params": "Mixed_7c.branch3x3dbl_3a.conv.weight",
    "softmax/weights": "fc.weight",
    "softmax/biases": "fc.bias",
}


@pytest.fixture(scope="module")
def network():
    return inception._build()


@pytest.fixture(scope="module")
def state(network):
    """A state dict of the published layout, in PyTorch's shapes."""
    shapes = {}
    for layer in network.layers:
        for variable, suffix in zip(layer.weights, ("weight", "bias", "running_mean", "running_var")):
            shape = tuple(variable.shape)
            shapes[f"{layer.name}.{suffix}"] = tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]
    return seeded.inception_state(shapes)


def frozen_graph(state):
    graph = tf.compat.v1.GraphDef()
    for name, node_name in inception.frozen_graph_names().items():
        array = state[name]
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        node = graph.node.add(name=node_name, op="Const")
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
    graph.node.add(name="DecodeJpeg/contents", op="Placeholder")
    return graph


def test_features_and_logits_equal_those_of_pytorch(state, network, monkeypatch):
    monkeypatch.setattr(inception, "_build", lambda: network)
    model = inception.inception_2015(sources.Weights(from_torch(state), "seeded"))
    images = (seeded.images(2, 299).astype(np.float32) - 128) / 128
    outputs = tf.function(lambda images: model(images, training=False))(images)
    np.testing.assert_allclose(outputs["features"], GOLDEN["inception_features"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs["logits"], GOLDEN["inception_logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs["logits_unbiased"] + state["fc.bias"], outputs["logits"], rtol=0, atol=1e-5)
    assert outputs["features"].shape == (2, 2048) and outputs["logits"].shape == (2, 1008)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == kinds.count("BatchNormalization") == 94


def test_the_last_block_pools_by_maximum_and_the_others_by_average(network):
    pools = [layer for layer in network.layers if "Pooling" in type(layer).__name__ and layer.strides == (1, 1)]
    assert [type(layer).__name__ for layer in pools] == ["AveragePooling2D"] * 8 + ["MaxPooling2D"]


def test_the_nodes_of_the_frozen_graph_are_those_of_published_converters(state):
    names = inception.frozen_graph_names()
    assert names.keys() == state.keys() and len(set(names.values())) == len(names) == 94 * 5 + 2
    assert {names[ours]: ours for ours in NODES.values()} == NODES


def test_state_dict_and_frozen_graph_give_the_same_weights_and_are_cached(state, tmp_path):
    write_state_dict(tmp_path / "inception.pth", state)
    (tmp_path / "graph.pb").write_bytes(frozen_graph(state).SerializeToString())
    pth, pb = (f"{tmp_path / name}@sha256:{file_sha256(tmp_path / name)}" for name in ("inception.pth", "graph.pb"))
    expected = sources.Weights(from_torch(state), "").hash
    weights = sources.inception_2015(pth, tmp_path / "cache")
    assert weights.hash == sources.inception_2015(pb, tmp_path / "cache").hash == expected

    cached = sorted((tmp_path / "cache" / "weights").iterdir())
    assert [path.suffix for path in cached] == [".npz", ".npz"]
    assert sources.inception_2015(pth, tmp_path / "cache").hash == expected
    npz = f"{cached[0]}@sha256:{file_sha256(cached[0])}"
    assert sources.inception_2015(npz, tmp_path / "cache").hash == expected
    for path in cached:
        path.write_bytes(path.read_bytes()[:1000])
    assert sources.inception_2015(pth, tmp_path / "cache").hash == expected  # made anew

    with pytest.raises(WeightsError, match=f"not the published file.*{sources.INCEPTION_SHA256}.*@sha256:"):
        sources.inception_2015(tmp_path / "inception.pth", tmp_path / "cache")


def test_other_graphs_and_damaged_ones_are_refused(tmp_path):
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="conv/conv2d_params", op="Placeholder")
    for content, message in (
        (graph.SerializeToString(), "holds no constant"),
        (b"\x0a\xff\xff\xff\xffnonsense", "neither"),
    ):
        path = tmp_path / "graph.pb"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=f"graph.pb .*{message}"):
            sources.inception_2015(f"{path}@sha256:{file_sha256(path)}", tmp_path)
    assert not list(tmp_path.glob("**/*.npz"))


def test_offline_without_weights_names_file_hash_and_option(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "INCEPTION_URL", f"{tmp_path.as_uri()}/pt_inception-2015-12-05-6726825d.pth")
    with pytest.raises(
        WeightsError, match=f"pt_inception-2015-12-05-6726825d.pth.*{sources.INCEPTION_SHA256}.*weights=PATH"
    ):
        sources.inception_2015(cache_dir=tmp_path)


@pytest.mark.slow
def test_the_evaluation_runs_it_from_a_file(state, tmp_path):
    from evaluation.features import extract_features

    write_state_dict(tmp_path / "inception.pth", state)
    weights = f"{tmp_path / 'inception.pth'}@sha256:{file_sha256(tmp_path / 'inception.pth')}"
    found = extract_features(
        seeded.images(2, 299), "inception-2015", weights=weights, cache_dir=tmp_path, progress=False
    )
    np.testing.assert_allclose(found.features, GOLDEN["inception_features"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.logits, GOLDEN["inception_logits"] - state["fc.bias"], rtol=0, atol=1e-4)
