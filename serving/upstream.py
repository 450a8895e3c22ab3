"""A front for a TensorFlow Serving: its REST interface passed on, and pictures made from its answers.

TensorFlow Serving does not list its models. Their names come from the directory of exports, or from the command line;
cards, reports and real images from that directory, where they lie there.
"""

import asyncio
import contextlib
import json
import logging
import time
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np

from serving.errors import ApiError, not_found, shown, unavailable
from serving.saved_model import first_line, locate
from serving.servable import Servable, Signature
from serving.tensors import TensorInfo, dump_json, to_array

logger = logging.getLogger("serving")
REMEMBER_SECONDS = 2.0  # what is known of a model's versions and signatures
# DT_FLOAT -> float32; the other types have NumPy's names in capitals.
TENSORFLOW_NAMES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}
PASSED_ON = ("content-type", "retry-after")


class Upstream:
    """Serves what a TensorFlow Serving serves.

    Args:
        url: Its REST address.
        directory: Exports on this machine, for cards and real images.
        names: Names of its models; if there are none, those of `directory`.
        timeout: Seconds to wait for an answer.
    """

    waiting_rows = 0

    def __init__(self, url, *, directory, names, timeout):
        self._client = httpx.AsyncClient(
            base_url=url, timeout=timeout, limits=httpx.Limits(max_connections=64), follow_redirects=False
        )
        self._directory = Path(directory)
        self._names = names
        self._ready = False
        self._remembered = {}
        self._task = None

    async def start(self):
        """Begins to look whether the upstream server is ready."""
        self._task = asyncio.create_task(self._look())

    async def stop(self):
        """Closes the connections."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._client.aclose()

    @property
    def ready(self):
        """Whether a model can be served."""
        return self._ready

    async def _look(self):
        while True:
            try:
                self._ready = bool(await self.servables())
            except ApiError as error:
                self._ready = False
                logger.warning("%s", error.message)
            except Exception:
                self._ready = False
                logger.exception("Looking for models failed")
            await asyncio.sleep(REMEMBER_SECONDS)

    async def servables(self):
        """Returns `{name: [Servable of each version that is served, ascending]}`, by name."""
        found = {}
        for name in self._names or await asyncio.to_thread(_directories, self._directory):
            found[name] = [await self._servable(name, number) for number in await self._available(name)]
        return {name: served for name, served in sorted(found.items()) if served}

    @contextlib.asynccontextmanager
    async def lease(self, name, number=None):
        """Gives the `Servable` of a version, by default the newest.

        Raises:
            ApiError: 404 if there is none; 503 if the upstream server does not answer.
        """
        available = await self._available(name)
        if not available or (number is not None and number not in available):
            wanted = "Latest" if number is None else f"Specific version {number}"
            raise not_found(f"Servable not found for request: {wanted}({shown(name)[1:-1]})")
        yield await self._servable(name, available[-1] if number is None else number)

    async def _available(self, name):
        try:
            answer = await self._remember(f"/v1/models/{quote(name, safe='')}")
        except ApiError as error:
            if error.status != 404:
                raise
            return []
        return sorted(int(each["version"]) for each in answer["model_version_status"] if each["state"] == "AVAILABLE")

    async def _servable(self, name, number):
        path = f"/v1/models/{quote(name, safe='')}/versions/{number}"
        metadata = (await self._remember(f"{path}/metadata"))["metadata"]["signature_def"]["signature_def"]
        signatures = {
            signature: Signature(_infos(definition["inputs"]), _infos(definition["outputs"]))
            for signature, definition in metadata.items()
            if not signature.startswith("__saved_model")
        }

        async def run(signature, inputs):
            return await self._predict(path, signature, inputs, signatures[signature].outputs)

        directory = self._directory / name / str(number) if name in _directories(self._directory) else None
        card = {}
        if directory is not None and directory.is_dir():
            with contextlib.suppress(ValueError):
                card = locate(directory).card
        return Servable(name, number, card, signatures, metadata, run, directory, identity=json.dumps(card))

    async def _remember(self, path):
        """Returns the JSON at a path, not older than a moment."""
        known = self._remembered.get(path)
        if known is None or time.monotonic() - known[0] > REMEMBER_SECONDS:
            status, _, body = await self.forward("GET", path)
            if status != 200:
                raise ApiError(status if status in (404, 503) else 502, _error_of(body))
            self._remembered = {each: value for each, value in self._remembered.items()
                                if time.monotonic() - value[0] <= REMEMBER_SECONDS}  # fmt: skip
            known = self._remembered[path] = time.monotonic(), json.loads(body)
        return known[1]

    async def _predict(self, path, signature, inputs, infos):
        status, _, body = await self.forward(
            "POST",
            f"{path}:predict",
            dump_json(
                {
                    "signature_name": signature,
                    "inputs": {name: np.ascontiguousarray(array) for name, array in inputs.items()},
                }
            ),
        )
        if status != 200:
            if status == 503:
                raise unavailable(_error_of(body))
            raise ApiError(status if 400 <= status < 500 else 502, _error_of(body))
        outputs = json.loads(body)["outputs"]
        if len(infos) == 1:  # the name of an only output is left out
            outputs = {next(iter(infos)): outputs}
        return {name: to_array(name, value, infos[name]) for name, value in outputs.items()}

    async def forward(self, method, path, body=b""):
        """Sends a request on.

        Args:
            method: GET or POST.
            path: Below the upstream address, percent-encoded.
            body: JSON.

        Returns:
            `(status, headers to pass on, body)`.

        Raises:
            ApiError: 503 if the upstream server does not answer; 504 if not in time.
        """
        try:
            answer = await self._client.request(
                method, path, content=body, headers={"Content-Type": "application/json"} if body else {}
            )
        except httpx.TimeoutException:
            raise ApiError(504, "The upstream server gave no answer in time.") from None
        except httpx.HTTPError as error:
            logger.warning("The upstream server cannot be reached: %s", first_line(error))
            raise unavailable("The upstream server cannot be reached. Try again after Retry-After.") from None
        headers = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
        return answer.status_code, headers, answer.content


def _directories(directory):
    try:
        return sorted(each.name for each in directory.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError:
        return []


def _infos(tensors):
    infos = {}
    for name, info in tensors.items():
        shape = info["tensor_shape"]
        sizes = tuple(None if int(each["size"]) == -1 else int(each["size"]) for each in shape.get("dim", []))
        dtype = TENSORFLOW_NAMES.get(info["dtype"], info["dtype"].removeprefix("DT_").lower())
        infos[name] = TensorInfo(dtype, None if shape.get("unknown_rank") else sizes)
    return infos


def _error_of(body):
    try:
        return f"The upstream server answered: {json.loads(body)['error']}"
    except (ValueError, KeyError, TypeError):
        return "The upstream server answered with an error that is not JSON."
