"""The OpenAPI description at /openapi.json, made to say what this server does."""

from fastapi.openapi.utils import get_openapi

VERSION = "1"  # of the interface


def describe(app):
    """Makes `app` describe wrong parameters as it answers them: with 400 and `{"error": ...}`, not FastAPI's 422."""

    def schema():
        if app.openapi_schema is None:
            description = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            for operations in description["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                description["components"]["schemas"].pop(name, None)
            app.openapi_schema = description
        return app.openapi_schema

    app.openapi = schema
