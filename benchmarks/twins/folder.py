"""A folder of JPEG files as a torch.utils.data.Dataset."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image


class Folder(torch.utils.data.Dataset):
    """Its images, cropped to the middle square and resized, float32 `[3, side, side]` in [-1, 1]."""

    def __init__(self, folder, side):
        self.files, self.side = sorted(Path(folder).glob("*.jpg")), side

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as image:
            image = image.convert("RGB")
        least = min(image.size)
        left, top = (image.width - least) // 2, (image.height - least) // 2
        box = (left, top, left + least, top + least)
        image = image.resize((self.side, self.side), Image.Resampling.LANCZOS, box=box)
        return torch.from_numpy(np.asarray(image)).permute(2, 0, 1).float() / 127.5 - 1
