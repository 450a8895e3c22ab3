"""The pictures of `benchmarks.quality`: the chart of quality against time, and samples of each run at each mark."""

import numpy as np

COLOURS = {"dcgan": "#0072B2", "sngan": "#D55E00", "fastgan": "#009E73", "vae": "#CC79A7"}  # Okabe and Ito
MARKERS = {"dcgan": "o", "sngan": "^", "fastgan": "s", "vae": "D"}
CHANGED = (("v", ":"), ("P", "-."))  # marker and line of the runs with a change of the recipe
SAMPLES = 8
SAMPLE_SIDE = 64
LABEL, GAP = 22, 12  # pixels above a row and between the marks


def chart(rows):
    """Returns a PNG: the kernel Inception distance against minutes of the processors, a panel a set of images."""
    from evaluation import pictures

    panels = {}
    for name, row in rows.items():
        panels.setdefault(name.split("-")[0], {})[name] = row

    longest = max(each["minutes"] for row in rows.values() for each in row["points"])

    def draw(figure, colour):
        for plot, (images, runs) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            changes = [name for name in runs if name.count("-") > 2]
            for name, row in runs.items():
                _, arch, width, *change = name.split("-")
                points = row["points"]
                minutes, values = [each["minutes"] for each in points], [each["kid"] for each in points]
                reach = np.abs(np.array([each["interval"] for each in points]).T - values)
                marker, line = MARKERS[arch], "-" if minutes[-1] == longest else "--"
                if change:
                    marker, line = CHANGED[changes.index(name) % len(CHANGED)]
                plot.errorbar(
                    minutes, values, yerr=reach, color=colour(COLOURS[arch]), marker=marker, linestyle=line,
                    linewidth=1.5, capsize=3, markersize=5, label=" ".join([arch, width, "-".join(change)]).strip(),
                )  # fmt: skip
            title = f"{row['images']:,} {images}, {row['side']} px"
            plot.set(title=title, xlabel="minutes of one processor", ylabel="KID (lower is better)", yscale="log")
            ticks = sorted({each["minutes"] for row in runs.values() for each in row["points"]})
            plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            plot.yaxis.set_major_formatter("{x:.2g}")
            plot.yaxis.set_minor_formatter("{x:.2g}")
            plot.legend(frameon=False, fontsize=8)

    return pictures.chart(draw, size=(5 * len(panels), 4.5))["light"]


def samples(folders, marks):
    """Returns a picture: a row a run, under its name its first samples at each mark.

    Args:
        folders: Of the runs, each with `samples_MARK.npy`; it stays white where there is none.
        marks: Minutes.
    """
    from PIL import Image, ImageDraw

    from training.pictures import grid

    width = SAMPLES * SAMPLE_SIDE
    picture = Image.new("RGB", (len(marks) * (width + GAP) - GAP, len(folders) * (LABEL + SAMPLE_SIDE)), "white")
    write = ImageDraw.Draw(picture)
    for row, folder in enumerate(folders):
        top = row * (LABEL + SAMPLE_SIDE)
        for column, mark in enumerate(marks):
            file, left = folder / f"samples_{mark}.npy", column * (width + GAP)
            if file.exists():
                images = np.asarray(np.load(file, mmap_mode="r")[:SAMPLES])
                factor = SAMPLE_SIDE // images.shape[1]
                enlarged = images.repeat(factor, axis=1).repeat(factor, axis=2)
                write.text((left + 2, top + 3), f"{folder.name}, {mark} min", "black", font_size=LABEL - 8)
                picture.paste(Image.fromarray(grid(enlarged, SAMPLES)), (left, top + LABEL))
    return picture
