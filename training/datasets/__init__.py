"""Data sets that a user downloads by hand, as builders of tensorflow-datasets: `--data tfds:indoor67/bedroom`.

One module a set, imported when the set is opened. What is to be had where stands here, so that a missing archive is
answered before TensorFlow is imported. `NAME/CLASS` prepares the images of one class alone. Splits are the official ones,
`rest` for images in none of their lists, and `all`; sets without lists have `train`.
"""

import dataclasses
import importlib
import os
from pathlib import Path

from training.decode import DataError


@dataclasses.dataclass(frozen=True)
class ManualSet:
    """A data set whose files a user fetches.

    Args:
        title: What it is called.
        builder: The class of that name in the module `training.datasets.NAME`.
        files: What must lie in the folder of manual downloads, as paths below it.
        instructions: What to get, from where, and how it is to lie there.
        folder: What of an unpacked copy `--data` can take instead.
    """

    title: str
    builder: str
    files: tuple[str, ...]
    instructions: str
    folder: str


SETS = {
    "indoor67": ManualSet(
        title="MIT Indoor 67 (Quattoni and Torralba 2009)",
        builder="Indoor67",
        files=("indoorCVPR_09.tar", "TrainImages.txt", "TestImages.txt"),
        instructions=(
            "Fetch the images, indoorCVPR_09.tar (2.4 GB), and the lists TrainImages.txt and TestImages.txt from the "
            "authors' page, http://web.mit.edu/torralba/www/indoor.html, and put the three there as they are."
        ),
        folder="Images/bedroom",
    ),
    "compcars_surveillance": ManualSet(
        title="CompCars, surveillance part (Yang et al. 2015)",
        builder="CompcarsSurveillance",
        files=("sv_data/image", "sv_data/train_surveillance.txt", "sv_data/test_surveillance.txt"),
        instructions=(
            "Ask for the surveillance data as http://mmlab.ie.cuhk.edu.hk/datasets/comp_cars/index.html says. The "
            "archive (sv_data.zip and its parts sv_data.z01 ...) has a password, so you must unpack it yourself: "
            "`zip -F sv_data.zip --out whole.zip`, then `unzip whole.zip`, which asks for the password. Put the folder "
            "sv_data there."
        ),
        folder="sv_data/image",
    ),
    "car_connection": ManualSet(
        title="The Car Connection picture set",
        builder="CarConnection",
        files=("car_connection.zip",),
        instructions=(
            "Fetch the zip of 60,000 pictures that "
            "https://github.com/nicolas-gervais/predicting-car-price-from-scraped-data (picture-scraper) leads to, and "
            "put it there, still packed, under the name car_connection.zip."
        ),
        folder="car_connection.zip",
    ),
    "paintings": ManualSet(
        title="The landscape paintings",
        builder="Paintings",
        files=("paintings",),
        instructions=(
            "The document's 403 paintings are no published set: collect your own, as JPEG or PNG files in one folder "
            "of the name paintings (subfolders are read too), and put the folder there."
        ),
        folder="paintings",
    ),
}


def _parts(name):
    """Returns (set, class or None, version or None) of a name such as "indoor67/bedroom:1.0.0"."""
    path, _, version = name.partition(":")
    name, _, class_name = path.partition("/")
    return name, class_name or None, version or None


def is_manual(name):
    """Whether a name such as "indoor67/bedroom" is of a set of this package."""
    return _parts(name)[0] in SETS


def data_folder():
    """Returns the folder of prepared sets: TFDS_DATA_DIR, or that of tensorflow-datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def manual_folder():
    """Returns the folder in which tensorflow-datasets looks for what was downloaded by hand."""
    return data_folder() / "downloads" / "manual"


def check(name):
    """Checks that a set of this package is prepared already, or that its files are there.

    Raises:
        DataError: naming the missing files, the folder they belong in, and where to get them.
    """
    set_name, class_name, _ = _parts(name)
    prepared = data_folder() / set_name / (class_name or "")
    if not any(prepared.glob("*/dataset_info.json")):
        check_files(set_name, manual_folder())


def check_files(name, folder):
    """Checks that the files of a set lie in `folder` (`DataError` as of `check`)."""
    wanted = SETS[name]
    missing = [file for file in wanted.files if not (folder / file).exists()]
    if missing:
        raise DataError(
            f"{wanted.title} is downloaded by hand. Not found in {folder.absolute()}: {', '.join(missing)}.\n"
            f"{wanted.instructions} (TFDS_DATA_DIR moves that folder, which is its downloads/manual.)\n"
            f"Or give images of your own, or an unpacked copy: --data {wanted.folder}"
        )


def open_builder(name):
    """Returns the builder of a set of this package, by "SET", "SET/CLASS" or "SET/CLASS:VERSION"."""
    import tensorflow_datasets as tfds
    from absl import logging

    set_name, class_name, version = _parts(name)
    builder = getattr(importlib.import_module(f"training.datasets.{set_name}"), SETS[set_name].builder)
    config = tfds.core.BuilderConfig(name=class_name) if class_name else None
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # or it warns of a class as of a configuration that it did not know before
    try:
        return builder(data_dir=data_folder(), config=config, version=version)
    finally:
        logging.set_verbosity(verbosity)
