"""The pictures of a report, as PNG bytes: grids and thumbnails of images, and charts in a light and a dark version.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every series has a marker or a dash of its own
as well.
"""

import io
import textwrap

import numpy as np
from PIL import Image

SERIES = {"train": ("#0072B2", "o"), "test": ("#009E73", "s"), "generated": ("#D55E00", "^")}
ON_DARK = {"#0072B2": "#56B4E9", "#009E73": "#2CC79A", "#D55E00": "#F0A030"}
THEMES = {"light": {"ink": "#1b1f24", "paper": "#ffffff"}, "dark": {"ink": "#e6e8eb", "paper": "#15181c"}}
CHART_INCHES = (4.2, 3.2)  # drawn so that 11 points are legible at the width of a phone
DPI = 190


# Images


def png(image, least=0, most=1024):
    """Returns a uint8 image `[height, width, channels]` as PNG bytes.

    Args:
        image: 1, 3 or 4 channels.
        least: enlarge by whole factors, without smoothing, to about this longer side.
        most: reduce a longer side than this to it.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    longer = max(picture.size)
    if longer > most:
        scale = most / longer
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    elif least // longer > 1:
        factor = least // longer
        picture = picture.resize(tuple(side * factor for side in picture.size), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def grid(images, columns=8, gap=1):
    """Returns uint8 images `[n, height, width, channels]` side by side as one, white between them."""
    count, height, width, channels = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + gap, width + gap, channels), 255, np.uint8)
    cells[:count, :height, :width] = images
    whole = cells.reshape(rows, columns, height + gap, width + gap, channels).swapaxes(1, 2)
    return whole.reshape(rows * (height + gap), columns * (width + gap), channels)[: -gap or None, : -gap or None]


def on_white(images):
    """Returns images without their alpha channel, over white; others as they are."""
    if images.shape[-1] != 4:
        return images
    alpha = images[..., 3:].astype(np.float32) / 255
    return np.rint(images[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


# Principal components


def principal_components(features, count=2):
    """Returns `(mean, axes [count, d], shares of the variance)` of features `[n, d]`."""
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    count = min(count, *centred.shape)
    if len(centred) <= centred.shape[1]:  # the Gram matrix is the smaller one
        values, vectors = np.linalg.eigh(centred @ centred.T)
        axes = (centred.T @ vectors[:, ::-1][:, :count]).T
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred)
        axes = vectors[:, ::-1][:, :count].T
    lengths = np.linalg.norm(axes, axis=1, keepdims=True)
    axes = np.divide(axes, lengths, out=np.zeros_like(axes), where=lengths > 0)
    axes *= np.where(axes[np.arange(count), np.abs(axes).argmax(axis=1)] < 0, -1, 1)[
        :, None
    ]  # the same signs everywhere
    total = max(np.clip(values, 0, None).sum(), 1e-300)
    return mean, axes, np.clip(values[::-1][:count], 0, None) / total


def pca_scatters(train, test, fakes):
    """Draws real and generated features on the first two principal components of the real training ones alone.

    Args:
        train, test: `[n, d]`; test may be `None`.
        fakes: `{panel: features}`, one panel a version; all share their axes.

    Returns:
        `({panel: chart}, shares of the variance of the two axes)`; a chart is `{theme: PNG bytes}`.
    """
    mean, axes, shares = principal_components(train)
    if len(axes) < 2:
        return {}, shares

    def project(features):
        return (features - mean) @ axes.T

    real = {"train": project(train)} | ({} if test is None else {"test": project(test)})
    projected = {panel: project(features) for panel, features in fakes.items()}
    everything = np.concatenate([*real.values(), *projected.values()])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-9)

    def draw(panel):
        def on(figure, colour):
            plot = figure.subplots()
            for name, points in (real | {"generated": projected[panel]}).items():
                shade, marker = SERIES[name]
                plot.scatter(
                    *points.T,
                    s=16,
                    alpha=0.6,
                    marker=marker,
                    color=colour(shade),
                    linewidths=0,
                    label=f"{name} ({len(points):,})",
                )
            plot.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
            plot.set_xlabel(f"1st component ({shares[0]:.0%} of variance)")
            plot.set_ylabel(f"2nd component ({shares[1]:.0%} of variance)")
            figure.legend(loc="outside upper center", ncols=3, frameon=False, handletextpad=0.1, columnspacing=1)

        return chart(on)

    return {panel: draw(panel) for panel in fakes}, shares


# Charts


def chart(draw, size=CHART_INCHES):
    """Draws a chart twice, and returns `{"light": PNG bytes, "dark": PNG bytes}`.

    Args:
        draw: `draw(figure, colour)`; `colour` turns a colour of `SERIES` into one that is legible on the paper.
        size: in inches.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = {}
    for theme, shades in THEMES.items():
        ink, paper = shades["ink"], shades["paper"]
        style = {"font.size": 10, "axes.facecolor": paper, "axes.spines.top": False, "axes.spines.right": False}
        style |= {key: ink for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")}
        with matplotlib.rc_context(style):
            figure = Figure(figsize=size, layout="constrained", facecolor=paper)
            FigureCanvasAgg(figure)
            draw(figure, lambda shade, theme=theme: ON_DARK.get(shade, shade) if theme == "dark" else shade)
            for plot in figure.axes:
                plot.grid(alpha=0.25, linewidth=0.6)
                plot.set_axisbelow(True)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DPI)
        drawn[theme] = buffer.getvalue()
    return drawn


