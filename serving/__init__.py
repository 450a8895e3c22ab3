"""Serving exported models: HTTP over SavedModels, and sampling to folders. Nothing here imports the zoo."""

__all__ = ["Client", "ServingError"]


def __getattr__(name):
    if name in __all__:
        from serving import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
