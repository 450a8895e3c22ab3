"""What is served, and whether it goes well: the list of models, their cards, health, metrics."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from serving.errors import unavailable
from serving.parameters import Name, Version, responses

NO_CACHE = {"Cache-Control": "no-cache"}


class Model(BaseModel):
    """A model, as its newest version is."""

    name: str
    versions: list[int]
    image_shape: list[int] | None
    arch: str | None
    variant: str | None
    step: int | None
    conditional: bool
    class_names: list[str]
    signatures: list[str]
    has_reals: bool


def router(backend, metrics, draining):
    """Returns the routes.

    Args:
        backend: `Repository` or `Upstream`.
        metrics: `Metrics`.
        draining: A list, true once the server is about to end.
    """
    routes = APIRouter(tags=["models"])

    @routes.get("/models", responses=responses())
    async def models(response: Response) -> list[Model]:
        """The models that are served, by name."""
        response.headers.update(NO_CACHE)
        return [_summary(name, served) for name, served in (await backend.servables()).items()]

    @routes.get("/models/{name}/card.json", response_class=JSONResponse, responses=responses())
    async def card(name: Name, version: Version = None):
        """How a model was made (`model.json`), and the report on it, if there is one."""
        async with backend.lease(name, version) as servable:
            return JSONResponse(servable.described(), headers=NO_CACHE)

    @routes.get("/healthz", response_class=JSONResponse)
    async def healthz():
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", response_class=JSONResponse, responses=responses())
    async def readyz():
        """Whether a model can be used."""
        if draining:
            raise unavailable("The server is about to end.")
        if not backend.ready:
            raise unavailable("No model is served yet.")
        return {"status": "ready"}

    @routes.get("/metrics", response_class=Response, responses=_TEXT)
    async def figures():
        """What Prometheus collects."""
        metrics.waiting_rows.set(backend.waiting_rows)
        metrics.served.clear()
        for name, served in (await backend.servables()).items():
            metrics.served.labels(name).set(len(served))
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


_TEXT = {**responses(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Figures"}}


def _summary(name, served):
    newest = served[-1]

    def said(key, kind):
        """What `model.json`, which anybody may have written, says of it."""
        return newest.card[key] if isinstance(newest.card.get(key), kind) else None

    return Model(
        name=name,
        versions=[each.version for each in served],
        image_shape=newest.image_shape,
        arch=said("arch", str),
        variant=said("variant", str),
        step=said("step", int),
        conditional=newest.conditional,
        class_names=newest.class_names,
        signatures=sorted(newest.signatures),
        has_reals=newest.reals_file is not None,
    )
