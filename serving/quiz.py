"""Which one is real? A real image beside one of the model, and the answer.

Nothing is kept: which side is the real one's, which real image it is and the seed of the other follow from the number of
the round and a secret of this process. Both sides are computed and encoded alike, whichever is asked for, so that
neither the file nor the time it takes gives the answer away.
"""

import asyncio
import hashlib
import hmac
import secrets
from typing import Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel

from serving import pictures
from serving.parameters import Label, Name, Round, Version, responses
from serving.threads import here_or_in_thread


class Choice(BaseModel):
    """The side that is taken for the real one."""

    choice: Literal["left", "right"]


class Verdict(BaseModel):
    """Whether that was right, and whose the real images are."""

    correct: bool
    real: Literal["left", "right"]
    credit: str


def router(backend):
    """Returns the routes; `backend` is a `Repository` or an `Upstream`."""
    routes = APIRouter(tags=["quiz"])
    secret = secrets.token_bytes(32)

    def draw(name, number):
        """Returns the side of the real image, and two numbers to choose the images by."""
        digest = hmac.digest(secret, f"{name}\0{number}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        return ("left", "right")[digest[0] & 1], int.from_bytes(digest[1:8]), int.from_bytes(digest[8:15])

    @routes.get("/models/{name}/quiz/{number}/{side}.png", response_class=Response, responses=responses("image/png"))
    async def side(
        name: Name, number: Round, side: Literal["left", "right"], label: Label = None, version: Version = None
    ):
        """One of the two images of a round."""
        async with backend.lease(name, version) as servable:
            reals, _ = await asyncio.to_thread(servable.reals)
            real_side, place, seed = draw(name, number)
            generated = (await servable.sample(np.array([seed], np.int64), label))[0]
            chosen = reals[place % len(reals)] if side == real_side else generated
            content = await here_or_in_thread(chosen.size, pictures.png, chosen)
            return Response(content, media_type="image/png", headers={"Cache-Control": "no-store"})

    @routes.post("/models/{name}/quiz/{number}", responses=responses())
    async def answer(
        name: Name, number: Round, choice: Choice, label: Label = None, version: Version = None
    ) -> Verdict:
        """Whether the side chosen is the real one."""
        async with backend.lease(name, version) as servable:
            _, credit = await asyncio.to_thread(servable.reals)
        real_side, *_ = draw(name, number)
        return Verdict(correct=choice.choice == real_side, real=real_side, credit=credit)

    return routes
