"""The parameters that several addresses take, with their bounds, and the answers that all of them may give."""

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel

INT64 = 2**63
MOST_ROUNDS = 2**53  # whole numbers that JavaScript can count to


class Error(BaseModel):
    """Why a request was not answered."""

    error: str


def _seed(text):
    return Query(ge=-INT64, lt=INT64, description=text)


Name = Annotated[str, Path(description="Name of a model")]
VersionInPath = Annotated[int, Path(ge=0, lt=INT64, description="Version of the model")]
Version = Annotated[int | None, Query(ge=0, lt=INT64, description="Version of the model; default the newest")]
Seed = Annotated[int, _seed("The same seed gives the same image")]
OptionalSeed = Annotated[int | None, _seed("The same seed gives the same image; default a random one")]
SecondSeed = Annotated[int | None, _seed("Where the way that `t` is measured on ends; goes with `t`")]
Fraction = Annotated[
    float | None,
    Query(ge=0, le=1, allow_inf_nan=False, description="0 for the image of `seed`, 1 for that of `seed_b`"),
]
Label = Annotated[
    int | None,
    Query(ge=0, lt=INT64, description="Place of a class in `class_names`; default: the seed modulo their number"),
]
Truncation = Annotated[
    float, Query(ge=0, le=1, allow_inf_nan=False, description="1: as trained; lower: less varied, more typical")
]
Seeds = Annotated[
    str, Query(pattern=r"^-?[0-9]{1,19}(,-?[0-9]{1,19})*$", max_length=20_000, description="Seeds, with commas between")
]
Round = Annotated[int, Path(ge=0, lt=MOST_ROUNDS, description="Any number; the same one is the same question")]

ERRORS = {
    status: {"model": Error, "description": text}
    for status, text in {
        400: "A parameter is wrong; the message names it",
        401: "The token is missing or wrong",
        404: "There is no such model or version, or it cannot do this",
        408: "The body did not arrive in time",
        413: "The body is too large",
        503: "Busy or loading: try again after Retry-After",
        504: "No answer in time",
    }.items()
}


def responses(media_type=None, **further):
    """Returns the `responses` of a route: its errors, and the media type of its success."""
    described = {**ERRORS, **{int(status): value for status, value in further.items()}}
    if media_type:
        schema = {"type": "string", "format": "binary"}
        described[200] = {"content": {media_type: {"schema": schema}}, "description": "A file"}
    return described
