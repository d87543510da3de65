"""What a run does when its disk is full or its loader fails: a clear error, and nothing is lost."""

import errno
import os

import pytest
import torch
from test_resume import EPOCHS, STEPS, assert_same_run, start, uninterrupted  # noqa: F401 (a fixture)
from torch.utils.data import DataLoader, Dataset
from toy_problem import Surprise, blobs, loader

from l0bayes.errors import DataError


def full_disk(*_args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("files", [("checkpoint",), ("checkpoint", "history")])
def test_a_disk_that_fills_up(files, uninterrupted, tmp_path, monkeypatch):  # noqa: F811
    path = tmp_path / "run.checkpoint"
    others = {"history": tmp_path / "history.csv"} if "history" in files else {}
    with monkeypatch.context() as patched:
        fills_up = Surprise(loader(), 2 * STEPS + 1, lambda: patched.setattr(os, "fsync", full_disk))
        with pytest.raises(OSError, match=r"No space left.*after 3 epochs.*last good state.*run\.checkpoint") as error:
            start(path, fills_up, **others)
    assert error.value.errno == errno.ENOSPC
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []
    end, result = start(path, seed=99, **others)
    assert_same_run(uninterrupted, path, end, result)


@pytest.mark.parametrize("step", [1, 2, STEPS + 1, STEPS + 2, 3 * STEPS])
def test_a_loader_that_fails(step, uninterrupted, tmp_path):  # noqa: F811
    path = tmp_path / "run.checkpoint"

    def fails():
        raise RuntimeError("the network drive is gone")

    epoch, done = divmod(step - 1, STEPS)
    message = rf"train_loader failed in epoch {epoch + 1}, after {done} steps, with RuntimeError: the network drive"
    with pytest.raises(DataError, match=message) as error:
        start(path, Surprise(loader(), step, fails))
    assert isinstance(error.value.__cause__, RuntimeError)
    assert path.exists() == (step > 1)
    assert (str(path) in str(error.value)) == path.exists()
    end, result = start(path, seed=99 if path.exists() else 1)
    assert_same_run(uninterrupted, path, end, result)


class Rows(Dataset):
    """Rows of which one takes its worker along."""

    def __init__(self, deadly):
        self.x, self.y = blobs()
        self.deadly = deadly

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        if self.deadly and row == len(self) - 1:
            os._exit(3)
        return self.x[row], self.y[row]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # a file of its own
def test_a_worker_that_dies(tmp_path):
    path = tmp_path / "run.checkpoint"
    # Torch tells by a signal: while the next batch is awaited, or in the middle of whatever is done then. And the batch
    # before may not have been handed over whole.
    with pytest.raises((DataError, RuntimeError), match=r"DataLoader worker .* exited unexpectedly|Connection"):
        start(path, DataLoader(Rows(deadly=True), 20, num_workers=1))
    end, result = start(path, DataLoader(Rows(deadly=False), 20))
    assert len(result.history) == EPOCHS
    assert all(torch.isfinite(value).all() for value in end.values())
