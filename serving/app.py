"""`python -m serving.app`: serves exported models over HTTP, with a page to look at them.

It loads SavedModels with TensorFlow alone. Wrong options are answered before TensorFlow is imported, and the server
answers before the models are loaded.
"""

import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from serving.options import build_parser, resolve

STATIC = Path(__file__).parent / "static"
logger = logging.getLogger("serving")


def create_app(options):
    """Returns the ASGI application.

    Args:
        options: `serving.options.Options`.

    Returns:
        `(application, drain)`; `drain()` makes /readyz say no, and every answer the last one of its connection.
    """
    import fastapi
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse
    from fastapi.staticfiles import StaticFiles
    from starlette.exceptions import HTTPException

    from serving import catalogue, images, openapi, quiz, rest
    from serving.errors import ApiError
    from serving.limits import Guard, Limits, answer_api_error, answer_http_error, answer_validation_error
    from serving.metrics import Instrumented, Metrics

    metrics = Metrics()
    limits = Limits(options.max_body, options.max_count, options.max_pixels, options.max_frames, options.timeout)
    backend = create_backend(options, metrics)
    draining = []

    @contextlib.asynccontextmanager
    async def lifespan(app):
        await backend.start()
        yield
        await backend.stop()

    app = fastapi.FastAPI(
        title="Keras Small-Image Zoo",
        description="Exported generative models: pictures, a quiz, and TensorFlow Serving's REST interface.",
        version=openapi.VERSION,
        docs_url=None,  # its page loads from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        exception_handlers={
            ApiError: answer_api_error,
            HTTPException: answer_http_error,
            RequestValidationError: answer_validation_error,
        },
    )
    app.include_router(catalogue.router(backend, metrics, draining))
    app.include_router(images.router(backend, limits))
    app.include_router(quiz.router(backend))
    app.include_router(rest.router(backend, limits))
    app.get("/", include_in_schema=False)(lambda: FileResponse(STATIC / "index.html"))
    app.mount("/static", StaticFiles(directory=STATIC))
    openapi.describe(app)
    guarded = Guard(app, limits, options.token, lambda: bool(draining))
    return Instrumented(guarded, metrics), lambda: draining.append(True)


def create_backend(options, metrics):
    """Returns what answers: the models of a directory, or an upstream TensorFlow Serving."""
    if options.upstream:
        from serving.upstream import Upstream

        return Upstream(
            options.upstream, directory=options.models, names=options.upstream_models, timeout=options.timeout
        )
    from serving.models import Repository

    batching = {"max_batch": options.max_batch, "max_wait": options.batch_wait, "max_queue": options.queue}
    return Repository(
        options.models, keep=options.versions, poll_seconds=options.poll, batching=batching, metrics=metrics
    )


def main(argv=None):
    """Runs the command line; returns the exit status: 0 (ended by SIGTERM), 1 (failed), 2 (wrong option) or 130."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        options = resolve(arguments)
    except ValueError as error:
        parser.exit(2, f"serving.app: {error}\n")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it has a line for every malformed request
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        with bind(options.host, options.port) as listener:
            serve(options, listener)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        print(f"serving.app: {explain(error, options)}", file=sys.stderr)
        return 1
    return 0


def bind(host, port):
    """Returns a bound socket.

    Raises:
        OSError: If the address is not to be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def explain(error, options):
    """Returns what to tell of an address that cannot be bound."""
    if error.errno == errno.EADDRINUSE:
        return f"port {options.port} of {options.host} is taken. Try another one: --port {options.port + 1}"
    return f"{options.host}:{options.port} cannot be used: {error.strerror or error}"


def serve(options, listener):
    """Serves on a bound socket until a signal ends it."""
    from serving import server

    app, drain = create_app(options)
    host, port = listener.getsockname()[:2]
    what = f"{options.upstream}" if options.upstream else f"{options.models}"
    print(f"http://{f'[{host}]' if ':' in host else host}:{port} serves {what} (Ctrl-C ends it)", flush=True)
    if not options.local and not options.token:
        logger.warning("Other machines can use this server, and no token is asked of them: see --token-file.")
    server.run(app, listener, on_exit=drain, max_connections=options.max_connections, seconds=options.timeout)


if __name__ == "__main__":
    sys.exit(main())
