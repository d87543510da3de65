"""The moving average of the weights: what it is, and that it goes wherever the run goes."""

import signal
from functools import partial

import pytest
import torch
from drawn import fit
from torch import nn
from toy_problem import (
    ROWS,
    Surprise,
    assert_equal_checkpoints,
    assert_equal_states,
    loader,
    pair,
    state,
)

from l0bayes import sparsify
from l0bayes.inference import ClosedFormKL_ELBO, FitOptions, HardConcreteGuide, TensorBatches, evaluate, shrink
from l0bayes.inference.storage.files import read_tensors
from l0bayes.inference.training.averaged_buffers import AveragedBuffers
from l0bayes.inference.training.moving_average import MovingAverage
from l0bayes.inference.training.optimizers import build_optimizer
from l0bayes.models import Classifier, SpikeSlabRegression


def setting(decay=0.9, size=3):
    parameter = nn.Parameter(torch.zeros(size, dtype=torch.float64))
    gates = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.SGD([{"params": [parameter], "name": "weights"}, {"params": [gates], "name": "gates"}], 0.1)
    return parameter, gates, MovingAverage(optimizer, decay, nn.Module())


def set_to(parameter, value):
    with torch.no_grad():
        parameter.copy_(value)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_it_is_the_average_computed_by_hand(decay):
    """Step t = 1, 2, … with decay min(d, (1 + t) / (10 + t)), from the first value it sees."""
    parameter, _, average = setting(decay)
    values = torch.randn(30, 3, dtype=torch.float64)
    by_hand = values[0]
    for t, value in enumerate(values, start=1):
        set_to(parameter, value)
        average.update()
        kept = min(decay, (1 + t) / (10 + t))
        by_hand = kept * by_hand + (1 - kept) * value
    with average.in_place():
        torch.testing.assert_close(parameter.detach(), by_hand, rtol=1e-12, atol=1e-12)
    assert torch.equal(parameter, values[-1])


def test_what_stays_is_its_own_average():
    parameter, _, average = setting()
    set_to(parameter, torch.tensor([1.0, 2.0, 3.0]))
    for _ in range(5):
        average.update()
    average.swap()
    torch.testing.assert_close(parameter.tolist(), [1.0, 2.0, 3.0])


def test_swapping_twice_changes_nothing():
    parameter, _, average = setting()
    for value in (1.0, 5.0):
        set_to(parameter, torch.full((3,), value))
        average.update()
    now = parameter.detach().clone()
    average.swap()
    assert not torch.equal(parameter, now)
    average.swap()
    assert torch.equal(parameter, now)


def test_the_parameters_come_back_after_an_error():
    parameter, _, average = setting()
    for value in (1.0, 5.0):
        set_to(parameter, torch.full((3,), value))
        average.update()
    with pytest.raises(RuntimeError, match="validation"), average.in_place():
        raise RuntimeError("validation")
    assert parameter.tolist() == [5.0] * 3


def test_gates_are_not_averaged():
    _, gates, average = setting()
    for value in (0.0, 4.0):
        set_to(gates, torch.full((2,), value))
        average.update()
    with average.in_place():
        assert gates.tolist() == [4.0, 4.0]


def test_before_any_step_there_is_nothing_to_swap():
    parameter, _, average = setting()
    set_to(parameter, torch.ones(3))
    average.swap()
    assert parameter.tolist() == [1.0] * 3


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_a_parameter_may_have_its_first_gradient_late(kind):
    """The optimizer makes its own state for it then, whatever the average has kept."""
    early, late = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = kind([early, late], lr=0.1)
    average = MovingAverage(optimizer, 0.9, nn.Module())
    for parameters in ([early], [early, late]):
        for parameter in parameters:
            parameter.grad = torch.ones(2)
        optimizer.step()
        average.update()
    average.swap()
    assert (late != 0).all() or kind is torch.optim.SGD


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_it_is_shrunk_with_the_network(optimizer):
    model, guide = pair(sizes=(6, 8, 7, 3), gates="unit")
    optimizer = build_optimizer(nn.ModuleList([model, guide]), FitOptions(optimizer=optimizer), ROWS)
    average = MovingAverage(optimizer, 0.5, nn.Module())
    elbo = ClosedFormKL_ELBO()(model, guide)
    for batch in loader():
        elbo(*batch).backward()
        optimizer.step()
        average.update()
    with average.in_place():
        before = {name: value.clone() for name, value in model.net.net.state_dict().items()}
    with torch.no_grad():
        for log_alpha in guide.parameters():
            log_alpha[:3] = -40.0
    shrink(model, guide, optimizer)
    with average.in_place():
        after = model.net.net.state_dict()
        assert torch.equal(after["fc2.weight"], before["fc2.weight"][3:, 3:])
        assert torch.equal(after["fc2.bias"], before["fc2.bias"][3:])
        assert torch.equal(after["fc3.bias"], before["fc3.bias"])
    elbo(*next(iter(loader()))).backward()
    optimizer.step()
    average.update()  # goes on in the new shapes


# -- in a run --------------------------------------------------------------------------------------------------------


def run(path=None, batches=None, epochs=4, **options):
    model, guide = pair()
    options = {"lr": 0.02, "gate_lr": 0.05, "ema": 0.8} | options
    result = fit(model, guide, batches or loader(), epochs=epochs, checkpoint=path, progress=False, **options)
    return model, guide, result


