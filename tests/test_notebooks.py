"""What notebooks/run.py refuses. The notebooks themselves are run by ``make notebooks``."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
exceptions = pytest.importorskip("nbclient.exceptions")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(monkeypatch):
    spec = importlib.util.spec_from_file_location("notebooks_run", ROOT / "notebooks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "notebooks_run", module)
    spec.loader.exec_module(module)
    return module


def notebook(text, stream="stdout"):
    output = nbformat.v4.new_output("stream", name=stream, text=text)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])


def test_plain_output_may_go_into_docs(run):
    run.refuse_unfit("a", notebook("error 0.83%\n"))


@pytest.mark.parametrize(
    ("text", "stream"),
    [
        ("UserWarning: something", "stderr"),
        ("50%|#####     |\r60%|######    |", "stdout"),
        (f"saved {ROOT}/out/small.safetensors", "stdout"),
    ],
)
def test_warnings_bars_and_paths_may_not(run, text, stream):
    with pytest.raises(SystemExit, match="must not go into docs"):
        run.refuse_unfit("a", notebook(text, stream))


@pytest.mark.parametrize(("left", "limit"), [(0.0, "together have 300 s"), (1000.0, "a cell has 120 s")])
def test_a_limit_that_was_passed_is_named(run, monkeypatch, left, limit):
    class Slow:
        def __init__(self, *_, timeout_func, **__):
            self.seconds = timeout_func(None)

        def execute(self):
            assert 0 < self.seconds <= run.SECONDS_A_CELL
            raise exceptions.CellTimeoutError("slow")

    monkeypatch.setattr(run, "NotebookClient", Slow)
    with pytest.raises(SystemExit, match=limit):
        run.run("hard_concrete", time.monotonic() + left)
