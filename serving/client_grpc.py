"""TensorFlow Serving's gRPC interface, as `serving.Client` speaks it."""

import json
from urllib.parse import urlsplit

from serving.client import ServingError

try:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"grpc:// needs TensorFlow and tensorflow-serving-api: pip install --no-deps -r requirements-nodeps.txt ({error})",
        name=error.name,
    ) from error

MOST_ATTEMPTS = 5  # gRPC's own limit
# As TensorFlow Serving's REST interface translates them.
STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class Transport:
    """Requests and answers as protocol buffers."""

    binary = True

    def __init__(self, url, *, timeout, retries, token):
        self._url = url
        self._timeout = timeout
        self._headers = [("authorization", f"Bearer {token}")] if token else []
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5000),
            ("grpc.service_config", _service_config(retries)),
        ]
        parts = urlsplit(url)
        if parts.scheme == "grpcs":
            self._channel = grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(parts.netloc, options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self):
        self._channel.close()

    def models(self):
        raise ServingError(f"{self._url} does not list its models: gRPC has no call for it. Ask status(name).", 501)

    def status(self, name, version):
        request = _address(get_model_status_pb2.GetModelStatusRequest(), name, version)
        answer = self._call(self._models.GetModelStatus, request)
        return {each.version: each.State.Name(each.state) for each in answer.model_version_status}

    def metadata(self, name, version):
        request = _address(get_model_metadata_pb2.GetModelMetadataRequest(), name, version)
        request.metadata_field.append("signature_def")
        answer = self._call(self._prediction.GetModelMetadata, request)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(definitions)
        return {
            signature: {
                side: {tensor: _describe(info) for tensor, info in getattr(definition, side).items()}
                for side in ("inputs", "outputs")
            }
            for signature, definition in definitions.signature_def.items()
            if not signature.startswith("__saved_model")
        }

    def predict(self, name, inputs, signature, version):
        request = _address(predict_pb2.PredictRequest(), name, version)
        request.model_spec.signature_name = signature
        for tensor, value in inputs.items():
            request.inputs[tensor].CopyFrom(tf.make_tensor_proto(value))
        answer = self._call(self._prediction.Predict, request)
        return {tensor: tf.make_ndarray(value) for tensor, value in answer.outputs.items()}

    def _call(self, method, request):
        try:
            return method(request, timeout=self._timeout, metadata=self._headers)
        except grpc.RpcError as error:
            status = STATUSES.get(error.code(), 500)
            raise ServingError(f"{self._url}: {error.details() or error.code().name}", status) from error


def _service_config(retries):
    attempts = min(retries + 1, MOST_ATTEMPTS)
    policy = {
        "maxAttempts": attempts,
        "initialBackoff": "0.2s",
        "maxBackoff": "5s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": [{}]} | ({"retryPolicy": policy} if attempts > 1 else {})]})


def _address(request, name, version):
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = int(version)
    return request


def _describe(info):
    sizes = [dimension.size for dimension in info.tensor_shape.dim]
    return tf.as_dtype(info.dtype).name, tuple(None if size == -1 else size for size in sizes)
