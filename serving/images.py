"""Addresses of pictures: one image, a grid, a walk between two seeds, an archive."""

import hashlib
import secrets
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from serving import pictures
from serving.errors import invalid, unavailable
from serving.interpolation import animation
from serving.parameters import (
    Fraction,
    Label,
    Name,
    OptionalSeed,
    SecondSeed,
    Seed,
    Seeds,
    Truncation,
    Version,
    responses,
)
from serving.servable import INT64, consecutive
from serving.threads import here_or_in_thread

RANDOM_SEEDS = 2**31
NO_STORE = {"Cache-Control": "no-store"}
NOT_MODIFIED = {"304": {"description": "As the client has it"}}


def router(backend, limits):
    """Returns the routes.

    Args:
        backend: `Repository` or `Upstream`.
        limits: `Limits`.
    """
    routes = APIRouter(tags=["pictures"])
    Count = Annotated[int, Query(ge=1, le=limits.max_count, description="Images, of successive seeds")]
    Frames = Annotated[
        int, Query(ge=2, le=limits.max_frames, description="Images on the way there; the way back shows them again")
    ]

    default_count, default_frames = min(16, limits.max_count), min(24, limits.max_frames)

    @routes.get("/models/{name}/image.png", response_class=Response, responses=responses("image/png", **NOT_MODIFIED))
    async def image(
        request: Request,
        name: Name,
        seed: OptionalSeed = None,
        label: Label = None,
        truncation: Truncation = 1.0,
        version: Version = None,
        seed_b: SecondSeed = None,
        t: Fraction = None,
    ):
        """One image. Without a seed it is another one each time, and the header X-Seed says its seed."""
        if (seed_b is None) != (t is None) or (t is not None and seed is None):
            raise invalid("seed, seed_b and t go together: the image at the place t, 0 to 1, from seed to seed_b.")
        async with backend.lease(name, version) as servable:
            if seed is None:
                return await fresh_image(servable, label, truncation)
            if t is None:
                draw = servable.sample(np.array([seed], np.int64), label, truncation)
            else:
                draw = servable.walk(seed, seed_b, [t], label, truncation)
            key = ("image", seed, label, truncation, seed_b, t)
            return await _answer(request, servable, key, version, draw, lambda images: pictures.png(images[0]))

    @routes.get("/models/{name}/grid.png", response_class=Response, responses=responses("image/png", **NOT_MODIFIED))
    async def grid(
        request: Request,
        name: Name,
        seed: Seed = 0,
        count: Count = default_count,
        label: Label = None,
        truncation: Truncation = 1.0,
        version: Version = None,
    ):
        """The images of the seeds `seed`, `seed + 1` ... as one picture, eight a row."""
        async with backend.lease(name, version) as servable:
            limits.check_pixels("count", count, servable.image_shape)
            draw = servable.sample(consecutive(seed, count), label, truncation)
            key = ("grid", seed, count, label, truncation)
            return await _answer(
                request, servable, key, version, draw, lambda images: pictures.png(pictures.grid(images))
            )

    @routes.get("/models/{name}/walk.webp", response_class=Response, responses=responses("image/webp", **NOT_MODIFIED))
    async def walk(
        request: Request,
        name: Name,
        seed_a: Seed,
        seed_b: Seed,
        frames: Frames = default_frames,
        label: Label = None,
        truncation: Truncation = 1.0,
        version: Version = None,
    ):
        """An endless animation from one seed's image to another's and back."""
        async with backend.lease(name, version) as servable:
            limits.check_pixels("frames", frames, servable.image_shape)
            draw = servable.walk(seed_a, seed_b, np.linspace(0, 1, frames), label, truncation)
            key = ("walk", seed_a, seed_b, frames, label, truncation)
            return await _answer(request, servable, key, version, draw, _there_and_back, "image/webp")

    @routes.get(
        "/models/{name}/images.zip", response_class=Response, responses=responses("application/zip", **NOT_MODIFIED)
    )
    async def images(
        request: Request,
        name: Name,
        seeds: Seeds,
        label: Label = None,
        truncation: Truncation = 1.0,
        version: Version = None,
    ):
        """The images of some seeds, each a PNG file, in a zip archive."""
        chosen = _parse_seeds(seeds)
        limits.check_count("seeds", len(chosen))
        async with backend.lease(name, version) as servable:
            limits.check_pixels("seeds", len(chosen), servable.image_shape)
            draw = servable.sample(np.array(chosen, np.int64), label, truncation)

            def pack(drawn):
                stem = f"{servable.name}-{servable.version}-seed"
                return pictures.archive({f"{stem}{seed}.png": pictures.png(each) for seed, each in zip(chosen, drawn)})

            key = ("zip", *chosen, label, truncation)
            return await _answer(request, servable, key, version, draw, pack, "application/zip")

    @routes.get("/example1.png", response_class=Response, responses=responses("image/png"))
    async def example(model: str | None = None):
        """A fresh image at each reload, of the first model or of the one named."""
        if model is None:
            model = next(iter(await backend.servables()), None)
            if model is None:
                raise unavailable("No model is served yet. Try again after Retry-After.")
        async with backend.lease(model) as servable:
            return await fresh_image(servable)

    return routes


async def fresh_image(servable, label=None, truncation=1.0):
    """Returns the response of an image of a random seed."""
    seed = secrets.randbelow(RANDOM_SEEDS)
    drawn = await servable.sample(np.array([seed], np.int64), label, truncation)
    content = await here_or_in_thread(drawn.size, pictures.png, drawn[0])
    return Response(content, media_type="image/png", headers={**NO_STORE, "X-Seed": str(seed)})


async def _answer(request, servable, key, version, draw, encode, media_type="image/png"):
    """Returns the response of pictures that may be kept: the same request gives the same ones.

    Args:
        request: The request.
        servable: `Servable` that draws them.
        key: What they depend on, beside the model.
        version: The version asked for; `None` where it was the newest, which may be another one in a moment.
        draw: Coroutine that gives uint8 images.
        encode: Function that makes a file of them.
        media_type: Of the file.
    """
    parts = (servable.name, servable.version, servable.identity, *key)
    # Weak: an image that was computed with others may differ from itself by one level in a few places.
    tag = f'W/"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache" if version is None else "private, max-age=300"}
    if tag in [each.strip() for each in request.headers.get("if-none-match", "").split(",")]:
        draw.close()
        return Response(status_code=304, headers=headers)
    images = await draw
    content = await here_or_in_thread(images.size, encode, images)
    return Response(content, media_type=media_type, headers=headers)


def _there_and_back(images):
    return animation(np.concatenate([images, images[-2:0:-1]]), "webp")


def _parse_seeds(text):
    seeds = [*dict.fromkeys(map(int, text.split(",")))]
    for seed in seeds:
        if not INT64.min <= seed <= INT64.max:
            raise invalid(f"seeds must be from {INT64.min} to {INT64.max}. Received: {seed}")
    return seeds
