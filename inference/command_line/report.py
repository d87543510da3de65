"""Tables and pictures of a finished run, as files."""

import io
from pathlib import Path
from typing import Any

import pandas as pd

from l0bayes.inference.storage.files import write_bytes


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
    _write_figure(out / "gates.png", pictures.gates_figure(table, image_site, image_shape))
    _write_figure(out / "training.png", pictures.training_figure(history))


def _write_figure(path: Path, figure: Any) -> None:
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
