"""A run that is killed without warning resumes with the same command, to the same result."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from toy_problem import assert_equal_checkpoints

from l0bayes.inference.cli import main
from l0bayes.inference.storage.files import read_tensors

EPOCHS = 40


def arguments(out):
    options = {"data": "digits", "epochs": EPOCHS, "hidden": "[12,6]", "progress": "false", "out": out}
    return ["train", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def kill_when(path, out, log):
    """Starts the command in a process of its own and kills it as soon as a file exists."""
    command = [sys.executable, "-m", "l0bayes.inference.cli", *arguments(out)]
    with subprocess.Popen(command, stdout=log, stderr=log) as process:  # noqa: S603 (our own command)
        deadline = time.monotonic() + 100
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"


def test_killed_twice_and_resumed(tmp_path):
    """Once while the dense network is trained, once while the gated one is."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with (tmp_path / "log").open("w") as log:
        for network in ("dense", "gated"):
            path = parts / f"{network}.checkpoint"
            kill_when(path, parts, log)
            _, facts = read_tensors(path, "checkpoint")  # never half a file
            assert 1 <= facts["epoch"] < EPOCHS
            assert not (parts / "gates.csv").exists()
    for out in (whole, parts):
        assert main(arguments(out)) == 0
    assert (parts / "gates.csv").read_bytes() == (whole / "gates.csv").read_bytes()
    for network in ("dense", "gated"):
        tensors, other = (read_tensors(run / f"{network}.checkpoint", "checkpoint")[0] for run in (whole, parts))
        learned = [name for name in tensors if not name.startswith("random/")]
        assert tensors.keys() == other.keys()
        assert all(tensors[name].numpy().tobytes() == other[name].numpy().tobytes() for name in learned)


SCRIPT = """
import os, random, signal, sys
from toy_problem import Surprise, loader, pair
from l0bayes.inference import fit

def run(path, step):
    random.seed(1)  # a fork has its own seed
    batches = Surprise(loader(), step, lambda: os.kill(os.getpid(), signal.SIGKILL)) if step else loader()
    fit(*pair(), batches, epochs=4, gate_lr=5e-2, checkpoint=path, progress=False)
    os._exit(0)

fit(*pair(), loader(), epochs=1, progress=False)  # all that is imported only when needed, once
for path, step in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    child = os.fork() or run(path, step)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (-signal.SIGKILL if step else 0)
"""


def test_killed_at_these_steps(tmp_path):
    """Three steps an epoch; each number is the step of its process, and 0 one that may finish."""
    killed = {"whole": (0,), "1 and 5": (1, 5, 0), "6 and 3": (6, 3, 0), "12": (12, 0)}
    runs = [str(word) for name, steps in killed.items() for step in steps for word in (tmp_path / name, step)]
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, *runs]
    subprocess.run(command, cwd=Path(__file__).parent, check=True)  # noqa: S603 (our own command)
    for name in killed:
        assert_equal_checkpoints(tmp_path / "whole", tmp_path / name)
