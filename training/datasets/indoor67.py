"""MIT Indoor 67 (Quattoni and Torralba 2009): 15,620 photographs of 67 kinds of rooms, 662 of them bedrooms.

Splits: `train` and `test`, the official lists of about 80 and 20 images a class, and `rest`, all others.
"""

import tarfile

from training.datasets import SETS
from training.datasets.manual import ManualBuilder, Picture, official_splits, report_left_out
from training.decode import DataError
from training.sources import SUFFIXES


class Indoor67(ManualBuilder):
    """MIT Indoor 67, read from the tar without unpacking it."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = SETS["indoor67"].instructions

    def pictures(self, folder):
        path = folder / "indoorCVPR_09.tar"
        try:
            with tarfile.open(path) as archive:
                files = [member.name for member in archive if member.isfile()]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{path} cannot be read ({error}). Fetch it again.") from error
        report_left_out(self.title, [f"{file}: no image" for file in files if _name(file) is None])
        images = [_name(file) for file in files if _name(file) is not None]
        lists = {"train": folder / "TrainImages.txt", "test": folder / "TestImages.txt"}
        splits = official_splits(images, lists, self.title)
        return [Picture(name, splits[name], name.partition("/")[0]) for name in images], lambda names: _read(
            path, names
        )


def _name(file):
    """Returns CLASS/FILE, as the lists have it, of the path of an image in the archive; None of other files."""
    name = file.partition("Images/")[2]
    return name if name.count("/") == 1 and name.lower().endswith(SUFFIXES) else None


def _read(path, names):
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and _name(member.name) in names:
                yield _name(member.name), archive.extractfile(member).read()
