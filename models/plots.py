"""The pictures that models leave behind, as PNG files. Drawn without a display, and without global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]


def curve(path: Path, lines: Mapping[str, Sequence[float]], ylabel: str, title: str) -> None:
    """One line for each name, over the epochs 1, 2, ...

    Args:
        path: of the PNG file.
        lines: numbers, one an epoch, by name.
        ylabel: what they are, with the unit.
        title: above it.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(6.4, 4)
    axes = figure.subplots()
    for name, values in lines.items():
        axes.plot(range(1, len(values) + 1), values, label=name, marker="o" if len(values) < 20 else "")
    axes.set(xlabel="epoch", ylabel=ylabel, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, alpha=0.25)
    axes.legend()
    _save(path, figure)


def image_rows(path: Path, rows: Mapping[str, Array], shape: tuple[int, int], title: str) -> None:
    """Rows of images, one above another, each with its name on the left.

    Args:
        path: of the PNG file.
        rows: images (count, height · width) by name, as many in each row; 0 is black, 1 white, and beyond is cut off.
        shape: height and width of an image, in pixels.
        title: above them.
    """
    columns = len(next(iter(rows.values())))
    figure = _figure(0.7 * columns + 1.6, 0.75 * len(rows) + 0.4)
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (name, images), line in zip(rows.items(), grid, strict=True):
        for image, axes in zip(images, line, strict=True):
            axes.imshow(image.reshape(shape), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    _save(path, figure)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. Matplotlib takes half a second to load, so it is loaded when something is drawn."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(path: Path, figure: Figure) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
