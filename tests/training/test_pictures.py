"""Grids, the strip of a run's progress and loss curves, to the pixel."""

import numpy as np
import pytest
from PIL import Image

from training import pictures


def numbered(count, side=4, channels=3):
    """Images that differ in every pixel of every channel, so that a swapped axis shows."""
    size = count * side * side * channels
    return (np.arange(size) * 7 % 251).astype(np.uint8).reshape(count, side, side, channels)


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_grid_holds_the_images_row_by_row_and_white_where_there_is_none():
    images = numbered(5)
    grid = pictures.grid(images, columns=3)
    assert grid.shape == (8, 12, 3) and grid.dtype == np.uint8
    for index in range(5):
        row, column = divmod(index, 3)
        np.testing.assert_array_equal(grid[4 * row : 4 * row + 4, 4 * column : 4 * column + 4], images[index])
    assert (grid[4:, 8:] == 255).all()


def test_a_grid_of_fewer_images_than_columns_is_no_wider_than_they_are():
    images = numbered(2)
    grid = pictures.grid(images, columns=8)
    np.testing.assert_array_equal(grid, np.concatenate(images, axis=1))
    np.testing.assert_array_equal(pictures.grid(images[:1]), images[0])


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_saved_grid_is_enlarged_by_a_whole_factor_without_blur(tmp_path, channels, mode):
    images = numbered(6, side=8, channels=channels)
    path = tmp_path / "new" / "grid.png"
    pictures.save_grid(path, images, columns=3)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == mode
    array = read(path).reshape(16 * 42, 24 * 42, channels)  # 1024 // 24 is 42
    np.testing.assert_array_equal(array, pictures.grid(images, 3).repeat(42, 0).repeat(42, 1))


def test_a_grid_wider_than_the_limit_is_saved_as_it_is(tmp_path):
    images = numbered(2, side=600)
    pictures.save_grid(tmp_path / "grid.png", images)
    np.testing.assert_array_equal(read(tmp_path / "grid.png"), pictures.grid(images))


def test_the_strip_stacks_the_first_rows_of_the_grids_in_the_order_of_their_steps(tmp_path):
    for step in (20, 0, 10, 1000):
        pictures.save_grid(tmp_path / f"step_{step:08d}.png", np.roll(numbered(16, side=32), step, axis=0))
    pictures.save_grid(tmp_path / "reals.png", numbered(16, side=32))
    pictures.save_progress_strip(tmp_path, tmp_path / "progress.png", side=32)
    strip = read(tmp_path / "progress.png")
    assert strip.shape == (4 * 128, 1024, 3)
    for place, step in enumerate((0, 10, 20, 1000)):
        expected = read(tmp_path / f"step_{step:08d}.png")[:128]
        np.testing.assert_array_equal(strip[128 * place : 128 * (place + 1)], expected)


def test_a_long_run_is_shown_by_eight_rows_from_the_first_grid_to_the_last(tmp_path):
    for step in range(30):
        pictures.save_grid(tmp_path / f"step_{step:08d}.png", np.full((8, 128, 128, 3), step * 8, np.uint8))
    pictures.save_progress_strip(tmp_path, tmp_path / "progress.png", side=128)
    rows = read(tmp_path / "progress.png")[::128, 0, 0] // 8
    assert len(rows) == 8 and rows[0] == 0 and rows[-1] == 29
    assert (np.diff(rows) >= 3).all()


@pytest.mark.parametrize("channels", [1, 4])
def test_the_strip_takes_gray_grids_and_grids_with_alpha(tmp_path, channels):
    images = numbered(8, side=128, channels=channels)
    pictures.save_grid(tmp_path / "step_00000000.png", images)
    pictures.save_progress_strip(tmp_path, tmp_path / "progress.png", side=128)
    strip = read(tmp_path / "progress.png")
    assert strip.shape == (128, 1024, {1: 3, 4: 4}[channels])
    np.testing.assert_array_equal(strip[..., :channels], pictures.grid(images))


def test_without_a_grid_no_strip_is_drawn(tmp_path):
    pictures.save_progress_strip(tmp_path, tmp_path / "progress.png", side=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [None, b"the one before"])
def test_a_failure_while_writing_leaves_what_was_there_and_nothing_else(tmp_path, before):
    path = tmp_path / "picture.png"
    if before is not None:
        path.write_bytes(before)

    def fail(file):
        file.write(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        pictures.save_atomically(path, fail)
    assert [each.name for each in tmp_path.iterdir()] == ([] if before is None else ["picture.png"])
    assert before is None or path.read_bytes() == before


def test_nobody_ever_sees_half_a_file(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b"w")

    pictures.save_atomically(path, write)
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["picture.png"]


def test_loss_curves_draw_every_loss_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "metrics.csv").write_text(
        "step,d_loss,g_loss,images_per_second,time\r\n10,1.0,2.0,30.0,5.0\r\n20,0.5,2.5,30.0,6.0\r\n"
    )
    from matplotlib.axes import Axes

    drawn, plot = {}, Axes.plot

    def record(axes, x, y, **kwargs):
        drawn[kwargs["label"]] = (list(x), list(y))
        return plot(axes, x, y, **kwargs)

    monkeypatch.setattr(Axes, "plot", record)
    pictures.save_loss_curves(tmp_path / "metrics.csv", tmp_path / "losses.png")
    assert drawn == {"d_loss": ([10, 20], [1.0, 0.5]), "g_loss": ([10, 20], [2.0, 2.5])}
    picture = read(tmp_path / "losses.png")
    assert picture.shape[0] > 300 and picture.std() > 5


def test_without_a_row_no_curves_are_drawn(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,d_loss\r\n")
    pictures.save_loss_curves(tmp_path / "metrics.csv", tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()
