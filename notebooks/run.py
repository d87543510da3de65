"""Runs every notebook from its text source; an error in a cell, or a time limit, is an error here.

Executed copies, with outputs, are written to ``out/notebooks``.
"""

import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
OUT = HERE.parent / "out" / "notebooks"
SECONDS_A_CELL = 120


def main() -> None:
    """Runs the notebooks named on the command line, or all."""
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.py") if path != Path(__file__))
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names:
        start = time.perf_counter()
        notebook = jupytext.read(HERE / f"{name}.py")
        client = NotebookClient(
            notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}
        )
        client.execute()
        nbformat.write(notebook, OUT / f"{name}.ipynb")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
