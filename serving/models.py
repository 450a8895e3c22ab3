"""The models of a directory: found, loaded, replaced by newer versions, and drained, while requests go on.

Versions are directories `NAME/NUMBER` with a `saved_model.pb`; exports are renamed into place when they are complete.
The newest ones are served. A newer one is loaded beside them and takes over when it is ready; an old one answers what
it has accepted and is then unloaded. One that cannot be loaded is reported, and the old ones go on.

Everything but loading and computing happens on the event loop, so that nothing here needs a lock.
"""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.batching import Batcher
from serving.errors import not_found, shown, unavailable
from serving.saved_model import first_line, import_tensorflow, locate
from serving.servable import Servable, Signature
from serving.tensors import TensorInfo

logger = logging.getLogger("serving")
COMPUTING_THREADS = 2
WARM_UP_SECONDS = 5.0


@dataclasses.dataclass(eq=False)
class Version:
    """A version of a model in the states of TensorFlow Serving: START, LOADING, AVAILABLE, UNLOADING, END."""

    number: int
    identity: str
    state: str = "START"
    error: str = ""
    servable: Servable | None = None
    batchers: dict = dataclasses.field(default_factory=dict)
    users: int = 0

    @property
    def available(self):
        return self.state == "AVAILABLE"


class Repository:
    """Serves a directory of exported models.

    Args:
        directory: Holds `NAME/VERSION`.
        keep: How many versions of a model are served, the newest ones.
        poll_seconds: Time between looks at the directory.
        batching: Arguments of `Batcher`.
        metrics: `serving.metrics.Metrics`.
    """

    def __init__(self, directory, *, keep, poll_seconds, batching, metrics):
        self._directory = Path(directory)
        self._keep = keep
        self._poll_seconds = poll_seconds
        self._batching = batching
        self._metrics = metrics
        self._models = {}  # {name: {number: Version}}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._computing = ThreadPoolExecutor(COMPUTING_THREADS, thread_name_prefix="computing")
        self._task = None
        self._looked = False

    async def start(self):
        """Begins to load what is there, and to look for more, in the background."""
        self._task = asyncio.create_task(self._poll())

    async def stop(self):
        """Ends the background work."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._computing.shutdown(wait=True)

    @property
    def ready(self):
        """Whether everything that was there at the start has been tried, and something can be served."""
        return self._looked and any(version.available for version in self._versions())

    async def servables(self):
        """Returns `{name: [Servable of each version that is served, ascending]}`, by name."""
        found = {}
        for name, versions in sorted(self._models.items()):
            served = [versions[number].servable for number in sorted(versions) if versions[number].available]
            if served:
                found[name] = served
        return found

    @contextlib.asynccontextmanager
    async def lease(self, name, number=None):
        """Gives the `Servable` of a version, by default the newest; it is not unloaded meanwhile.

        Raises:
            ApiError: 404 if there is none; 503 if it is being loaded.
        """
        version = self._find(name, number)
        version.users += 1
        try:
            yield version.servable
        finally:
            version.users -= 1
            if not version.users and version.state == "UNLOADING":
                self._unload(version)

    def _find(self, name, number):
        versions = self._models.get(name)
        wanted = "Latest" if number is None else f"Specific version {number}"
        if versions is None and not self._looked:
            raise unavailable("The models are being loaded. Try again after Retry-After.")
        if number is None:
            available = [each for each in (versions or {}).values() if each.available]
            if available:
                return max(available, key=lambda each: each.number)
            loading = any(each.state in ("START", "LOADING") for each in (versions or {}).values())
        else:
            version = (versions or {}).get(number)
            if version is not None and version.available:
                return version
            loading = version is not None and version.state in ("START", "LOADING")
        if loading:
            raise unavailable(f"Model {shown(name)} is being loaded. Try again after Retry-After.")
        raise not_found(f"Servable not found for request: {wanted}({shown(name)[1:-1]})")

    async def status(self, name, number=None):
        """Returns what TensorFlow Serving's GetModelStatus says, JSON.

        Raises:
            ApiError: 404 if there is no such model or version.
        """
        versions = self._models.get(name, {})
        if number is not None and number not in versions:
            raise not_found(f"Could not find version {number} of model {shown(name)[1:-1]}")
        if not versions:
            raise not_found(f"Could not find any versions of model {shown(name)[1:-1]}")
        chosen = (
            [versions[number]] if number is not None else [versions[each] for each in sorted(versions, reverse=True)]
        )
        return {
            "model_version_status": [
                {
                    "version": str(each.number),
                    "state": each.state,
                    "status": {"error_code": "UNKNOWN" if each.error else "OK", "error_message": each.error},
                }
                for each in chosen
            ]
        }

    async def _poll(self):
        while True:
            try:
                await self._refresh()
            except OSError as error:
                logger.warning("The directory of the models cannot be read: %s", first_line(error))
            except Exception:
                logger.exception("Looking for models failed")
            self._looked = True
            await asyncio.sleep(self._poll_seconds)

    async def _refresh(self):
        found = await asyncio.to_thread(scan, self._directory)
        for name in found:
            # Known at once, so that requests for them are told to wait.
            versions = self._models.setdefault(name, {})
            for number, identity in sorted(found[name].items(), reverse=True)[: self._keep]:
                versions.setdefault(number, Version(number, identity))
        for name in [*self._models]:
            await self._refresh_model(name, found.get(name, {}))

    async def _refresh_model(self, name, found):
        versions = self._models[name]
        served = 0
        for number in sorted(found, reverse=True):
            version = versions.get(number)
            if served < self._keep:
                if self._must_load(version, found[number]):
                    version = await self._load(name, number, found[number], replaced=version)
                served += version.available
            elif version is not None and version.available:
                self._retire(version)
        for number in [*versions]:
            if number not in found:
                if versions[number].available:
                    self._retire(versions[number])
                del versions[number]
        if not versions:
            del self._models[name]

    @staticmethod
    def _must_load(version, identity):
        if version is None or version.identity != identity or version.state == "START":
            return True
        return version.state == "END" and not version.error  # it had made room for a newer one, which is gone

    async def _load(self, name, number, identity, replaced):
        """Loads a version and returns it.

        One of the same number, whose files have changed, goes on meanwhile, and after that if the new files are bad.
        """
        version = Version(number, identity, state="LOADING")
        goes_on = replaced is not None and replaced.available
        if not goes_on:
            self._models[name][number] = version
        try:
            version.servable, version.batchers = await asyncio.get_running_loop().run_in_executor(
                self._loader, self._load_files, name, number, identity
            )
            version.state = "AVAILABLE"
            logger.info("%s/%s: serving", name, number)
        except Exception as error:  # whatever a damaged file leads TensorFlow into
            version.state, version.error = "END", f"It could not be loaded ({type(error).__name__}); the log says why."
            logger.error("%s/%s cannot be loaded: %s", name, number, first_line(error))
            if goes_on:
                replaced.identity = identity  # not tried again until the files change again
                return replaced
        if goes_on:
            self._models[name][number] = version
            self._retire(replaced)
        return version

    def _load_files(self, name, number, identity):
        """Loads a SavedModel and calls it at the sizes that it will meet, as long as that takes little time."""
        directory = self._directory / name / str(number)
        loaded = LoadedModel(directory)
        batchers = {
            signature: Batcher(
                loaded.functions[signature],
                self._computing,
                batched=described.batched,
                on_batch=self._metrics.batches(name, signature),
                **self._batching,
            )
            for signature, described in loaded.signatures.items()
        }

        async def run(signature, inputs):
            return await batchers[signature](inputs)

        loaded.warm_up(self._batching["max_batch"])
        card = locate(directory).card
        settle()
        return Servable(name, number, card, loaded.signatures, loaded.metadata, run, directory, identity), batchers

    @property
    def waiting_rows(self):
        """Rows that wait for a batch, over all models."""
        return sum(batcher.waiting_rows for version in self._versions() for batcher in version.batchers.values())

    def _versions(self):
        return [version for versions in self._models.values() for version in versions.values()]

    def _retire(self, version):
        version.state = "UNLOADING"
        if not version.users:
            self._unload(version)

    def _unload(self, version):
        logger.info("%s/%s: unloaded", version.servable.name, version.number)
        version.state, version.servable, version.batchers = "END", None, {}
        self._loader.submit(settle)


def settle():
    """Collects what an unloaded model leaves, and spares what stays from being looked at again and again.

    Loaded models refer to themselves in circles, and TensorFlow makes a million objects that never go away: looking
    through them at every collection took a quarter of the time of a busy server.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def scan(directory):
    """Returns `{name: {number: identity}}` of the complete versions in a directory."""
    found = {}
    for model in os.scandir(directory):
        if model.name.startswith(".") or not model.is_dir():
            continue
        versions = {}
        for version in os.scandir(model.path):
            if version.name.isascii() and version.name.isdecimal() and str(int(version.name)) == version.name:
                with contextlib.suppress(OSError):  # no SavedModel, or gone meanwhile
                    versions[int(version.name)] = identify(version.path)
        if versions:
            found[model.name] = versions
    return found


