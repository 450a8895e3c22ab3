"""TensorFlow Serving's REST interface, as `serving.Client` speaks it."""

import base64
import json
from urllib.parse import quote

import numpy as np
import urllib3

from serving.client import ServingError

LONGEST_PAUSE = 5  # seconds before another attempt
LONGEST_RETRY_AFTER = 60  # seconds, whatever a server asks for
FLOATS = {"FLOAT": "float32", "DOUBLE": "float64", "HALF": "float16"}


class Retry(urllib3.Retry):
    """Asks again after 503 and broken connections, but not after a time-out: that may be the model's own speed."""

    def increment(self, method=None, url=None, response=None, error=None, _pool=None, _stacktrace=None):
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)

    def parse_retry_after(self, retry_after):
        return min(super().parse_retry_after(retry_after), LONGEST_RETRY_AFTER)


class Transport:
    """Requests and answers as JSON."""

    binary = False

    def __init__(self, url, *, timeout, retries, token):
        self._url = url
        self._timeout = timeout
        self._signatures = {}
        self._pool = urllib3.PoolManager(
            maxsize=16,
            headers={"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {}),
            timeout=urllib3.Timeout(connect=timeout, read=timeout),
            # A prediction changes nothing, so that it may be sent again.
            retries=Retry(
                total=retries,
                allowed_methods=None,
                status_forcelist=[503],
                backoff_factor=0.1,
                backoff_max=LONGEST_PAUSE,
                raise_on_status=False,
            ),
        )

    def close(self):
        self._pool.clear()

    def models(self):
        try:
            return self._ask("GET", "/models")
        except ServingError as error:
            if error.status != 404:
                raise
            raise ServingError(
                f"{self._url} does not list its models; TensorFlow Serving never does. Ask status(name).", 404
            ) from None

    def status(self, name, version):
        answer = self._ask("GET", self._path(name, version))
        return {int(each["version"]): each["state"] for each in answer["model_version_status"]}

    def metadata(self, name, version):
        answer = self._ask("GET", f"{self._path(name, version)}/metadata")
        definitions = answer["metadata"]["signature_def"]["signature_def"]
        return {
            signature: {
                side: {tensor: _describe(info) for tensor, info in definition[side].items()}
                for side in ("inputs", "outputs")
            }
            for signature, definition in definitions.items()
            if not signature.startswith("__saved_model")
        }

    def predict(self, name, inputs, signature, version):
        described = self._outputs_of(name, signature, version, inputs)
        body = {"signature_name": signature, "inputs": {tensor: _to_json(value) for tensor, value in inputs.items()}}
        outputs = self._ask("POST", f"{self._path(name, version)}:predict", body)["outputs"]
        # The name of an only output is left out.
        outputs = outputs if len(described) > 1 else {tensor: outputs for tensor in described}
        return {tensor: _from_json(value, described[tensor][0]) for tensor, value in outputs.items()}

    def _outputs_of(self, name, signature, version, inputs):
        """Returns `{output: (dtype, shape)}` of a signature, once it is known to take these inputs."""
        key = name, version, signature
        if key not in self._signatures or self._signatures[key]["inputs"].keys() != inputs.keys():
            # Unknown yet, or a newer version has others.
            known = self.metadata(name, version)
            if signature not in known:
                raise ServingError(f"{name} has no signature {signature!r}, only {', '.join(sorted(known))}", 400)
            self._signatures[key] = known[signature]
        expected = self._signatures[key]
        # TensorFlow Serving's REST interface passes over what it does not know.
        if not inputs.keys() <= expected["inputs"].keys():
            taken, given = (", ".join(sorted(each)) for each in (expected["inputs"], inputs))
            raise ServingError(f"The signature {signature!r} of {name} takes {taken}. Received: {given}", 400)
        return expected["outputs"]

    def _path(self, name, version):
        path = f"/v1/models/{quote(name, safe='')}"
        return path if version is None else f"{path}/versions/{int(version)}"

    def _ask(self, method, path, body=None):
        url = self._url + path
        try:
            answer = self._pool.request(method, url, json=body, redirect=False)
        except urllib3.exceptions.ReadTimeoutError:
            raise ServingError(f"{method} {url}: no answer within {self._timeout:g} s") from None
        except urllib3.exceptions.HTTPError as error:
            raise ServingError(f"{method} {url}: {getattr(error, 'reason', None) or error}") from error
        try:
            content = json.loads(answer.data)
        except ValueError:
            content = None
        if answer.status == 200 and isinstance(content, dict | list):
            return content
        said = content.get("error") if isinstance(content, dict) else None
        raise ServingError(f"{method} {url}: {said or answer.reason or 'no JSON in the answer'}", answer.status)


def _describe(info):
    dtype = info["dtype"].removeprefix("DT_")
    sizes = [int(dimension["size"]) for dimension in info["tensor_shape"].get("dim", [])]
    return FLOATS.get(dtype, dtype.lower()), tuple(None if size == -1 else size for size in sizes)


def _to_json(value):
    if value.dtype.kind in "OS":
        return [{"b64": base64.b64encode(each).decode()} for each in value]
    return value.tolist()


def _from_json(value, dtype):
    if dtype == "string":
        decoded = [base64.b64decode(each["b64"]) if isinstance(each, dict) else each.encode() for each in value]
        return np.array([*decoded, None], object)[:-1]  # NumPy would cut trailing zero bytes without the `None`
    return np.asarray(value, dtype)
