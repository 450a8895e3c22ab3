"""Pictures of a training run: sample grids, the strip of its progress, loss curves."""

import csv
import os
from pathlib import Path

import numpy as np
from PIL import Image

GRID_PIXELS = 1024  # a grid is enlarged, by a whole factor, up to this width


def save_atomically(path, write):
    """Calls `write(file)` on a temporary file beside `path`, which it then replaces."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def grid(images, columns=8):
    """Returns the images side by side as one array.

    Args:
        images: uint8 `[n, height, width, channels]`.
        columns: Images a row.

    Returns:
        uint8 `[rows * height, columns * width, channels]`, white where the last row has no image.
    """
    count, height, width, channels = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = images
    return (
        cells.reshape(rows, columns, height, width, channels)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width, channels)
    )


def save_grid(path, images, columns=8):
    """Writes a grid of uint8 images as PNG, enlarged by a whole factor so that small ones can be seen."""
    array = grid(images, columns)
    factor = max(1, GRID_PIXELS // array.shape[1])
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    save_atomically(path, lambda file: picture.save(file, "PNG"))


def save_progress_strip(directory, path, side, columns=8, most=8):
    """Stacks the first row of up to `most` sample grids of a run: the same noise at several steps, first to last.

    Args:
        directory: Holds `step_*.png` as `save_grid` wrote them.
        path: PNG to write.
        side: Height of an image in pixels, as trained.
        columns: Images a row of the grids.
        most: Rows of the strip.
    """
    found = sorted(Path(directory).glob("step_*.png"))
    if not found:
        return
    chosen = [found[round(index)] for index in np.linspace(0, len(found) - 1, min(most, len(found)))]
    rows = []
    for file in chosen:
        with Image.open(file) as picture:
            factor = max(1, picture.width // (columns * side))
            rows.append(np.asarray(picture.convert("RGBA" if picture.mode == "RGBA" else "RGB"))[: side * factor])
    strip = Image.fromarray(np.concatenate(rows))
    save_atomically(path, lambda file: strip.save(file, "PNG"))


def save_loss_curves(metrics_csv, path):
    """Draws every column of a run's `metrics.csv` whose name ends in `_loss` over the steps, as PNG."""
    from matplotlib.figure import Figure

    with open(metrics_csv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    steps = [int(row["step"]) for row in rows]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name in [key for key in rows[0] if key.endswith("_loss")]:
        axes.plot(steps, [float(row[name]) for row in rows], label=name, linewidth=1)
    axes.set(xlabel="step (generator updates)", ylabel="loss")
    axes.legend()
    axes.grid(alpha=0.3)
    save_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
