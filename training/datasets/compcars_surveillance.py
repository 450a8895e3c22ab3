"""CompCars, surveillance part (Yang et al. 2015): 44,481 car fronts, as traffic cameras see them, of 281 models.

Splits: `train` and `test`, the official lists. Labels are the numbers of the models, as the folders have them (their names
stand in sv_make_model_name.mat).
"""

from training.datasets import SETS
from training.datasets.manual import ManualBuilder, Picture, listed_files, official_splits


class CompcarsSurveillance(ManualBuilder):
    """CompCars surveillance, read from the unpacked folder: its archive has a password."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = SETS["compcars_surveillance"].instructions

    def pictures(self, folder):
        root = folder / "sv_data"
        models, read = listed_files(root / "image", self.title)
        lists = {split: root / f"{split}_surveillance.txt" for split in ("train", "test")}
        splits = official_splits(models, lists, self.title)
        return [Picture(name, splits[name], model) for name, model in models.items()], read
