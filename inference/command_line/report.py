"""Tables and pictures of a finished run, as files."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from l0bayes.errors import FileFormatError
from l0bayes.inference.command_line.saved_run import SavedRun
from l0bayes.inference.storage.files import write_bytes


@dataclass(frozen=True)
class ReportOptions:
    """Options of ``l0bayes report``.

    Attributes:
        folder: of a finished run of l0bayes train.
        out: where to write; the folder itself, if not given.
    """

    folder: str
    out: str | None = None


def report(options: ReportOptions) -> str:
    """Draws the pictures of a run anew, and writes its tables as Markdown.

    Args:
        options: of which run, and where to.

    Returns:
        The result in a few lines.

    Raises:
        FileNotFoundError: if a file of the run is missing.
        FileFormatError: if one is damaged.
    """
    run = SavedRun(options.folder)
    out = run.folder if options.out is None else Path(options.out)
    tables = {}
    for name in ("gates", "history"):
        path = run.folder / f"{name}.csv"
        if not path.is_file():
            raise FileNotFoundError(f"folder: {path} is not there")
        try:
            tables[name] = pd.read_csv(path)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise FileFormatError(f"folder: {path} is damaged ({error})") from error
    write_report(out, tables["gates"], tables["history"], _image_shape(run.input_shape))
    lines = summary_lines(run.summary, str(out))
    write_bytes(out / "report.md", _markdown(lines, tables["gates"], tables["history"]).encode())
    return lines


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image; of one that a network reads as a vector, if it is square."""
    if len(shape) > 1:
        return shape[-2], shape[-1]
    side = math.isqrt(shape[0])
    return side, side


def _markdown(lines: str, table: pd.DataFrame, history: pd.DataFrame) -> str:
    groups = table.groupby("site", sort=False)["open"].agg(["size", "sum"])
    last = history.iloc[-1]
    return "\n".join(
        [
            "# What came of a run",
            "",
            "```",
            lines,
            "```",
            "",
            "| gates | open | of |",
            "|---|---|---|",
            *(f"| {site} | {row['sum']:,} | {row['size']:,} |" for site, row in groups.iterrows()),
            "",
            f"After {last['epoch']:.0f} epochs: ELBO {last['elbo']:,.1f} nats.",
            "",
            "![Gates](gates.png)",
            "",
            "![Training](training.png)",
            "",
        ]
    )


def write_report(out: Path, table: pd.DataFrame, history: pd.DataFrame, image_shape: tuple[int, int]) -> None:
    """Writes the gate table, and pictures of it and of the history.

    Args:
        out: folder to write to: ``gates.csv``, ``gates.png``, ``training.png``.
        table: from :func:`~l0bayes.gate_table`.
        history: of the run.
        image_shape: height and width of the images whose pixels are gated.
    """
    from l0bayes.posterior import pictures  # noqa: PLC0415 (matplotlib is heavy)

    write_bytes(out / "gates.csv", table.to_csv(index=False).encode())
    pixels = image_shape[0] * image_shape[1]
    sizes = table.groupby("site", sort=False).size()
    inputs = {str(site): size for site, size in sizes.items() if str(site).endswith(".input")}
    image_site = next((site for site, size in inputs.items() if size == pixels), None)
    write_figure(out / "gates.png", pictures.gates_figure(table, image_site, image_shape))
    write_figure(out / "training.png", pictures.training_figure(history))


def write_figure(path: Path, figure: Any) -> None:
    """Writes a picture, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_bytes(path, buffer.getvalue())


def summary_lines(summary: dict[str, Any], out: str) -> str:
    """The result in a few lines, for the end of a run."""
    errors, speed = summary["test_error"], summary["forward_time_ratio"]
    sizes, parameters, macs = summary["architecture"], summary["parameters"], summary["macs"]
    times = ", ".join(f"× {ratio:.2f} at {batch.replace('_', ' ')}" for batch, ratio in speed.items())

    def share(cost: dict[str, int]) -> str:
        return f"{cost['before']:,} → {cost['after']:,} ({cost['after'] / cost['before']:.1%})"

    return "\n".join(
        [
            f"architecture  {sizes['before']} → {sizes['after']}",
            f"parameters    {share(parameters)}    MACs  {share(macs)}",
            f"forward time  {times}",
            "test error    " + "   ".join(f"{name} {error:.2%}" for name, error in errors.items()),
            f"files         {out}",
        ]
    )
