"""TensorFlow Serving's REST rules, as its documentation and its own tests have them.

The same requests run against the models of this process and through a front of that server: a client moves between
TensorFlow Serving and either of them by changing the address.
"""

import base64
import io
import json
import re
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving.errors import ApiError
from serving.tensors import TensorInfo, parse_json, parse_predict, render_predict


@pytest.fixture(params=["server", "front"])
def client(request):
    with httpx.Client(base_url=request.getfixturevalue(request.param).url, timeout=60) as client:
        yield client


@pytest.fixture
def shapes(models):
    """The signatures of the model `shapes`, as TensorFlow itself runs them."""
    return SimpleNamespace(**models["shapes"].signatures)


def predict(client, body, path="/v1/models/shapes:predict"):
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return client.post(path, content=content)


def rows(count):
    return [{"seed": seed, "truncation": 0.5, "label": seed % 3} for seed in range(count)]


def constants(count):
    return {
        "seed": tf.range(count, dtype=tf.int64),
        "truncation": tf.fill([count], 0.5),
        "label": tf.range(count, dtype=tf.int64) % 3,
    }


def test_the_row_form_gives_a_prediction_a_row(client, shapes):
    answer = predict(client, {"signature_name": "sample", "instances": rows(3)})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/json")
    assert answer.json().keys() == {"predictions"}
    np.testing.assert_array_equal(answer.json()["predictions"], shapes.sample(**constants(3))["images"])


def test_the_column_form_gives_the_outputs(client, shapes):
    columns = {name: value.numpy().tolist() for name, value in constants(3).items()}
    answer = predict(client, {"signature_name": "sample", "inputs": columns}).json()
    assert answer.keys() == {"outputs"}
    np.testing.assert_array_equal(answer["outputs"], shapes.sample(**constants(3))["images"])


@pytest.mark.parametrize(
    "body, key",
    [
        ({"instances": [5, -7]}, "predictions"),
        ({"instances": [{"seed": 5}, {"seed": -7}]}, "predictions"),
        ({"inputs": [5, -7]}, "outputs"),
        ({"inputs": {"seed": [5, -7]}}, "outputs"),
    ],
)
def test_the_name_of_an_only_input_may_be_left_out(client, shapes, body, key):
    answer = predict(client, {"signature_name": "latents", **body}).json()
    expected = shapes.latents(seed=tf.constant([5, -7], tf.int64))["z"]
    np.testing.assert_array_equal(np.array(answer[key], np.float32), expected, "not the same float32 numbers")


@pytest.mark.parametrize("signature", [None, "", "serving_default"])
def test_without_a_signature_it_is_serving_default(client, shapes, signature):
    body = {"instances": [{"z": [0.1, 0.2, 0.3, 0], "label": 2}]}
    answer = predict(client, body if signature is None else {**body, "signature_name": signature}).json()
    expected = shapes.serving_default(z=tf.constant([[0.1, 0.2, 0.3, 0]]), label=tf.constant([2], tf.int64))["images"]
    np.testing.assert_allclose(answer["predictions"], expected, atol=1e-6)


@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_an_output_that_ends_in_bytes_comes_in_base64(client, shapes, form):
    columns = {name: value.numpy().tolist() for name, value in constants(2).items()}
    body = {"signature_name": "sample_png", form: rows(2) if form == "instances" else columns}
    (images,) = predict(client, body).json().values()
    assert [each.keys() for each in images] == [{"b64"}, {"b64"}]
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each["b64"])))) for each in images]
    np.testing.assert_array_equal(pixels, shapes.sample(**constants(2))["images"])


def test_pictures_go_in_as_numbers(client, shapes):
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    body = {"signature_name": "discriminate", "inputs": {"images": images.tolist(), "label": [0, 1]}}
    expected = shapes.discriminate(images=images, label=tf.constant([0, 1], tf.int64))["logits"]
    np.testing.assert_allclose(predict(client, body).json()["outputs"], expected, rtol=1e-6)


