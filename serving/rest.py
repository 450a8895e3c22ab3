"""TensorFlow Serving's REST interface, from the models of this process or passed on to the upstream server."""

import re
from urllib.parse import unquote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serving.errors import invalid, shown
from serving.parameters import INT64, responses
from serving.tensors import parse_json, parse_predict, render_predict
from serving.threads import here_or_in_thread

# As TensorFlow Serving has them (model_servers/http_rest_api_util.cc), on the path before it is decoded.
PREDICT = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:(classify|regress|predict)", re.IGNORECASE | re.ASCII
)
STATUS = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata)?", re.IGNORECASE | re.ASCII
)
PREDICT_BODY = {
    "type": "object",
    "properties": {
        "signature_name": {"type": "string", "description": "Default: serving_default"},
        "instances": {"type": "array", "minItems": 1, "description": "Row form: one entry a row"},
        "inputs": {"description": "Column form: an object of inputs, or the only input"},
    },
    "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
}
PREDICT_ANSWER = {"type": "object", "properties": {"predictions": {}, "outputs": {}}}
JSON_OBJECT = {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "JSON"}


def router(backend, limits):
    """Returns the routes.

    Args:
        backend: `Repository` or `Upstream`.
        limits: `Limits`.
    """
    routes = APIRouter(prefix="/v1", tags=["TensorFlow Serving"])
    forward = getattr(backend, "forward", None)

    async def handle(request: Request):
        """Everything below /v1."""
        path = request.scope.get("raw_path", request.url.path.encode()).decode("ascii", "replace")
        body = await request.body()
        asked = (PREDICT if request.method == "POST" else STATUS).fullmatch(path)
        if asked is None:
            raise invalid(f"Malformed request: {request.method} {shown(unquote(path))[1:-1]}")
        if forward is not None:
            status, headers, content = await forward(request.method, path, body)
            return Response(content, status, headers)
        name, number, label, what = asked.groups()
        if name is None:
            raise invalid("Missing model name in request.")
        name, number = unquote(name), _number(number)
        if label is not None:
            raise invalid(f"Unrecognized servable version label: {shown(unquote(label))[1:-1]}. There are none here.")
        if request.method == "POST":
            return await predict(name, number, what.lower(), body)
        if what:
            return await metadata(name, number)
        return JSONResponse(await backend.status(name, number))

    async def metadata(name, number):
        async with backend.lease(name, number) as servable:
            return JSONResponse(
                {
                    "model_spec": {"name": name, "signature_name": "", "version": str(servable.version)},
                    "metadata": {"signature_def": {"signature_def": servable.metadata}},
                }
            )

    async def predict(name, number, method, body):
        document = await here_or_in_thread(len(body), parse_json, body)
        async with backend.lease(name, number) as servable:
            if method != "predict":
                raise invalid(
                    f"{method} takes signatures of tf.Example, which the models here have none of. Use predict."
                )
            request = await here_or_in_thread(len(body), parse_predict, document, servable.signatures)
            servable.check_inputs(request.inputs)
            limits.check_predict(request, servable.signatures[request.signature])
            outputs = await servable.run(request.signature, request.inputs)
            size = sum(array.size for array in outputs.values())
            content = await here_or_in_thread(size, render_predict, outputs, request.row_form)
            return Response(content, media_type="application/json")

    described = {
        "/models/{name}": ("GET", "The state of every version of a model"),
        "/models/{name}/versions/{version}": ("GET", "The state of a version"),
        "/models/{name}/metadata": ("GET", "The signatures of the newest version"),
        "/models/{name}/versions/{version}/metadata": ("GET", "The signatures of a version"),
        "/models/{name}:predict": ("POST", "Runs a signature of the newest version"),
        "/models/{name}/versions/{version}:predict": ("POST", "Runs a signature of a version"),
    }
    for path, (method, summary) in described.items():
        routes.add_api_route(
            path,
            handle,
            methods=[method],
            summary=summary,
            response_class=Response,
            responses=responses() | {200: _answer(method)},
            openapi_extra=_description(path, method),
        )
    routes.add_api_route("/{rest:path}", handle, methods=["GET", "POST"], include_in_schema=False)
    return routes


def _number(text):
    if text is None:
        return None
    if len(text) > 19 or int(text) >= INT64:
        raise invalid(f"Failed to convert version: {shown(text)[1:-1]} to numeric.")
    return int(text)


def _answer(method):
    if method == "GET":
        return JSON_OBJECT
    return {"content": {"application/json": {"schema": PREDICT_ANSWER}}, "description": "What the signature gives"}


def _description(path, method):
    """Returns the parameters and body of a route for the OpenAPI description; it reads them itself."""
    parameters = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if "{version}" in path:
        schema = {"type": "integer", "minimum": 0, "maximum": INT64 - 1}
        parameters.append({"name": "version", "in": "path", "required": True, "schema": schema})
    description = {"parameters": parameters}
    if method == "POST":
        description["requestBody"] = {"required": True, "content": {"application/json": {"schema": PREDICT_BODY}}}
    return description
