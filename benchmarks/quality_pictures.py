"""The pictures of `benchmarks.quality`: the chart of quality against time, and samples of each run at each mark."""

import numpy as np

COLOURS = {"dcgan": "#0072B2", "sngan": "#D55E00", "fastgan": "#009E73", "vae": "#CC79A7"}  # Okabe and Ito
MARKERS = {"dcgan": "o", "sngan": "^", "fastgan": "s", "vae": "D"}
CHANGED = (
    ("v", ":"),
    ("P", "-."),
    ("X", (0, (1, 3))),
    ("<", (0, (5, 4))),
    (">", (0, (3, 1, 1, 1))),
    ("*", (0, (8, 2))),
)
TITLES = {"cars": "5,000 cars, 32 px", "paintings": "403 paintings, 64 px"}
SAMPLES = 8
SAMPLE_SIDE = 64


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
            plot.set(
                title=TITLES[images], xlabel="minutes of one processor", ylabel="KID (lower is better)", yscale="log"
            )
            ticks = sorted({each["minutes"] for row in runs.values() for each in row["points"]})
            plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            plot.yaxis.set_major_formatter("{x:.2g}")
            plot.yaxis.set_minor_formatter("{x:.2g}")
            plot.legend(frameon=False, fontsize=8)

    return pictures.chart(draw, size=(5 * len(panels), 4.5))["light"]


def samples(folders, marks):
    """Returns an image `[height, width, 3]`: a row a run, its first samples at each mark.

    Args:
        folders: Of the runs, each with `samples_MARK.npy`; those without one stay white there.
        marks: Minutes.
    """
    from training.pictures import grid

    rows = []
    for folder in folders:
        parts = []
        for mark in marks:
            file = folder / f"samples_{mark}.npy"
            images = np.load(file, mmap_mode="r")[:SAMPLES] if file.exists() else None
            part = np.full((SAMPLE_SIDE + 2, SAMPLES * SAMPLE_SIDE + 12, 3), 255, np.uint8)
            if images is not None:
                factor = SAMPLE_SIDE // images.shape[1]
                enlarged = np.asarray(images).repeat(factor, axis=1).repeat(factor, axis=2)
                part[:SAMPLE_SIDE, : SAMPLES * SAMPLE_SIDE] = grid(enlarged, SAMPLES)
            parts.append(part)
        rows.append(np.concatenate(parts, axis=1))
    return np.concatenate(rows)
