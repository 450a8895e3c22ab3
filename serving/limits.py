"""What a request may ask for, and how long it may take: sizes, the token, the headers of every answer."""

import asyncio
import contextlib
import hmac
import logging
from dataclasses import dataclass

from starlette.responses import Response

from serving.errors import ApiError, invalid, shown
from serving.tensors import dump_json

logger = logging.getLogger("serving")
OPEN_PATHS = ("/", "/healthz", "/readyz")  # and the files of the page, which ask for the token
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = [
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
DISCARD_SECONDS = 2.0


@dataclass(frozen=True)
class Limits:
    """Bounds of one request.

    Args:
        max_body: Bytes of its body.
        max_count: Images, or rows of a predict request.
        max_pixels: Pixels of all its images together.
        max_frames: Frames of a walk, one way.
        seconds: Time to the answer, and for the body to arrive.
    """

    max_body: int = 16 * 2**20
    max_count: int = 256
    max_pixels: int = 2**22
    max_frames: int = 60
    seconds: float = 60.0

    def check_count(self, field, count):
        """Raises ApiError if so many images or rows are too many."""
        if count > self.max_count:
            raise invalid(f"{field} must be at most {self.max_count}. Received: {count}")

    def check_pixels(self, field, count, shape):
        """Raises ApiError if several images of a shape, `(height, width, channels)`, have too many pixels."""
        if shape is not None and count > 1 and count * shape[0] * shape[1] > self.max_pixels:
            raise invalid(
                f"{field} must be at most {max(1, self.max_pixels // (shape[0] * shape[1]))} images of {shape[1]} x "
                f"{shape[0]} pixels ({self.max_pixels} pixels in all). Received: {count}"
            )

    def check_predict(self, request, signature):
        """Raises ApiError if a `PredictRequest` of a `Signature` has too many rows, rows of several numbers, or none."""
        if not signature.batched:
            return
        rows = {name: len(array) for name, array in request.inputs.items()}
        if len(set(rows.values())) != 1:
            listed = ", ".join(f"{name} {count}" for name, count in sorted(rows.items()))
            raise invalid(f"The inputs must have the same number of rows. Received: {listed}")
        name, count = next(iter(rows.items()))
        if count == 0:
            raise invalid(f"{name} must have at least one row. Received: none")
        self.check_count(name, count)
        shapes = [info.shape[1:] for info in signature.outputs.values() if info.shape is not None]
        for shape in [*shapes, *(array.shape[1:] for array in request.inputs.values())]:
            if len(shape) == 3 and None not in shape:
                self.check_pixels(name, count, shape)


class Guard:
    """ASGI middleware around the whole application: token, body, time, and the headers of every answer.

    Args:
        app: The application.
        limits: `Limits`.
        token: Text that a client must show as bearer token; `None` asks for none.
        draining: Function that says whether the server is about to end; connections then close with their answers.
    """

    def __init__(self, app, limits, token, draining):
        self._app = app
        self._limits = limits
        self._token = token.encode("utf-8") if token else None
        self._draining = draining

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def finish(message):
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
                if self._draining():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            self._check_token(scope)
            receive = await self._with_body(scope, receive)
            if receive is None:
                return
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, receive, finish)
        except ApiError as error:
            await answer_error(error, finish)
        except TimeoutError:
            if not started:
                await answer_error(ApiError(504, f"No answer within {self._limits.seconds:g} s."), finish)
        except Exception:
            logger.exception("A request failed")
            if not started:
                await answer_error(ApiError(500, "Internal error; the log of the server says more."), finish)

    def _check_token(self, scope):
        path = scope["path"]
        if self._token is None or path in OPEN_PATHS or path.startswith("/static/"):
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, value = given.partition(b" ")
        # Both are compared, whatever the first says, and in constant time.
        matches = hmac.compare_digest(value.strip(), self._token)
        if not matches or scheme.lower() != b"bearer":
            raise ApiError(401, "Send the token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    async def _with_body(self, scope, receive):
        """Returns a `receive` that gives the whole body, which has arrived in time; `None` if the client is gone."""
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length")
        if declared is None and b"transfer-encoding" not in headers:
            return receive
        if declared is not None and int(declared) > self._limits.max_body:
            if b"expect" not in headers:
                await _discard(receive)
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._limits.max_body:
                        if more:
                            await _discard(receive)
                        raise self._too_large()
        except TimeoutError:
            raise ApiError(408, f"The body did not arrive within {self._limits.seconds:g} s.", CLOSE) from None
        messages = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay():
            return messages.pop() if messages else await receive()

        return replay

    def _too_large(self):
        return ApiError(413, f"The body must be at most {self._limits.max_body} bytes.", CLOSE)


CLOSE = {"Connection": "close"}


async def _discard(receive):
    """Reads on for a moment: a client that is still sending would not see an answer to a closed connection."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


async def answer_error(error, send):
    """Sends an `ApiError` over ASGI."""
    body = error_body(error.message)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(message):
    """Returns an error as TensorFlow Serving writes it: `{"error": message}`."""
    return dump_json({"error": message.encode("ascii", "backslashreplace").decode("ascii")})


async def answer_api_error(request, error):
    """Returns the response to an `ApiError`."""
    return Response(error_body(error.message), error.status, error.headers, "application/json")


async def answer_http_error(request, error):
    """Returns the response where there is no such path, or not with this method."""
    message = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    body = error_body(message.get(error.status_code, str(error.detail)))
    return Response(body, error.status_code, error.headers, "application/json")


async def answer_validation_error(request, error):
    """Returns the response to parameters that are missing or wrong: 400, the first one named."""
    first = error.errors()[0]
    field = ".".join(str(each) for each in first["loc"][1:]) or str(first["loc"][0])
    received = "" if first["type"] == "missing" else f" Received: {shown(first.get('input'))}"
    return Response(error_body(f"{field}: {first['msg']}.{received}"), 400, media_type="application/json")
