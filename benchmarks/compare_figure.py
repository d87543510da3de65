"""The picture of the comparison: a panel a task, a line a method, from all rows in ``results/compare/``.

    python benchmarks/compare_figure.py

Small dots are seeds, large ones their mean, the dashed line is the dense network; bars are the time of training.
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison.methods import METHODS
from comparison.results import Rows, by_method
from comparison.tasks import TASKS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from record import RESULTS

# Orange is ours; grey is from scratch, blue pruned by units, green by single weights, brown drawn gates.
COLOURS = {
    "dense": "#333333",
    "thin": "#7f7f7f",
    "magnitude": "#08306b",
    "taylor": "#2171b5",
    "fisher": "#4aa3df",
    "group-lasso": "#0f9aa8",
    "slimming": "#6a6fd0",
    "l0bayes": "#e6550d",
    "taught": "#a63603",
    "widths": "#f59b4c",
    "ticket": "#e3b23c",
    "svi": "#8c564b",
    "paper": "#c08d7d",
    "gradual": "#1b5e20",
    "str": "#43a047",
    "lottery": "#9ccc65",
}
TITLES = {  # what is trained on what, the size, and the images if not all
    "lenet-6000": ("LeNet-5, MNIST", "6,000 parameters", ""),
    "lenet-4150": ("LeNet-5, MNIST", "4,150 parameters", ""),
    "mlp-18000": ("MLP, MNIST", "18,000 parameters", ""),
    "mlp-8000": ("MLP, MNIST", "8,000 parameters", ""),
    "mlp-2700": ("MLP, MNIST", "2,700 parameters", ""),
    "wrn-16-1-half": ("WRN-16-1, CIFAR-10 (JPEG)", "half of the MACs", "15,000 images, "),
    "wrn-16-1-quarter": ("WRN-16-1, CIFAR-10 (JPEG)", "a quarter of the MACs", "15,000 images, "),
    "wrn-16-1-twentieth": ("WRN-16-1, CIFAR-10 (JPEG)", "5 % of the MACs", "15,000 images, "),
    "wrn-16-2-quarter": ("WRN-16-2, CIFAR-10 (JPEG)", "a quarter of the MACs", "15,000 images, "),
    "wrn-16-1-half-long": ("WRN-16-1, CIFAR-10 (JPEG)", "half of the MACs", "50,000 images, "),
    "wrn-16-1-quarter-long": ("WRN-16-1, CIFAR-10 (JPEG)", "a quarter of the MACs", "50,000 images, "),
}
_COLUMNS = 3
_LARGER = 1.05  # than asked, where a size is said
_MINUTES = 600  # seconds from which they are told in minutes
_FAR, _ALWAYS = 2.0, 1.25  # beyond the median, in its distances from the best; or times the best
_LONG = 1.8  # medians of time that an axis has room for
_ROOM = 0.06  # of an axis, left and right of the dots


@dataclass(frozen=True)
class Point:
    """What a method has reached in a task.

    Attributes:
        errors: of each seed, in per cent.
        seconds: of training, the median.
        share: of the full network, mean over seeds.
    """

    errors: list[float]
    seconds: float
    share: float

    @property
    def error(self) -> float:
        """Mean over seeds, in per cent."""
        return statistics.mean(self.errors)


def points(rows: Rows) -> dict[str, Point]:
    """Method to what it has reached, in the order of the methods."""
    found = {}
    for name, own in by_method(rows).items():
        seconds = statistics.median(row["cpu_seconds"] for row in own)
        share = statistics.mean(row["share"] for row in own)
        found[name] = Point([100 * row["test_error"] for row in own], seconds, share)
    return found


def limits(found: dict[str, Point]) -> tuple[float, float]:
    """Of the axis of errors: what is far worse than most is not to hide the differences between these."""
    every = [error for point in found.values() for error in point.errors]
    best, middle = min(every), statistics.median(point.error for point in found.values())
    bound = max(middle + _FAR * (middle - best), _ALWAYS * best)
    last = max(error for error in every if error <= bound)
    room = _ROOM * (last - best) or 1.0
    return best - room, last + room


def draw_errors(axes: Axes, found: dict[str, Point], places: dict[str, int], asked: float) -> None:
    """Dots in the lines of their methods, and the dense network as a line through all."""
    low, high = limits(found)
    axes.set_xlim(low, high)
    for name, place in places.items():
        if name not in found:
            continue
        point, colour = found[name], COLOURS[name]
        if point.error > high:
            axes.text(high, place, f"{point.error:.3g} % ▸ ", color=colour, ha="right", va="center", fontsize=7.5)
            continue
        axes.plot(point.errors, [place] * len(point.errors), "o", ms=4, color=colour, alpha=0.4, mew=0)
        larger = name != "dense" and point.share > _LARGER * asked
        axes.plot(point.error, place, "o", ms=7, color=colour, mfc="white" if larger else colour, mew=1.2)
        if larger:
            left = point.error > (low + high) / 2
            axes.annotate(
                f"at {100 * point.share:.2g} %",
                (point.error, place),
                xytext=(-6 if left else 6, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                fontsize=7,
                color=colour,
            )
    if "dense" in found:
        axes.axvline(found["dense"].error, color=COLOURS["dense"], lw=1, ls=(0, (4, 3)), zorder=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.locator_params(axis="x", nbins=3)
    axes.grid(axis="x", color="#e8e8e8", lw=0.7)


def draw_seconds(axes: Axes, found: dict[str, Point], places: dict[str, int]) -> None:
    """A bar a method, with its length in words."""
    most = max(point.seconds for point in found.values())
    longest = min(most, _LONG * statistics.median(point.seconds for point in found.values()))
    for name, place in places.items():
        if name in found:
            seconds = found[name].seconds
            shown = min(seconds, longest)
            told = f"{seconds:.0f} s" if most < _MINUTES else f"{seconds / 60:.{seconds < _MINUTES:d}f} min"
            told = told if seconds == shown else f"▸ {told}"
            axes.barh(place, shown, height=0.55, color=COLOURS[name], alpha=0.75)
            axes.text(shown + longest / 25, place, told, va="center", fontsize=7, color="#555555")
    axes.set_xlim(0, 1.75 * longest)
    axes.set_xticks([])


def style(axes: Axes, places: dict[str, int], *, names: bool) -> None:
    """Lines for the methods, their names where asked, and no frame."""
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.set_yticks(list(places.values()), [METHODS[name].title for name in places] if names else [])
    for label, name in zip(axes.get_yticklabels(), places, strict=False):
        label.set_color(COLOURS[name])
        label.set_fontweight("bold" if name == "l0bayes" else "normal")
    axes.tick_params(length=0, labelsize=8, pad=3)
    for place in list(places.values())[::2]:
        axes.axhspan(place - 0.5, place + 0.5, color="#f6f6f6", lw=0, zorder=-1)
    axes.spines[:].set_visible(False)


def figure_of(results: dict[str, dict[str, Any]]) -> Figure:
    """All tasks that have rows, in the order in which they are declared."""
    panels = {task: points(results[task]["results"]) for task in TITLES if task in results}
    names = [name for name in METHODS if any(name in found for found in panels.values())]
    places = {name: place for place, name in enumerate(names)}
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(10, lines * (0.2 * len(places) + 0.9)), layout="constrained")
    grid = GridSpec(lines, 2 * columns, figure, width_ratios=[3.3, 1.2] * columns)
    for number, (task, found) in enumerate(panels.items()):
        line, column = divmod(number, columns)
        errors, seconds = (figure.add_subplot(grid[line, 2 * column + half]) for half in (0, 1))
        draw_errors(errors, found, places, TASKS[task]().target.share)
        draw_seconds(seconds, found, places)
        style(errors, places, names=column == 0)
        style(seconds, places, names=False)
        network, size, images = TITLES[task]
        errors.set_title(f"{network}\n", loc="left", fontsize=9, fontweight="bold")
        errors.text(0, 1.025, size, transform=errors.transAxes, fontsize=8, color="#555555")
        seconds.text(0, 1.025, "CPU time", transform=seconds.transAxes, fontsize=8, color="#555555")
        errors.set_xlabel(f"test error, {images}{results[task]['epochs']} epochs", fontsize=8)
    return figure


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "compare")
    parser.add_argument("--out", default="docs/pictures/compare.png")
    asked = parser.parse_args()
    results = {path.stem: json.loads(path.read_text()) for path in asked.results.glob("*.json")}
    figure_of(results).savefig(asked.out, dpi=150)


if __name__ == "__main__":
    main()
