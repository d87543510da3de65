"""The history as a file that is kept up to date."""

import json
import signal
from functools import partial

import pandas as pd
import pytest
from drawn import fit
from toy_problem import Surprise, loader, pair

STEPS = 3


def run(epochs=3, batches=None, **options):
    return fit(*pair(), batches or loader(), epochs=epochs, progress=False, validation_loader=loader(), **options)


def test_csv(tmp_path):
    path = tmp_path / "new" / "history.csv"
    result = run(history=path)
    pd.testing.assert_frame_equal(pd.read_csv(path), result.history)


def test_json(tmp_path):
    path = tmp_path / "history.json"
    result = run(history=path)
    pd.testing.assert_frame_equal(pd.DataFrame(json.loads(path.read_text())), result.history, check_dtype=False)


def test_it_is_there_while_the_run_goes_on(tmp_path):
    path, seen = tmp_path / "history.csv", []
    batches = Surprise(loader(), {STEPS + 1, 2 * STEPS + 1}, lambda: seen.append(len(pd.read_csv(path))))
    run(batches=batches, history=path)
    assert seen == [1, 2]


def test_a_resumed_run_has_all_epochs(tmp_path):
    files = {"history": tmp_path / "history.csv", "checkpoint": tmp_path / "run.checkpoint"}
    with pytest.raises(KeyboardInterrupt):
        run(batches=Surprise(loader(), STEPS + 2, partial(signal.raise_signal, signal.SIGINT)), **files)
    assert pd.read_csv(files["history"])["epoch"].tolist() == [1]
    run(**files)
    assert pd.read_csv(files["history"])["epoch"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["history", "history.txt", "history.csv.gz"])
def test_other_kinds_of_file_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=rf"history must end in \.csv or \.json; got '.*{name}'"):
        run(history=tmp_path / name)
