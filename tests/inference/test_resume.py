"""A run that stops and resumes is the run that never stopped, bit for bit."""

import signal
from functools import partial

import pytest
import torch
from drawn import fit
from torch.utils.data import DataLoader, TensorDataset
from toy_problem import Surprise, assert_equal_checkpoints, assert_equal_states, blobs, loader, pair, state

EPOCHS, STEPS = 4, 3  # 50 rows in batches of 20
ctrl_c = partial(signal.raise_signal, signal.SIGINT)


@pytest.fixture(autouse=True)
def _python_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def start(path, batches=None, seed=1, epochs=EPOCHS, **options):
    """What a process does that runs the script: the same seeds, new modules, one call of fit."""
    model, guide = pair(seed)
    options = {"lr": 1e-2, "gate_lr": 5e-2, "progress": False} | options
    result = fit(model, guide, batches or loader(), epochs=epochs, checkpoint=path, **options)
    return state(model, guide), result


@pytest.fixture
def uninterrupted(tmp_path):
    path = tmp_path / "uninterrupted.checkpoint"
    return path, *start(path)


def same_history(one, other):
    columns = [column for column in one.columns if column != "seconds"]
    return one[columns].equals(other[columns])


def assert_same_run(uninterrupted, path, end, result):
    expected_path, expected_end, expected = uninterrupted
    assert_equal_states(end, expected_end)
    assert same_history(result.history, expected.history)
    assert_equal_checkpoints(path, expected_path)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_some_epochs_and_then_the_rest(first, uninterrupted, tmp_path):
    path = tmp_path / "run.checkpoint"
    start(path, epochs=first)
    end, result = start(path, seed=99)  # whatever the second process begins with
    assert_same_run(uninterrupted, path, end, result)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 8, 11, 12])
def test_ctrl_c_within_an_epoch(step, uninterrupted, tmp_path):
    path = tmp_path / "run.checkpoint"
    with pytest.raises(KeyboardInterrupt, match=r"run\.checkpoint"):
        start(path, Surprise(loader(), step, ctrl_c))
    end, result = start(path, seed=99)
    assert_same_run(uninterrupted, path, end, result)


def test_ctrl_c_again_and_again(uninterrupted, tmp_path):
    """Batches that were done are passed over on the way, so an epoch is stopped after 2, after 3 and at its end."""
    path = tmp_path / "run.checkpoint"
    for seed in range(1, 1 + 3 * EPOCHS):
        with pytest.raises(KeyboardInterrupt):
            start(path, Surprise(loader(), 2, ctrl_c), seed=seed)
    end, result = start(path)
    assert_same_run(uninterrupted, path, end, result)


def test_ctrl_c_while_validating(uninterrupted, tmp_path):
    path = tmp_path / "run.checkpoint"
    with pytest.raises(KeyboardInterrupt, match="stopped after 2 epochs and 0 steps"):
        start(path, validation_loader=Surprise(loader(shuffle=False), 2 * STEPS - 1, ctrl_c))
    end, result = start(path)
    assert_equal_states(end, uninterrupted[1])
    assert result.history["epoch"].tolist() == [1, 2, 3, 4]


def test_the_step_in_progress_is_finished(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="stopped after 1 epochs and 2 steps"):
        start(tmp_path / "run.checkpoint", Surprise(loader(), STEPS + 2, ctrl_c))


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    path = tmp_path / "run.checkpoint"

    def twice():
        ctrl_c()
        ctrl_c()

    with pytest.raises(KeyboardInterrupt) as interrupt:
        start(path, Surprise(loader(), STEPS + 2, twice))
    assert str(interrupt.value) == ""
    end, result = start(path)  # the first epoch's checkpoint is still good
    assert result.history["epoch"].tolist() == [1, 2, 3, 4]
    assert all(torch.isfinite(value).all() for value in end.values())


def test_without_a_checkpoint_the_message_says_so_and_modules_keep_what_they_learned():
    model, guide = pair()
    before = state(model, guide)
    with pytest.raises(KeyboardInterrupt, match=r"no checkpoint was asked for.*keep what they learned"):
        fit(model, guide, Surprise(loader(), 2, ctrl_c), epochs=1, progress=False)
    assert any(not torch.equal(value, before[name]) for name, value in state(model, guide).items())


def test_torchs_data_loader_in_the_same_order(tmp_path):
    def batches():
        return DataLoader(TensorDataset(*blobs()), 20, shuffle=True)

    path, whole = tmp_path / "run.checkpoint", tmp_path / "whole.checkpoint"
    expected, _ = start(whole, batches())
    with pytest.raises(KeyboardInterrupt):
        start(path, Surprise(batches(), STEPS + 2, ctrl_c))
    end, _ = start(path, batches(), seed=99)
    assert_equal_states(end, expected)
    assert_equal_checkpoints(path, whole)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
        partial(torch.optim.SGD, lr=1e-3),
        partial(torch.optim.AdamW, lr=1e-2, amsgrad=True),
        partial(torch.optim.RMSprop, lr=1e-3),
        partial(torch.optim.NAdam, lr=1e-3),
    ],
    ids=["momentum", "sgd", "adamw", "rmsprop", "nadam"],
)
def test_other_optimizers(optimizer, tmp_path):
    ends = []
    for name, stops in (("whole", [EPOCHS]), ("parts", [1, EPOCHS])):
        for epochs in stops:
            model, guide = pair()
            own = optimizer([*model.parameters(), *guide.parameters()])
            fit(model, guide, loader(), epochs=epochs, optimizer=own, checkpoint=tmp_path / name, progress=False)
        ends.append(state(model, guide))
    assert_equal_states(*ends)
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_is_only_read(uninterrupted):
    path, expected, first = uninterrupted
    content = path.read_bytes()
    end, result = start(path, Surprise(loader(), 1, ctrl_c), seed=99)
    assert_equal_states(end, expected)
    assert result.history.equals(first.history)
    assert path.read_bytes() == content
    assert result.checkpoint == path