def test_the_extremes_of_int64_are_seeds_like_any_other(client, shapes):
    seeds = [-(2**63), 2**63 - 1]
    answer = predict(client, {"signature_name": "latents", "instances": seeds}).json()["predictions"]
    np.testing.assert_allclose(answer, shapes.latents(seed=tf.constant(seeds, tf.int64))["z"], rtol=1e-6)


def test_a_version_may_be_named(client):
    named = predict(client, {"signature_name": "latents", "instances": [1]}, "/v1/models/shapes/versions/1:predict")
    newest = predict(client, {"signature_name": "latents", "instances": [1]})
    assert named.status_code == 200 and named.json() == newest.json()


STATUS = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


@pytest.mark.parametrize("path", ["/v1/models/shapes", "/v1/models/shapes/versions/1", "/v1/Models/shapes"])
def test_the_status_of_a_model(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"model_version_status": [STATUS]})


@pytest.mark.parametrize("path", ["/v1/models/shapes/metadata", "/v1/models/shapes/versions/1/metadata"])
def test_the_metadata_of_a_model(client, path):
    answer = client.get(path).json()
    assert answer["model_spec"] == {"name": "shapes", "signature_name": "", "version": "1"}
    sample = answer["metadata"]["signature_def"]["signature_def"]["sample"]
    assert sample["method_name"] == "tensorflow/serving/predict"
    assert sample["inputs"]["seed"]["dtype"] == "DT_INT64"
    assert sample["inputs"]["seed"]["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    sizes = [each["size"] for each in sample["outputs"]["images"]["tensor_shape"]["dim"]]
    assert sample["outputs"]["images"]["dtype"] == "DT_UINT8" and sizes == ["-1", "16", "16", "3"]


ROW = {"seed": 1, "truncation": 1.0, "label": 0}


@pytest.mark.parametrize(
    "path, body, status, message",
    [
        ("/v1/models/nothing:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nothing)"),
        ("/v1/models/shapes/versions/99:predict", {"instances": [1]}, 404, "Servable not found"),
        ("/v1/models/shapes/versions/99999999999999999999:predict", {}, 400, "Failed to convert version"),
        ("/v1/models/shapes/labels/stable:predict", {"instances": [1]}, 400, "label: stable"),
        ("/v1/models/shapes/version/1:predict", {"instances": [1]}, 400, "Malformed request: POST"),
        ("/v1/models/shapes", {"instances": [1]}, 400, "Malformed request: POST"),
        ("/v1/models/shapes:predict", "", 400, "JSON Parse error: The document is empty"),
        ("/v1/models/shapes:predict", "instances = [1, 2]", 400, "JSON Parse error"),
        ("/v1/models/nothing:predict", "{", 400, "JSON Parse error"),
        ("/v1/models/shapes:predict", [1], 400, "Is not object"),
        ("/v1/models/shapes:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("/v1/models/shapes:predict", {"inputs": [1], "instances": [1]}, 400, "only one of 'inputs' or 'instances'"),
        ("/v1/models/shapes:predict", {"signature_name": 5, "inputs": [1]}, 400, "must be a string value"),
        ("/v1/models/shapes:predict", {"signature_name": "x", "inputs": [1]}, 400, 'name: "x" not found'),
        ("/v1/models/shapes:predict", {"instances": 1}, 400, "'instances' to be a list"),
        ("/v1/models/shapes:predict", {"instances": []}, 400, "No values in 'instances'"),
        ("/v1/models/shapes:predict", {"instances": [1]}, 400, "expecting list of objects"),
        ("/v1/models/shapes:predict", {"inputs": [1]}, 400, "expecting an object"),
    ],
)
def test_a_wrong_request_is_refused_as_tensorflow_serving_refuses_it(server, path, body, status, message):
    with httpx.Client(base_url=server.url) as client:
        answer = predict(client, body, path)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"} and message in answer.json()["error"]


@pytest.mark.parametrize(
    "signature, body, message",
    [
        ("sample", {"instances": [{"seed": 1}]}, "keys must be equal to: label,seed,truncation"),
        ("sample", {"instances": [ROW, 5]}, "Expecting object but got value/list at item 1"),
        ("sample", {"inputs": {"seed": [1], "label": [0]}}, "Missing named input: truncation"),
        ("sample", {"instances": [{**ROW, "seed": 1.5}]}, "seed: JSON Value: 1.5 Type: Number is not of expected type: int64"),
        ("sample", {"instances": [{**ROW, "seed": "1"}]}, "seed: JSON Value: '1' Type: String"),
        ("sample", {"instances": [{**ROW, "seed": True}]}, "seed: JSON Value: True Type: Boolean"),
        ("sample", {"instances": [{**ROW, "seed": None}]}, "seed: JSON Value: None Type: Null"),
        ("sample", {"instances": [{**ROW, "seed": 2**63}]}, "seed must be from -9223372036854775808"),
        ("sample", {"instances": [{**ROW, "seed": [1]}]}, "seed must have the shape [n]. Received: [1, 1]"),
        ("sample", {"instances": [{**ROW, "label": 3}]}, "label must be from 0 to 2"),
        ("sample", {"inputs": {"seed": [1, 2], "truncation": [1], "label": [0]}}, "same number of rows"),
        ("sample", {"inputs": {"seed": [], "truncation": [], "label": []}}, "at least one row"),
        ("latents", {"inputs": 5}, "seed must have the shape [n]. Received: []"),
        ("latents", {"instances": [1, [2]]}, "seed: Encountered list at unexpected level"),
        ("latents", {"instances": [[1], 2]}, "seed: JSON Value: 2 found at incorrect level"),
        ("latents", {"instances": [1, {"seed": 2}]}, "Expecting value/list but got object at item 1"),
        ("latents", {"instances": [{"b64": "AAAA"}]}, "seed: JSON Value: {'b64': 'AAAA'} Type: Object"),
        ("serving_default", {"inputs": {"z": [[1, 2, 3]], "label": [0]}}, "z must have the shape [n, 4]. Received: [1, 3]"),
        ("serving_default", {"inputs": {"z": [[1, 2, 3, 4], [1]], "label": [0]}}, "z: Encountered list at unexpected size"),
        ("serving_default", {"inputs": {"z": [[1, 2, 3, 1e39]], "label": [0]}}, "without loss of precision"),
        ("serving_default", {"inputs": {"z": [[1, 2, 3, 2**24]], "label": [0]}}, "without loss of precision"),
        ("discriminate", {"inputs": {"images": [[[[256]]]], "label": [0]}}, "images must have the shape [n, 16, 16, 3]"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_refused_with_their_name(server, signature, body, message):
    with httpx.Client(base_url=server.url) as client:
        answer = predict(client, {"signature_name": signature, **body})
    assert answer.status_code == 400 and message in answer.json()["error"], answer.text


@pytest.mark.parametrize("method, path", [("GET", "/v1/foo"), ("GET", "/v1/models/shapes:predict"), ("POST", "/v1/models/shapes/metadata"),
                                          ("GET", "/v1/models/shapes/versions/one"), ("POST", "/v1/foo")])  # fmt: skip
def test_what_is_no_request_of_the_interface_is_malformed(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code == 400 and answer.json()["error"].startswith(f"Malformed request: {method} {path}")


def test_a_model_must_be_named(server):
    answer = httpx.get(f"{server.url}/v1/models")
    assert (answer.status_code, answer.json()) == (400, {"error": "Missing model name in request."})


@pytest.mark.parametrize("path", ["/v1/models/nothing", "/v1/models/shapes/versions/99", "/v1/models/nothing/metadata"])
def test_an_unknown_model_or_version_is_not_found(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and answer.json().keys() == {"error"}


# What no export of the project has: inputs of bytes, several outputs, values that are not finite.

INT32 = TensorInfo("int32", None)
TEXT = TensorInfo("string", None)


def parsed(text, **inputs):
    signatures = {"serving_default": SimpleNamespace(inputs=inputs)}
    return parse_predict(parse_json(text.encode()), signatures).inputs


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"instances": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]}', [b"hello", b"world"]),
        ('{"instances": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}', [[b"hello"], [b"world"]]),
        ('{"instances": [{"x": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}]}', [[[b"hello"], [b"world"]]]),
        ('{"inputs": {"b64": "aGVsbG8="}}', b"hello"),
        ('{"inputs": ["grün"]}', ["grün".encode()]),
    ],
)
def test_bytes_come_in_base64_and_text_as_it_is(text, expected):
    assert parsed(text, x=TEXT)["x"].tolist() == expected


@pytest.mark.parametrize(
    "value", ['{"b64": "aGVsbG8"}', '{"b64": "!!!!"}', '{"b64": 5}', '{"b64": "AA==", "c": 1}', '"\\ud800"']
)
def test_malformed_base64_is_refused(value):
    with pytest.raises(ApiError, match="x|JSON") as error:
        parsed(f'{{"inputs": {{"x": [{value}]}}}}', x=TEXT)
    assert error.value.status == 400


def test_named_tensors_of_several_types_in_rows():
    text = """{"instances": [{"i": [[1, 2], [3, 4]], "s": ["foo", "bar"], "f": [1.0, NaN], "b": true},
                             {"i": [[5, 6], [7, 8]], "s": ["baz", "bat"], "f": [2, Infinity], "b": false}]}"""
    inputs = parsed(text, i=INT32, s=TEXT, f=TensorInfo("float32", (None, 2)), b=TensorInfo("bool", (None,)))
    np.testing.assert_array_equal(inputs["i"], [[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    assert inputs["s"].tolist() == [[b"foo", b"bar"], [b"baz", b"bat"]]
    np.testing.assert_array_equal(inputs["f"], np.array([[1, np.nan], [2, np.inf]], np.float32))
    assert inputs["i"].dtype == np.int32 and inputs["f"].dtype == np.float32 and inputs["b"].tolist() == [True, False]


@pytest.mark.parametrize("depth", [100, 100_000])
@pytest.mark.parametrize("inside", ["1", "NaN"])
def test_lists_nested_beyond_all_measure_are_refused(depth, inside):
    with pytest.raises(ApiError) as error:
        parsed(f'{{"inputs": {"[" * depth}{inside}{"]" * depth}}}', x=TensorInfo("float32", (None,)))
    assert error.value.status == 400


def test_values_that_are_not_finite_are_written_as_tokens():
    array = np.array([0.2, np.nan, np.inf, -np.inf, 1, 1e20], np.float32)
    text = render_predict({"x": array}, row_form=True).decode()
    assert re.sub(r"\s", "", text) == '{"predictions":[0.2,NaN,Infinity,-Infinity,1.0,1e+20]}'
    assert parse_json(b'{"x": [NaN, -Infinity]}')["x"][1] == -np.inf


def test_a_float_has_its_shortest_digits_and_a_whole_one_its_point():
    text = render_predict({"x": np.array([0.2, 3, 1e-5], np.float32)}, row_form=False)
    assert json.loads(text) == {"outputs": [0.2, 3.0, 1e-5]} and b"3.0" in text


def test_several_outputs_are_named():
    outputs = {
        "a": np.arange(2),
        "image_bytes": np.array([b"\xff", b"\x00"], object),
        "text": np.array([b"x", b"y"], object),
    }
    assert json.loads(render_predict(outputs, row_form=True)) == {
        "predictions": [
            {"a": 0, "image_bytes": {"b64": "/w=="}, "text": "x"},
            {"a": 1, "image_bytes": {"b64": "AA=="}, "text": "y"},
        ]
    }
    assert json.loads(render_predict(outputs, row_form=False))["outputs"]["text"] == ["x", "y"]


def test_outputs_of_several_batch_sizes_need_the_column_form():
    outputs = {"a": np.arange(2), "b": np.arange(3)}
    with pytest.raises(ApiError, match="inconsistent batch size"):
        render_predict(outputs, row_form=True)
    assert json.loads(render_predict(outputs, row_form=False)) == {"outputs": {"a": [0, 1], "b": [0, 1, 2]}}
    assert json.loads(render_predict({"a": np.float32(2)}, row_form=False)) == {"outputs": 2.0}