def identify(directory):
    """Returns a text that changes when the files of a SavedModel do.

    Raises:
        OSError: If there is none.
    """
    paths = [Path(directory, "saved_model.pb"), *sorted(Path(directory, "variables").glob("*"))]
    return ";".join(f"{path.name}:{(stat := path.stat()).st_size}:{stat.st_mtime_ns}" for path in paths)


class LoadedModel:
    """A SavedModel in memory.

    Args:
        directory: Holds `saved_model.pb`.

    Attributes:
        functions: `{signature: function of {input: array} that returns {output: array}}`.
        signatures: `{signature: Signature}`.
        metadata: Its `signature_def`, JSON.
    """

    def __init__(self, directory):
        self._tf = import_tensorflow()
        loaded = self._tf.saved_model.load(str(directory))
        self.signatures, self.functions = {}, {}
        for name, function in loaded.signatures.items():
            specs = function.structured_input_signature[1]
            self.signatures[name] = Signature(
                {key: _info(spec) for key, spec in specs.items()},
                {key: _info(spec) for key, spec in function.structured_outputs.items()},
            )
            self.functions[name] = self._function(function, specs)
        if not self.signatures:
            raise ValueError(f"The SavedModel at {directory} has no signatures. Export it with some.")
        self.metadata = read_metadata(directory)

    def _function(self, function, specs):
        def run(inputs):
            constants = {name: self._tf.constant(array, specs[name].dtype) for name, array in inputs.items()}
            return {name: np.asarray(tensor.numpy()) for name, tensor in function(**constants).items()}

        return run

    def warm_up(self, max_batch):
        """Calls every signature at growing sizes; stops when that has taken `WARM_UP_SECONDS`."""
        start, size = time.monotonic(), 1
        while size <= max_batch:
            for name, signature in self.signatures.items():
                if time.monotonic() - start > WARM_UP_SECONDS:
                    return
                if signature.batched and all(None not in info.shape[1:] for info in signature.inputs.values()):
                    with contextlib.suppress(self._tf.errors.InvalidArgumentError):  # zeros may mean nothing to it
                        self.functions[name](
                            {key: _zeros((size, *info.shape[1:]), info.dtype) for key, info in signature.inputs.items()}
                        )
            size *= 2


def _zeros(shape, dtype):
    return np.full(shape, b"", object) if dtype == "string" else np.zeros(shape, dtype)


def _info(spec):
    shape = None if spec.shape.rank is None else tuple(spec.shape.as_list())
    return TensorInfo("string" if spec.dtype.name == "string" else spec.dtype.name, shape)


def read_metadata(directory):
    """Returns the signatures of a SavedModel as TensorFlow Serving's metadata has them, JSON."""
    from google.protobuf import json_format
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString(Path(directory, "saved_model.pb").read_bytes())
    return {
        name: json_format.MessageToDict(
            definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for name, definition in model.meta_graphs[0].signature_def.items()
    }
