"""The pictures that models leave behind, as PNG files. Drawn without a display, and without global state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]


@contextmanager
def axes(path: Path, xlabel: str, ylabel: str, title: str, width: float = 6.4, height: float = 4.0) -> Iterator[Axes]:
    """Matplotlib's axes to draw on; the file is written when the block ends without an error.

    Args:
        path: of the PNG file.
        xlabel, ylabel: what the axes are, with the unit.
        title: above it.
        width, height: in inches; a line of text is about 0.15 high.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "square.png"
        >>> with axes(path, "x", "x²", "a parabola") as drawing:
        ...     _ = drawing.plot([0, 1, 2], [0, 1, 4])
        >>> path.stat().st_size > 1000
        True
    """
    figure = _figure(width, height)
    drawing = figure.subplots()
    drawing.set(xlabel=xlabel, ylabel=ylabel, title=title)
    yield drawing
    _save(path, figure)


def curves(path: Path, lines: Mapping[str, Sequence[float]], ylabel: str, title: str) -> None:
    """One line for each name, over the epochs 1, 2, ...

    Args:
        path: of the PNG file.
        lines: numbers, one an epoch, by name.
        ylabel: what they are, with the unit.
        title: above it.
    """
    from matplotlib.ticker import MaxNLocator

    with axes(path, "epoch", ylabel, title) as drawing:
        for name, values in lines.items():
            drawing.plot(range(1, len(values) + 1), values, label=name, marker="o" if len(values) < 20 else "")
        drawing.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawing.grid(True, alpha=0.25)
        drawing.legend()


def labelled_map(path: Path, points: Array, labels: Array, xlabel: str, ylabel: str, title: str) -> None:
    """Points in the plane, coloured by their labels 0 to 9, with each label written at the median of its points.

    Args:
        path: of the PNG file.
        points: (count, 2).
        labels: (count,), whole numbers from 0 to 9.
        xlabel, ylabel: what the two coordinates are.
        title: above it.
    """
    with axes(path, xlabel, ylabel, title, 6.4, 6.0) as drawing:
        size = 4 if len(points) > 1000 else 16
        drawing.scatter(
            points[:, 0], points[:, 1], c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=size, alpha=0.6, linewidths=0
        )
        for label in np.unique(labels):
            x, y = np.median(points[labels == label], axis=0)
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1.5}
            drawing.text(x, y, str(label), ha="center", va="center", fontsize=13, fontweight="bold", bbox=box)


def image_rows(path: Path, rows: Mapping[str, Array], shape: tuple[int, int], title: str) -> None:
    """Rows of images, one above another, each with its name on the left.

    Args:
        path: of the PNG file.
        rows: images (count, height · width) by name, as many in each row; 0 is black, 1 white, and beyond is cut off.
        shape: height and width of an image, in pixels.
        title: above them.
    """
    images = np.stack(list(rows.values()))
    _grid(path, np.concatenate(images), shape, images.shape[1], title, "gray", 0.0, 1.0, list(rows))


def image_grid(path: Path, images: Array, shape: tuple[int, int], columns: int, title: str) -> None:
    """Images side by side without gaps but a line, row by row: samples, or a manifold.

    Args:
        path: of the PNG file.
        images: (count, height · width); 0 is black, 1 white, and beyond is cut off.
        shape: height and width of an image, in pixels.
        columns: images in a row.
        title: above them.
    """
    _grid(path, images, shape, columns, title, "gray", 0.0, 1.0)


def filter_grid(path: Path, filters: Array, shape: tuple[int, int], columns: int, title: str) -> None:
    """Weights of units, drawn as images side by side, each in the range of its own: blue is negative, red positive.

    Args:
        path: of the PNG file.
        filters: (count, height · width).
        shape: height and width of an image, in pixels.
        columns: filters in a row.
        title: above them.
    """
    scaled = filters / np.maximum(np.abs(filters).max(axis=1, keepdims=True), 1e-12)
    _grid(path, scaled, shape, columns, title, "RdBu_r", -1.0, 1.0)


def _grid(
    path: Path,
    images: Array,
    shape: tuple[int, int],
    columns: int,
    title: str,
    colours: str,
    low: float,
    high: float,
    names: Sequence[str] = (),
) -> None:
    """One picture of all images, in cells one pixel apart, and the names of the rows on the left: Matplotlib would take
    seconds for a picture of each image."""
    rows = ceil(len(images) / columns)
    height, width = shape[0] + 1, shape[1] + 1
    canvas = np.full((rows * height + 1, columns * width + 1), np.nan)
    for i, image in enumerate(images):
        y, x = i // columns * height + 1, i % columns * width + 1
        canvas[y : y + shape[0], x : x + shape[1]] = image.reshape(shape)
    cell = 0.7 if names else 0.55
    figure = _figure(max(3.0, cell * columns) + (1.6 if names else 0.0), max(1.2, cell * rows + 0.35))
    place = figure.subplots()
    place.set_facecolor("0.5")
    place.imshow(canvas, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    place.set_xticks([])
    place.set_yticks([(k + 0.5) * height for k in range(len(names))], names)
    place.tick_params(length=0)
    place.set_title(title, fontsize=10)
    _save(path, figure)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. Matplotlib takes half a second to load, so it is loaded when something is drawn."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(path: Path, figure: Figure) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
