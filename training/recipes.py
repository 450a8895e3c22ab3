"""Named experiments: `python -m training.fit --recipe NAME`. Explicit options win over a recipe's."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A named set of options of `training.fit`, and where it comes from.

    Args:
        summary: What it makes.
        options: Values of the command line's options, by their Python names.
        reported: What its source reported, or what was measured here, with the hardware.
    """

    summary: str
    options: Mapping[str, Any]
    reported: str


EXPERIMENTS = {
    "emoji-faces-small": Experiment(
        summary="Emoji faces at 32 px with a quarter of the SN-GAN's width: the smallest run worth looking at.",
        options={
            "arch": "sngan",
            "data": "emoji",
            "classes": ["Smileys & Emotion"],
            "size": 32,
            "steps": 2400,
            "batch_size": 32,
            "settings": ["base_filters=16", "ema_decay=0.99"],
            "augment": "color,translation",
        },
        reported="",
    ),
}
