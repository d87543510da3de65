"""Several processes that torchrun starts train one network."""

import subprocess
import sys
from pathlib import Path

import joint_run
import pytest
import torch

from l0bayes.inference import TensorBatches
from l0bayes.inference.storage.files import read_tensors
from l0bayes.inference.system.processes import Processes

SCRIPT = Path(joint_run.__file__)


def torchrun(out, *args, restarts=0):
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [f"--max_restarts={restarts}", str(SCRIPT), str(out), *map(str, args)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)  # noqa: S603 (our own)
    assert done.returncode == 0, done.stderr[-3000:]
    return [read_tensors(out / f"end{rank}", "end") for rank in range(2)]


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process on the joint batches; those that cannot be shared equally are as large as they are there."""
    out = tmp_path_factory.mktemp("alone")
    dtype = torch.get_default_dtype()
    try:
        joint_run.train(out)
    finally:
        torch.set_default_dtype(dtype)
    return read_tensors(out / "end0", "end")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return torchrun(tmp_path_factory.mktemp("together"), "alike")


def test_two_processes_hold_the_same(together):
    (first, _), (second, _) = together
    assert largest_difference(first, second) == 0


def test_two_processes_equal_one_on_the_joint_batch(alone, together):
    tensors, facts = together[0]
    assert largest_difference(tensors, alone[0]) < 1e-10
    assert facts["history"]["elbo"] == pytest.approx(alone[1]["history"]["elbo"], rel=1e-10)
    assert facts["history"]["open_gates"] == alone[1]["history"]["open_gates"]


def test_independent_draws_are_others_and_agree_in_the_end(together, tmp_path):
    (first, _), (second, _) = torchrun(tmp_path, "apart")
    assert largest_difference(first, second) == 0
    assert largest_difference(first, together[0][0]) > 1e-4


def test_a_killed_worker_restarts_from_the_checkpoint(together, tmp_path):
    """In the fourth epoch, of three steps each: the epochs before it are not lost, and nothing else is different."""
    (first, facts), _ = torchrun(tmp_path, "alike", 11, restarts=1)
    assert largest_difference(first, together[0][0]) == 0
    assert facts["history"]["elbo"] == together[0][1]["history"]["elbo"]


def test_shards_are_the_batch():
    x, y = torch.arange(46.0).reshape(23, 2), torch.arange(23)
    parts = []
    for rank in range(2):
        torch.manual_seed(3)
        parts.append(list(TensorBatches(x, y, 10, shuffle=True, shard=(rank, 2))))
        assert len(parts[-1]) == len(TensorBatches(x, y, 10, shard=(rank, 2))) == 3
    torch.manual_seed(3)
    for (whole, _), (one, _), (other, _) in zip(TensorBatches(x, y, 10, shuffle=True), *parts, strict=True):
        assert torch.equal(torch.cat([one, other]), whole[: len(whole) // 2 * 2])


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="batch_size=5 must be a multiple of the 2 processes"):
        TensorBatches(torch.zeros(8, 1), torch.zeros(8), 5, shard=(0, 2))


def test_one_process_is_the_first_of_one():
    processes = Processes()
    assert (processes.rank, processes.size, processes.first) == (0, 1, True)
    assert processes.mean(1.0, 2.0) == [1.0, 2.0]
    assert processes.of_first(3.0) == 3.0
    module = torch.nn.Linear(1, 1)
    assert processes.wrap(module) is module
