"""A client of exported models: the same calls to the built-in server and to TensorFlow Serving, over REST or gRPC.

    client = serving.Client("http://127.0.0.1:8501")
    images = client.sample("emoji-faces", seeds=range(16))  # uint8 [16, 32, 32, 3]

REST needs NumPy, Pillow and urllib3; `grpc://` needs TensorFlow and tensorflow-serving-api as well.
"""

import io
from collections.abc import Iterable
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

DEFAULT_SIGNATURE = "serving_default"


class ServingError(Exception):
    """A server refused a request, or gave no answer.

    Attributes:
        status: HTTP status (over gRPC: the one that TensorFlow Serving's REST interface gives for the same error), or
            `None` where there was no answer.
    """

    def __init__(self, message, status=None):
        super().__init__(message if status is None else f"{message} (status {status})")
        self.status = status


class Client:
    """Calls the models of one server.

    A server that answers 503 (full, or still loading), resets the connection or cannot be reached is asked again,
    after what its `Retry-After` says (at most 60 s) or after growing pauses of at most 5 s. An answer that does not
    come in time is not asked for again. A client may be used by several threads.

    Args:
        url: `http://HOST:PORT` or `https://...` for REST, `grpc://HOST:PORT` or `grpcs://...` (TLS) for gRPC.
        timeout: Seconds to wait for an answer: to one attempt over REST, to all attempts together over gRPC.
        retries: Attempts after the first one; over gRPC at most 4.
        token: Bearer token, where the server asks for one.
        batch_size: Rows that one request of `sample`, `generate`, `latents`, `discriminate`, `encode`, `decode` or
            `reconstruct` carries at most; more are sent in several. `predict` sends what it is given.

    Raises:
        ValueError: If the address or a number is not of this form.
    """

    def __init__(self, url, timeout=30.0, retries=3, token=None, batch_size=32):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
            raise ValueError(f"url must be http://HOST:PORT, https://, grpc:// or grpcs://. Received: {url!r}.")
        for name, value, least in (("retries", retries, 0), ("batch_size", batch_size, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}. Received: {value}.")
        if not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0. Received: {timeout}.")
        self.batch_size = batch_size
        if parts.scheme.startswith("grpc"):
            from serving.client_grpc import Transport
        else:
            from serving.client_rest import Transport
        self._transport = Transport(url.rstrip("/"), timeout=timeout, retries=retries, token=token)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Closes the connections."""
        self._transport.close()

    def models(self):
        """Returns what the built-in server says of its models: a list of dictionaries (`name`, `versions` ...).

        Raises:
            ServingError: Also from TensorFlow Serving, which does not list its models; see `status`.
        """
        return self._transport.models()

    def status(self, name, version=None):
        """Returns `{version: state}` of a model, such as `{1: "AVAILABLE"}`."""
        return self._transport.status(name, version)

    def metadata(self, name, version=None):
        """Returns `{signature: {"inputs" | "outputs": {tensor: (dtype, shape)}}}`; open dimensions are `None`."""
        return self._transport.metadata(name, version)

    def predict(self, name, inputs, signature=DEFAULT_SIGNATURE, version=None):
        """Runs a signature once.

        Args:
            name: Name of the model.
            inputs: `{tensor: array}`, each with a leading batch axis. Arrays of bytes have the dtype `object`.
            signature: Name of the signature.
            version: Version of the model; default the newest.

        Returns:
            `{tensor: array}`, in the dtypes of the signature.

        Raises:
            ServingError: If the server refuses it or does not answer.
        """
        inputs = {tensor: np.asarray(value) for tensor, value in inputs.items()}
        return self._transport.predict(name, inputs, signature, version)

    def sample(self, name, seeds, labels=None, truncation=1.0, version=None):
        """Returns the images of seeds.

        Args:
            name: Name of the model.
            seeds: Integers `[n]`, or one; the same seed gives the same image.
            labels: Index of a class, or `[n]` of them; a conditional model needs it, others have none.
            truncation: 0 to 1, or `[n]`: 1 as trained, lower less varied and more typical.
            version: Version of the model; default the newest.

        Returns:
            uint8 `[n, height, width, channels]`.

        Raises:
            ServingError: If the server refuses it or does not answer.
        """
        seeds = _seeds(seeds)
        inputs = {"seed": seeds, "truncation": np.broadcast_to(np.float32(truncation), seeds.shape)}
        inputs |= _labels(labels, len(seeds))
        if self._transport.binary:
            return self._rows(name, inputs, "sample", version)["images"]
        # As JSON numbers an image is many times larger than as PNG, which loses nothing.
        encoded = self._rows(name, inputs, "sample_png", version)["image_bytes"]
        return np.stack([_decode(each) for each in encoded])

    def latents(self, name, seeds, version=None):
        """Returns the latent vectors of seeds, float32 `[n, d]`, for `generate`."""
        return self._rows(name, {"seed": _seeds(seeds)}, "latents", version)["z"]

    def generate(self, name, z, labels=None, version=None):
        """Returns the images of latent vectors `[n, d]`: float32 `[n, height, width, channels]` in [-1, 1]."""
        inputs = {"z": np.asarray(z, np.float32)}
        return self._rows(name, inputs | _labels(labels, len(inputs["z"])), DEFAULT_SIGNATURE, version)["images"]

    def discriminate(self, name, images, labels=None, version=None):
        """Returns the logits of a GAN's discriminator for uint8 images, float32 `[n]`; above 0: taken for real."""
        inputs = {"images": np.asarray(images, np.uint8)}
        return self._rows(name, inputs | _labels(labels, len(inputs["images"])), "discriminate", version)["logits"]

    def encode(self, name, images, version=None):
        """Returns the latent vectors of uint8 images by an autoencoder, float32 `[n, d]`."""
        return self._rows(name, {"images": np.asarray(images, np.uint8)}, "encode", version)["z"]

    def decode(self, name, z, version=None):
        """Returns the images of an autoencoder's latent vectors, float32 in [-1, 1]."""
        return self._rows(name, {"z": np.asarray(z, np.float32)}, "decode", version)["images"]

    def reconstruct(self, name, images, version=None):
        """Returns uint8 images encoded and decoded by an autoencoder, uint8."""
        return self._rows(name, {"images": np.asarray(images, np.uint8)}, "reconstruct", version)["images"]

    def _rows(self, name, inputs, signature, version):
        count = len(next(iter(inputs.values())))
        if count == 0:
            raise ValueError(f"{signature} needs at least one row. Received: none.")
        parts = [
            self.predict(
                name,
                {tensor: value[start : start + self.batch_size] for tensor, value in inputs.items()},
                signature,
                version,
            )
            for start in range(0, count, self.batch_size)
        ]
        return {tensor: np.concatenate([part[tensor] for part in parts]) for tensor in parts[0]}


def _seeds(seeds):
    return np.array(list(seeds) if isinstance(seeds, Iterable) else [seeds], np.int64)


def _labels(labels, count):
    return {} if labels is None else {"label": np.broadcast_to(np.asarray(labels, np.int64), count)}


def _decode(png):
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels
