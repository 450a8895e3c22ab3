"""The client against the built-in server (REST), and against a gRPC server made of TensorFlow Serving's own protos."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import serving
from serving.client import Client, ServingError
from serving.client_rest import Retry

REPOSITORY = Path(__file__).parents[2]
SEEDS = [3, 2**62 + 1, -7, 0, 5]
LABELS = [2, 0, 1, 1, 2]


class StandIn:
    """TensorFlow Serving over gRPC: its real protos and service, with TensorFlow running the SavedModels.

    Args:
        models: Directory of exports.

    Attributes:
        url: `grpc://...`.
        requests: Rows of each Predict request that it answered.
        busy: Requests to answer UNAVAILABLE before the next good answer.
        tokens: The `authorization` of each request.
    """

    def __init__(self, models):
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        self.requests, self.busy, self.tokens = [], 0, []
        self._loaded = {
            (path.parents[1].name, int(path.parent.name)): tf.saved_model.load(str(path.parent))
            for path in Path(models).glob("*/*/saved_model.pb")
        }
        self._definitions = {
            key: {name: function.structured_input_signature[1] for name, function in loaded.signatures.items()}
            for key, loaded in self._loaded.items()
        }
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        self.url = f"grpc://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self):
        self._server.stop(None).wait()

    def Predict(self, request, context):
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        version = self._find(request, context)
        name = request.model_spec.signature_name or "serving_default"
        expected = self._definitions[request.model_spec.name, version].get(name)
        if expected is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        if set(request.inputs) != set(expected):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"inputs must be {sorted(expected)}")
        feeds = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        self.requests.append(len(next(iter(feeds.values()))))
        answer = predict_pb2.PredictResponse()
        for key, value in self._loaded[request.model_spec.name, version].signatures[name](**feeds).items():
            answer.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return answer

    def GetModelMetadata(self, request, context):
        from tensorflow.python.tools.saved_model_utils import get_meta_graph_def
        from tensorflow_serving.apis import get_model_metadata_pb2

        version = self._find(request, context)
        path = self._paths[request.model_spec.name, version]
        definitions = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in get_meta_graph_def(str(path), "serve").signature_def.items():
            definitions.signature_def[name].CopyFrom(definition)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.metadata["signature_def"].Pack(definitions)
        return answer

    def GetModelStatus(self, request, context):
        from tensorflow_serving.apis import get_model_status_pb2

        self._find(request, context)
        answer = get_model_status_pb2.GetModelStatusResponse()
        for name, version in self._loaded:
            if name == request.model_spec.name:
                answer.model_version_status.add(version=version, state="AVAILABLE")
        return answer

    def _find(self, request, context):
        import grpc

        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        if self.busy:
            self.busy -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "The batch scheduling queue is full.")
        spec = request.model_spec
        versions = [version for name, version in self._loaded if name == spec.name]
        version = spec.version.value if spec.HasField("version") else max(versions, default=None)
        if version not in versions:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {spec.name}")
        return version

    def __getattr__(self, name):
        # The services have calls that nothing here makes.
        if name in ("Classify", "Regress", "MultiInference", "HandleReloadConfigRequest"):
            return None
        raise AttributeError(name)


@pytest.fixture(scope="module")
def stand_in(saved_models):
    stand_in = StandIn(saved_models)
    stand_in._paths = {
        (path.parents[1].name, int(path.parent.name)): path.parent for path in saved_models.glob("*/*/saved_model.pb")
    }
    yield stand_in
    stand_in.stop()


@pytest.fixture(params=["rest", "grpc"])
def client(request):
    """A client of the built-in server, and one of the stand-in: the tests know no difference."""
    source = request.getfixturevalue({"rest": "server", "grpc": "stand_in"}[request.param])
    with Client(source.url) as client:
        yield client


@pytest.fixture(scope="module")
def signatures(stand_in):
    """`{model: signatures}` of the SavedModels themselves."""
    return {name: loaded.signatures for (name, _), loaded in stand_in._loaded.items()}


def constants(**arrays):
    import tensorflow as tf

    return {name: tf.constant(value) for name, value in arrays.items()}


def assert_same_images(images, expected):
    assert images.dtype == expected.dtype and images.shape == expected.shape
    # Another batch size may round the last bit of a float to the other side.
    distance = np.abs(images.astype(float) - expected)
    assert distance.max() <= (1 if images.dtype == np.uint8 else 1e-4) and (distance > 1e-4).mean() < 0.01


def test_samples_are_those_of_the_savedmodel(client, signatures):
    seeds = np.array(SEEDS, np.int64)
    images = client.sample("faces", SEEDS, truncation=0.7)
    expected = signatures["faces"]["sample"](**constants(seed=seeds, truncation=np.full(5, 0.7, np.float32)))
    assert_same_images(images, expected["images"].numpy())
    labelled = client.sample("shapes", iter(SEEDS), labels=LABELS, truncation=[1, 0.5, 0, 1, 1])
    expected = signatures["shapes"]["sample"](
        **constants(seed=seeds, truncation=np.array([1, 0.5, 0, 1, 1], np.float32), label=np.array(LABELS, np.int64))
    )
    assert_same_images(labelled, expected["images"].numpy())
    assert labelled.std() > 5
    one = client.sample("shapes", 5, labels=2)
    assert_same_images(one, labelled[4:])


def test_latents_images_and_logits_go_back_and_forth(client, signatures):
    z = client.latents("faces", SEEDS)
    np.testing.assert_array_equal(z, signatures["faces"]["latents"](**constants(seed=np.array(SEEDS)))["z"])
    images = client.generate("faces", z)
    assert images.dtype == np.float32
    assert_same_images(images, signatures["faces"]["serving_default"](**constants(z=z))["images"].numpy())
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = signatures["faces"]["discriminate"](**constants(images=pixels))["logits"].numpy()
    np.testing.assert_allclose(client.discriminate("faces", pixels), expected, rtol=1e-4, atol=1e-5)
    labelled = client.discriminate("shapes", pixels[:, :16, :16], labels=[0, 1, 2])
    unlabelled = pixels[:, :16, :16].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(labelled - unlabelled, [0, 1, 2], rtol=1e-4, atol=1e-3)


def test_predict_gives_every_output_in_its_own_dtype(client, signatures):
    inputs = {"seed": [1, 2], "truncation": np.float32([1, 1])}
    encoded = client.predict("faces", inputs, "sample_png")["image_bytes"]
    assert encoded.dtype == object and [each[:4] for each in encoded] == [b"\x89PNG"] * 2
    outputs = client.predict("faces", {"z": np.zeros((1, 8), np.float32)}, version=1)
    assert list(outputs) == ["images"] and outputs["images"].shape == (1, 32, 32, 3)


def test_what_the_server_says_of_a_model_is_the_same_over_both(server, stand_in):
    with Client(server.url) as rest, Client(stand_in.url) as grpc:
        for name in ("faces", "shapes"):
            assert rest.metadata(name) == grpc.metadata(name)
            assert rest.status(name) == grpc.status(name, 1) == {1: "AVAILABLE"}
        assert rest.metadata("faces", 1)["sample"] == {
            "inputs": {"seed": ("int64", (None,)), "truncation": ("float32", (None,))},
            "outputs": {"images": ("uint8", (None, 32, 32, 3))},
        }


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        (lambda client: client.sample("nobody", [1]), 404, "nobody"),
        (lambda client: client.sample("faces", [1], version=99), 404, "faces"),
        (lambda client: client.sample("shapes", [1]), 400, "label"),
        (lambda client: client.sample("faces", [1], labels=[0]), 400, "inputs|label"),
        (lambda client: client.predict("faces", {"z": np.zeros((1, 8), np.float32)}, "enhance"), 400, "enhance"),
        (lambda client: client.status("nobody"), 404, "nobody"),
    ],
)
def test_a_refusal_is_an_error_with_its_status_and_the_words_of_the_server(client, call, status, said):
    with pytest.raises(ServingError, match=said) as error:
        call(client)
    assert error.value.status == status


def test_many_seeds_are_sent_in_several_requests(stand_in):
    stand_in.requests.clear()
    with Client(stand_in.url, batch_size=2) as client:
        images = client.sample("shapes", range(5), labels=1)
    assert stand_in.requests == [2, 2, 1]
    with Client(stand_in.url) as client:
        assert_same_images(images, client.sample("shapes", range(5), labels=1))
    assert stand_in.requests == [2, 2, 1, 5]


def test_models_are_listed_by_the_built_in_server_alone(server, stand_in):
    with Client(server.url) as client:
        assert {model["name"]: model["versions"] for model in client.models()} == {"faces": [1], "shapes": [1]}
    with Client(stand_in.url) as client, pytest.raises(ServingError, match="does not list"):
        client.models()


def test_an_autoencoder_encodes_decodes_and_reconstructs(tmp_path):
    import tensorflow as tf

    class Halves(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2, 2, 1], tf.uint8, name="images")])
        def encode(self, images):
            return {"z": tf.cast(images[:, 0, :, 0], tf.float32) / 2}

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="z")])
        def decode(self, z):
            return {"images": tf.reshape(tf.repeat(z, 2, axis=1), [-1, 2, 2, 1])}

        @tf.function(input_signature=[tf.TensorSpec([None, 2, 2, 1], tf.uint8, name="images")])
        def reconstruct(self, images):
            return {"images": 255 - images}

    module = Halves()
    endpoints = {name: getattr(module, name) for name in ("encode", "decode", "reconstruct")}
    tf.saved_model.save(module, str(tmp_path / "halves" / "3"), signatures=endpoints)
    stand_in = StandIn(tmp_path)
    try:
        with Client(stand_in.url) as client:
            images = np.array([[[[2], [4]], [[0], [0]]]], np.uint8)
            np.testing.assert_array_equal(client.encode("halves", images), [[1, 2]])
            np.testing.assert_array_equal(client.decode("halves", [[5, 6]]).ravel(), [5, 5, 6, 6])
            np.testing.assert_array_equal(client.reconstruct("halves", images), 255 - images)
    finally:
        stand_in.stop()


# What goes wrong on the way: a server that follows a script.


class Script(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.times.append(time.monotonic())
        self.server.tokens.append(self.headers.get("Authorization"))
        step = self.server.script.pop(0) if self.server.script else 200
        if step == "reset":  # closed without a word
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if step == "hang":
            self.server.ended.wait(30)
            return
        status, headers = step if isinstance(step, tuple) else (step, {})
        body = self.server.answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def scripted(*script, answer=None):
    """A server that answers in turn as `script` says, then well."""
    status = {"model_version_status": [{"version": "4", "state": "AVAILABLE"}]}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    server.script, server.times, server.tokens, server.ended = list(script), [], [], threading.Event()
    server.answer = json.dumps(status).encode() if answer is None else answer
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("step", [(503, {"Retry-After": "1"}), 503, "reset"])
def test_a_busy_server_and_a_broken_connection_are_tried_again(step):
    with scripted(step, step) as server, Client(server.url) as client:
        assert client.status("m") == {4: "AVAILABLE"}
        assert len(server.times) == 3
        if isinstance(step, tuple):
            assert min(np.diff(server.times)) >= 1, "Retry-After was not waited for"


def test_a_server_cannot_make_the_client_wait_for_hours():
    assert Retry(3).parse_retry_after("7") == 7
    assert Retry(3).parse_retry_after("86400") == 60


def test_the_attempts_come_to_an_end():
    with scripted(*[503] * 9, answer=b'{"error": "queue is full"}') as server:
        with Client(server.url, retries=2) as client, pytest.raises(ServingError, match="queue is full") as error:
            client.status("m")
        assert error.value.status == 503 and len(server.times) == 3
    with scripted(*["reset"] * 9) as server:
        with Client(server.url, retries=1) as client, pytest.raises(ServingError) as error:
            client.status("m")
        assert error.value.status is None and len(server.times) == 2


def test_an_answer_that_does_not_come_in_time_is_an_error_and_not_asked_for_again():
    with scripted("hang") as server:
        with Client(server.url, timeout=0.2) as client, pytest.raises(ServingError, match="within 0.2 s"):
            client.status("m")
        assert len(server.times) == 1


def test_other_refusals_are_not_tried_again_and_keep_their_status():
    for answer, said in (
        (b'{"error": "no such model"}', "no such model"),
        (b"<html>Bad gateway</html>", "Bad Gateway"),
    ):
        with scripted(502, answer=answer) as server:
            with Client(server.url) as client, pytest.raises(ServingError, match=said) as error:
                client.status("m")
            assert error.value.status == 502 and len(server.times) == 1
    with scripted((302, {"Location": "/elsewhere"})) as server:
        with Client(server.url) as client, pytest.raises(ServingError) as error:
            client.status("m")
        assert error.value.status == 302 and len(server.times) == 1


def test_nobody_listening_is_an_error():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Client(f"http://{address}", retries=1) as client, pytest.raises(ServingError, match=address) as error:
            client.status("m")
        assert error.value.status is None
        with Client(f"grpc://{address}", retries=0) as client, pytest.raises(ServingError, match=address) as error:
            client.status("m")
        assert error.value.status == 503


def test_over_grpc_a_busy_server_is_tried_again_and_the_attempts_end(stand_in):
    with Client(stand_in.url) as client:
        stand_in.busy = 2
        assert client.status("faces") == {1: "AVAILABLE"}
    with Client(stand_in.url, retries=1) as client, pytest.raises(ServingError, match="queue is full") as error:
        stand_in.busy = 9
        client.status("faces")
    assert error.value.status == 503 and stand_in.busy == 7
    stand_in.busy = 0


def test_the_token_goes_with_every_request(stand_in):
    with scripted() as server, Client(server.url, token="abc") as client:
        client.status("m")
        assert server.tokens == ["Bearer abc"]
    with Client(stand_in.url, token="abc") as client:
        client.status("faces")
    assert stand_in.tokens[-1] == "Bearer abc"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"url": "127.0.0.1:8501"}, "url must be"),
        ({"url": "ftp://somewhere"}, "url must be"),
        ({"url": "http://somewhere", "retries": -1}, "retries must be"),
        ({"url": "http://somewhere", "timeout": 0}, "timeout must be"),
        ({"url": "http://somewhere", "batch_size": 0}, "batch_size must be"),
    ],
)
def test_a_wrong_argument_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        Client(**arguments)


def test_rest_needs_no_tensorflow():
    with scripted() as server:
        code = (
            "import sys, serving; client = serving.Client(sys.argv[1]); client.status('m'); "
            "print(sorted({'tensorflow', 'grpc', 'keras', 'fastapi'} & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, server.url], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
        )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert serving.Client is Client
