"""The landscape paintings: a folder of images, without labels, as one split `train`."""

from training.datasets import SETS
from training.datasets.manual import ManualBuilder, Picture, listed_files


class Paintings(ManualBuilder):
    """A folder of paintings (the document's own set had 403)."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = SETS["paintings"].instructions
    labelled = False

    def pictures(self, folder):
        names, read = listed_files(folder / "paintings", self.title)
        return [Picture(name, "train", None) for name in names], read
