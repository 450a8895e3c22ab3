"""The Car Connection picture set: 60,000 car photographs whose file names say what is on them.

A name is MAKE_MODEL_YEAR_ and further specifications, such as `Acura_ILX_2013_28_16_110_15_4_70_55_179_39_FWD_5_4_4dr_aWg.jpg`.
Labels are the makes; model and year are features of their own. There is one split, `train`.
"""

import re

import numpy as np
import tensorflow_datasets as tfds

from training.datasets import SETS
from training.datasets.manual import ManualBuilder, Picture, listed_files, report_left_out

NAME = re.compile(r"(?:.*/)?(?P<make>[^_/]+)_(?P<model>[^/]+?)_(?P<year>(?:19|20)\d\d)[_.][^/]*")


class CarConnection(ManualBuilder):
    """The Car Connection, read from the zip without unpacking it."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = SETS["car_connection"].instructions
    further_features = {"model": tfds.features.Text(), "year": np.int32}

    def pictures(self, folder):
        names, read = listed_files(folder / "car_connection.zip", self.title)
        matches = {name: NAME.fullmatch(name) for name in names}
        report_left_out(self.title, [f"{name}: no MAKE_MODEL_YEAR_" for name in names if not matches[name]])
        pictures = [
            Picture(name, "train", match["make"], {"model": match["model"], "year": int(match["year"])})
            for name, match in matches.items()
            if match
        ]
        return pictures, read