def test_a_run_ends_with_the_averages_of_its_steps(monkeypatch):
    seen = []
    update = MovingAverage.update

    def watched(self):
        seen.append([parameter.detach().clone() for parameter in self._all_but_gates()])
        update(self)

    monkeypatch.setattr(MovingAverage, "update", watched)
    model, *_ = run()
    assert len(seen) == 12
    by_hand = seen[0]
    for t, step in enumerate(seen, start=1):
        kept = min(0.8, (1 + t) / (10 + t))
        by_hand = [kept * average + (1 - kept) * value for average, value in zip(by_hand, step, strict=True)]
    torch.testing.assert_close([parameter.detach() for parameter in model.parameters()], by_hand)
    assert len(by_hand) == len(list(model.parameters()))


def test_it_changes_nothing_of_the_steps(tmp_path):
    """Checkpoints hold the parameters that training goes on with, the averages beside them."""
    run(tmp_path / "plain", ema=None)
    model, guide, _ = run(tmp_path / "averaged")
    plain, averaged = (read_tensors(tmp_path / name, "checkpoint")[0] for name in ("plain", "averaged"))
    for name, value in plain.items():
        if name.startswith(("model/", "guide/")):
            assert torch.equal(value, averaged[name]), name
    ends = {f"model/{name}": value for name, value in model.state_dict().items()}
    assert not torch.equal(ends["model/net.net.fc1.weight"], averaged["model/net.net.fc1.weight"])
    assert any(torch.equal(ends["model/net.net.fc1.weight"], value) for value in averaged.values())
    assert torch.equal(guide.parameter("log_alpha.fc1.input"), averaged["guide/log_alpha.fc1.input"])


def test_validation_is_of_the_averages():
    batches = loader(shuffle=False)
    model, guide, result = run(validation_loader=batches, ema=0.99, lr=0.1)
    assert result.history["validation_error"].iloc[-1] == evaluate(model, guide, batches)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_more_epochs_later_are_as_good_as_at_once(optimizer, tmp_path):
    whole = run(tmp_path / "whole", optimizer=optimizer)
    for epochs in (1, 3, 4):
        parts = run(tmp_path / "parts", epochs=epochs, optimizer=optimizer)
    assert_equal_states(state(*whole[:2]), state(*parts[:2]))
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("step", [2, 3, 8])
def test_it_is_resumed_within_an_epoch(step, tmp_path):
    whole = run(tmp_path / "whole")
    ctrl_c = partial(signal.raise_signal, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Surprise(loader(), step, ctrl_c))
    parts = run(tmp_path / "parts")
    assert_equal_states(state(*whole[:2]), state(*parts[:2]))
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_gives_the_averages_again(tmp_path):
    first = run(tmp_path / "run")
    again = run(tmp_path / "run")
    assert_equal_states(state(*first[:2]), state(*again[:2]))


@pytest.mark.filterwarnings("ignore:no way leads")
def test_it_is_resumed_in_a_network_that_was_shrunk(tmp_path):
    options = {"shrink_below": 0.7, "gate_lr": 0.3}
    whole = run(tmp_path / "whole", **options)
    sizes = [group.size for group in whole[0].net.groups]
    assert sum(sizes) < 6 + 5 + 4
    for epochs in (2, 4):
        parts = run(tmp_path / "parts", epochs=epochs, **options)
    assert_equal_states(state(*whole[:2]), state(*parts[:2]))


# -- running statistics ----------------------------------------------------------------------------------------------


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())


def normalised(path=None, epochs=3, **options):
    torch.manual_seed(0)
    x = torch.randn(60, 6) + 1
    sparse = sparsify(Normalised(), x[:2], gates="unit")
    model = Classifier(sparse, num_data=60)
    guide = HardConcreteGuide(model)
    batches = TensorBatches(x, (x[:, 0] > 1).long(), 20, shuffle=True)
    options = {"lr": 0.05, "ema": 0.9} | options
    fit(model, guide, batches, epochs=epochs, checkpoint=path, progress=False, **options)
    return model, guide


def test_statistics_are_averaged_with_the_weights(monkeypatch):
    seen = []
    update = AveragedBuffers.update

    def watched(self):
        seen.append(self._source[0].net.net.norm.running_mean.clone())
        update(self)

    monkeypatch.setattr(AveragedBuffers, "update", watched)
    model, _ = normalised()
    assert len(seen) == 9
    by_hand = torch.zeros(8)  # as it is before the first step
    for t, step in enumerate(seen, start=1):
        kept = min(0.9, (1 + t) / (10 + t))
        by_hand = kept * by_hand + (1 - kept) * step
    torch.testing.assert_close(model.net.net.norm.running_mean, by_hand)
    assert not torch.allclose(by_hand, seen[-1])


@pytest.mark.parametrize("options", [{}, {"shrink_below": 0.3, "gate_lr": 0.5}])
def test_averaged_statistics_are_resumed(tmp_path, options):
    whole = normalised(tmp_path / "whole", **options)
    for epochs in (1, 2, 3):
        parts = normalised(tmp_path / "parts", epochs=epochs, **options)
    assert_equal_states(state(*whole), state(*parts))
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_data_that_a_model_holds_is_no_statistic():
    model = SpikeSlabRegression(torch.randn(20, 3), torch.randn(20))
    assert [name for name, _ in AveragedBuffers(model, 0.9).named_buffers()] == ["steps"]
