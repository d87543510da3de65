"""Runs every notebook from its text source; an error in a cell, or a time limit, is an error here.

Executed copies, with outputs, are written to ``out/notebooks``; with ``--docs`` also as Markdown with pictures to
``docs/notebooks``, for people to read.
"""

import argparse
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError
from PIL import Image

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "out" / "notebooks"
DOCS = HERE.parent / "docs" / "notebooks"
SECONDS_A_CELL = 120.0
SECONDS = 300.0

# Pyro's progress bars look for a widget when they are imported in a kernel, and we show none.
QUIET = "ignore:IProgress not found"


def main() -> None:
    """Runs the notebooks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="of a notebook; all, if none is named")
    parser.add_argument("--docs", action="store_true", help="write docs/notebooks too")
    asked = parser.parse_args()
    names = asked.names or sorted(path.stem for path in HERE.glob("*.py") if path != Path(__file__).resolve())
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), QUIET]))
    deadline = time.monotonic() + SECONDS
    for name in names:
        start = time.monotonic()
        notebook = run(name, deadline)
        if asked.docs:
            write_markdown(name, notebook)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


def run(name: str, deadline: float) -> nbformat.NotebookNode:
    """Executes a notebook and writes the copy with its outputs.

    Args:
        name: of its source in this folder, without ``.py``.
        deadline: when all notebooks must be done, in seconds of ``time.monotonic``.

    Returns:
        The executed notebook.
    """
    notebook = jupytext.read(HERE / f"{name}.py")
    client = NotebookClient(
        notebook,
        timeout_func=lambda _: max(0.1, min(SECONDS_A_CELL, deadline - time.monotonic())),
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
    )
    try:
        client.execute()
    except CellTimeoutError:
        what = f"a cell has {SECONDS_A_CELL:g} s"
        if time.monotonic() >= deadline:
            what = f"all notebooks together have {SECONDS:g} s"
        sys.exit(f"{name}: too slow: {what}. Make the notebook smaller, or give the machine less else to do")
    OUT.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, OUT / f"{name}.ipynb")
    return notebook


def write_markdown(name: str, notebook: nbformat.NotebookNode) -> None:
    """Writes an executed notebook as Markdown, its pictures in a folder beside it.

    Args:
        name: of the notebook.
        notebook: with its outputs.
    """
    from nbconvert import MarkdownExporter  # noqa: PLC0415 (only needed here)

    refuse_unfit(name, notebook)
    exporter = MarkdownExporter(display_data_priority=["image/png", "text/markdown", "text/plain"])
    pictures = f"{name}_files"
    text, resources = exporter.from_notebook_node(notebook, {"unique_key": name, "output_files_dir": pictures})
    shutil.rmtree(DOCS / pictures, ignore_errors=True)
    (DOCS / pictures).mkdir(parents=True)
    lines = [line.rstrip() for line in text.strip().splitlines()]
    (DOCS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path, content in resources["outputs"].items():
        # So many colours are enough for lines and a colour map, and a third of the size.
        picture = Image.open(io.BytesIO(content)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(DOCS / path, optimize=True)


def refuse_unfit(name: str, notebook: nbformat.NotebookNode) -> None:
    """Ends the program if an output is not for everyone's eyes: warnings, progress bars, paths of this machine.

    Args:
        name: of the notebook.
        notebook: with its outputs.
    """
    private = {str(HERE.parent), str(Path.home()), tempfile.gettempdir(), sys.prefix}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            text = str(output.get("text") or output.get("data", {}).get("text/plain", ""))
            if output.get("name") == "stderr" or "\r" in text or any(path in text for path in private):
                sys.exit(f"{name}: an output that must not go into docs: {text[:500]}")


if __name__ == "__main__":
    main()
