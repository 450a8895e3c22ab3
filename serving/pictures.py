"""Arrays of images as files: PNG, grids of them, zip archives."""

import io
import zipfile

import numpy as np
from PIL import Image

COLUMNS = 8
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every file in an archive: the same images make the same archive


def png(image):
    """Returns an image, uint8 `[height, width, channels]`, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def grid(images, columns=COLUMNS):
    """Returns images, uint8 `[n, height, width, channels]`, as one, row by row; white where the last row is short."""
    count, height, width, channels = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = images
    cells = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return cells.reshape(rows * height, columns * width, channels)


def archive(files):
    """Returns `{name: bytes}` as the bytes of a zip file, not compressed: a PNG is already."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as output:
        for name, content in files.items():
            output.writestr(zipfile.ZipInfo(name, EPOCH), content)
    return buffer.getvalue()
