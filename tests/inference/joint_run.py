"""What each process of test_processes.py runs: ``python joint_run.py OUT HOW [KILL_AT]``."""

import os
import signal
import sys
from pathlib import Path

import torch
from toy_problem import Surprise, blobs, pair

from l0bayes.inference import Target, TensorBatches, fit
from l0bayes.inference.storage.files import write_tensors
from l0bayes.inference.system.processes import Processes, join_processes

EPOCHS = 6


def train(out, how="alike", kill_at=None, epochs=EPOCHS):
    """``how``: "alike" or "apart" draws of the gates in the processes, or gates moved by "evidence"."""
    torch.set_default_dtype(torch.float64)
    join_processes()
    processes = Processes()
    model, guide = pair()
    x, y = blobs()
    loader = TensorBatches(x.double(), y, 20, shuffle=True, shard=(processes.rank, processes.size))
    if kill_at is not None and processes.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        loader = Surprise(loader, kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    result = fit(
        model,
        guide,
        loader,
        epochs=epochs,
        checkpoint=Path(out) / "run.checkpoint",
        independent_draws=how == "apart",
        num_particles=2 if how == "apart" else 1,
        selection="evidence" if how == "evidence" else "svi",
        target=Target(0.5) if how == "evidence" else (),
        progress=False,
    )
    states = {**model.state_dict(prefix="model."), **guide.state_dict(prefix="guide.")}
    write_tensors(
        Path(out) / f"end{processes.rank}", states, {"kind": "end", "history": result.history.to_dict("list")}
    )


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