def metric_curve(label, places, values, intervals, best=None, floor=None, x_label="step (generator updates)"):
    """Draws one figure over the exported versions.

    Args:
        label: of the y axis.
        places: x of each version.
        values: y of each.
        intervals: `(low, high)` or `None` of each.
        best: index of the best version, marked, or `None`.
        floor: a level to compare with, or `None`.
    """

    def draw(figure, colour):
        plot = figure.subplots()
        shade = colour(SERIES["generated"][0])
        reaches = [
            (value - interval[0], interval[1] - value) if interval else (0, 0)
            for value, interval in zip(values, intervals)
        ]
        plot.errorbar(
            places,
            values,
            yerr=np.clip(np.array(reaches).T, 0, None),
            marker="o",
            color=shade,
            capsize=3,
            linewidth=1.5,
        )
        if floor is not None:
            plot.axhline(
                floor, color=colour(SERIES["train"][0]), linestyle="--", linewidth=1.2, label="real against real"
            )
        if best is not None:
            plot.plot(places[best], values[best], "*", markersize=16, color=colour(SERIES["test"][0]), label="best KID")
        if floor is not None or best is not None:
            plot.legend(frameon=False)
        plot.set(xlabel=x_label, ylabel=label)

    return chart(draw)


def loss_curves(columns):
    """Draws `{name: (steps, values)}` of a training log."""
    shades = [shade for shade, _ in SERIES.values()] + ["#CC79A7", "#8A8F98"]
    dashes = ["-", "--", "-.", ":", (0, (5, 1))]

    def draw(figure, colour):
        plot = figure.subplots()
        for i, (name, (steps, values)) in enumerate(columns.items()):
            plot.plot(steps, values, label=name, linewidth=1.2, color=colour(shades[i % 5]), linestyle=dashes[i % 5])
        plot.set(xlabel="step (generator updates)", ylabel="loss")
        plot.legend(frameon=False)

    return chart(draw)


def comparison_chart(panels, names):
    """Draws models side by side, one panel a metric.

    Args:
        panels: list of `(label, better, values, intervals, floors)`, each of the last three a list with `None` where
            there is none, one entry a model.
        names: of the models.
    """
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    size = (5.0 * columns, max(1.5, 0.42 * len(names) + 0.9) * rows)

    def draw(figure, colour):
        plots = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for plot in plots[len(panels) :]:
            figure.delaxes(plot)
        places = np.arange(len(names))[::-1]
        for plot, (label, better, values, intervals, floors) in zip(plots, panels):
            for place, value, interval, floor in zip(places, values, intervals, floors):
                if interval is not None:
                    plot.hlines(place, *interval, color=colour(SERIES["generated"][0]), linewidth=2)
                if value is not None:
                    plot.plot(value, place, "o", color=colour(SERIES["generated"][0]), markersize=7)
                if floor is not None:
                    plot.plot(floor, place, "|", color=colour(SERIES["train"][0]), markersize=14, markeredgewidth=2)
            plot.set_yticks(places, [textwrap.fill(name, 20) for name in names], fontsize=9)
            plot.set_ylim(-0.6, len(names) - 0.4)
            plot.set_title(
                f"{label} ({better} is {'better' if better in ('lower', 'higher') else 'ideal'})", fontsize=10
            )
        if any(floor is not None for *_, floors in panels for floor in floors):
            figure.supxlabel(
                "dot: value, line: 95% interval, bar: real against real, or a perfect generator", fontsize=9
            )

    return chart(draw, size)
