"""Runs that reach a size: they get there, say so where they do not, and resume where they stopped."""

import signal
import warnings
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from drawn import fit
from sklearn.datasets import load_digits
from toy_problem import Surprise, assert_equal_checkpoints, assert_equal_states, loader, pair, state

from l0bayes import compact, sparsify
from l0bayes.errors import FileFormatError
from l0bayes.inference import FitOptions, HardConcreteGuide, Target, TensorBatches, evaluate
from l0bayes.inference.size.constraint import Constraint
from l0bayes.inference.storage.files import read_tensors
from l0bayes.inference.training.fit import _constraints
from l0bayes.models import MLP, Classifier
from l0bayes.posterior.cost import cost

FEW_UNITS = 0.2  # of the target: one hidden unit with its weights is 5 % of a tenth of the network


@cache
def digits():
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


def run_on_digits(target, epochs=60, **options):
    torch.manual_seed(1)
    x, y = digits()
    sparse = sparsify(MLP(64, 100, 10), x[:2], code_cost=0.0, gates="input")
    model = Classifier(sparse, len(x))
    guide = HardConcreteGuide(model)
    batches = TensorBatches(x, y, 100, shuffle=True)
    settings = {"lr": 5e-3, "gate_lr": 0.1, "progress": False} | options
    result = fit(model, guide, batches, epochs=epochs, target=target, **settings)
    return SimpleNamespace(model=model, guide=guide, result=result, batches=batches)


def share_of_compact(run, of):
    full, small = (cost(net, digits()[0][:1]) for net in (MLP(64, 100, 10), compact(run.model, run.guide)))
    return getattr(small, of) / getattr(full, of)


@pytest.mark.filterwarnings("ignore:target. .* was not reached")
@pytest.mark.parametrize("of", ["parameters", "macs"])
def test_a_run_on_digits_lands_on_its_target_and_still_knows_them(of):
    target = Target(0.1, of)
    run = run_on_digits(target)
    assert run.result.reached[target] == pytest.approx(0.1, rel=FEW_UNITS)
    assert share_of_compact(run, of) == pytest.approx(run.result.reached[target], rel=1e-6)
    assert evaluate(run.model, run.guide, run.batches) < 0.15
    history = run.result.history
    assert history["share"].iloc[-1] == run.result.reached[target]
    assert history["share"].iloc[0] > 0.5
    assert history["multiplier"].iloc[-1] > 0


@pytest.mark.filterwarnings("ignore:target. .* was not reached")
def test_two_targets_at_once():
    """Both hold, and the one that is harder exactly: hidden units are gates of both layers."""
    run = run_on_digits((Target(0.2, layers="fc1"), Target(0.4, layers="fc2")))
    shares = [share / target.share for target, share in run.result.reached.items()]
    assert max(shares) == pytest.approx(1, rel=FEW_UNITS)
    small = compact(run.model, run.guide)
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in (small.fc1, small.fc2)]
    assert sizes == pytest.approx([shares[0] * 0.2 * 6500, shares[1] * 0.4 * 1010])


def toy_run(target, path=None, batches=None, epochs=4, **options):
    model, guide = pair()
    options = {"gate_lr": 0.1, "checkpoint": path, "progress": False} | options
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "target: .* was not reached")
        result = fit(model, guide, batches or loader(), epochs=epochs, target=target, **options)
    return model, guide, result


def test_a_target_that_was_missed_is_said():
    target = Target(0.2)
    model, guide = pair(init_open=0.9)
    with pytest.warns(UserWarning, match=r"0\.2 of the parameters was not reached: it is 1\. Train longer"):
        result = fit(model, guide, loader(), epochs=1, target=target, progress=False)
    assert result.reached == {target: 1.0}


def test_one_that_was_undershot_is_said_too():
    model, guide = pair()
    with torch.no_grad():
        for log_alpha in guide.parameters():
            log_alpha[1:] = -20.0
    with pytest.warns(UserWarning, match=r"0\.5 of the parameters was not reached: it is 0\.135"):
        fit(model, guide, loader(), epochs=1, target=Target(0.5), progress=False)


@pytest.mark.filterwarnings("ignore:no way leads")
@pytest.mark.parametrize("options", [{}, {"fine_tune": 2}, {"shrink_below": 0.3, "gate_lr": 0.3}], ids=str)
def test_epochs_at_a_time_are_the_run_at_once(options, tmp_path):
    """The multiplier is in the checkpoint, and its rate is that of a run of so many epochs: those stay."""
    targets = Target(0.4), Target(0.3, "macs")
    whole = toy_run(targets, tmp_path / "whole", **options)
    for epoch in (2, 5, 8):
        ctrl_c = Surprise(loader(), epoch, partial(signal.raise_signal, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            toy_run(targets, tmp_path / "parts", ctrl_c, **options)
    parts = toy_run(targets, tmp_path / "parts", **options)
    assert all(value > 0 for value in read_tensors(tmp_path / "whole", "checkpoint")[1]["multipliers"])
    assert_equal_states(state(*whole[:2]), state(*parts[:2]))
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.filterwarnings("ignore:no way leads")
@pytest.mark.parametrize("step", [22, 23, 24, 25, 30])
def test_a_step_after_an_interruption_feels_what_it_would_have_felt(step, tmp_path, monkeypatch):
    """While the goal descends past the size that the network has: 25 steps an epoch, two epochs of descent."""
    felt, penalty = [], Constraint.penalty

    def watched(self):
        felt.append(self._pressure)
        return penalty(self)

    monkeypatch.setattr(Constraint, "penalty", watched)
    monkeypatch.setattr(Constraint, "reached", lambda _: 0.72)
    toy_run(Target(0.5), tmp_path / "whole", loader(2), gate_lr=0.01)
    expected = felt.copy()
    assert any(0 < pressure < 1 for pressure in expected)
    felt.clear()
    ctrl_c = Surprise(loader(2), step, partial(signal.raise_signal, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        toy_run(Target(0.5), tmp_path / "parts", ctrl_c, gate_lr=0.01)
    toy_run(Target(0.5), tmp_path / "parts", loader(2), gate_lr=0.01)
    assert felt == expected


def test_a_checkpoint_of_another_number_of_targets_is_refused(tmp_path):
    toy_run(Target(0.4), tmp_path / "run", epochs=1)
    with pytest.raises(FileFormatError, match=r"target=\['0.4 of the parameters'\], now it is \[\]"):
        fit(*pair(), loader(), epochs=2, checkpoint=tmp_path / "run", progress=False)


def test_fine_tuning_leaves_target_and_multiplier_alone():
    history = toy_run(Target(0.4), fine_tune=3)[2].history
    assert history["multiplier"].iloc[3:].nunique() == 1
    assert history["share"].iloc[3:].nunique() == 1


# -- latency ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """In place of the clock: a network takes as long as its parameters are many, and a bit."""
    calls = []

    def timed(functions, **_):
        sizes = {name: sum(p.numel() for p in call.args[0].parameters()) for name, call in functions.items()}
        calls.append((sizes, [call() for call in functions.values()]))
        return SimpleNamespace(ratio={name: 0.2 + 0.8 * size / sizes["full"] for name, size in sizes.items()})

    monkeypatch.setattr("l0bayes.inference.size.constraint.interleaved", timed)
    return calls


@pytest.mark.filterwarnings("ignore:target. .* was not reached")
def test_latency_follows_what_was_measured(clock):
    target = Target(0.5, "latency")
    run = run_on_digits(target)
    history, last = run.result.history, clock[-1][0]
    assert 60 < len(clock) < 60 + 200  # after each epoch, and where the network has changed since
    timed = {0.2 + 0.8 * sizes["compact"] / sizes["full"] for sizes, _ in clock}
    assert set(history["share"]) <= timed
    assert run.result.reached[target] == history["share"].iloc[-1] == pytest.approx(0.5, rel=FEW_UNITS)
    assert last == {"full": 7510, "compact": sum(p.numel() for p in compact(run.model, run.guide).parameters())}
    assert all(output.shape == (100, 10) and not output.requires_grad for _, outputs in clock for output in outputs)


@pytest.mark.filterwarnings("ignore:target. .* was not reached")
def test_latency_of_a_network_that_is_shrunk_is_that_of_the_full_one(clock):
    run = run_on_digits(Target(0.5, "latency"), epochs=15, shrink_below=0.05)
    assert sum(p.numel() for p in run.model.parameters()) < 7510
    assert {sizes["full"] for sizes, _ in clock} == {7510}


def test_latency_with_the_real_clock():
    history = toy_run(Target(0.01, "latency"), epochs=2)[2].history
    assert (history["share"] > 0).all()
    assert (history["multiplier"] > 0).all()


def test_latency_beside_another_target_is_measured_too(clock):
    latency = Target(0.5, "latency")
    result = toy_run((Target(0.5), latency))[2]
    assert len(clock) == 4
    last = clock[-1][0]
    assert result.reached[latency] == 0.2 + 0.8 * last["compact"] / last["full"]


@pytest.mark.filterwarnings("ignore:target. .* was not reached")
def test_targets_of_other_layers_are_held_from_below_each_by_itself():
    """Hidden units that the first closes are parameters of the second's layer."""
    targets = Target(0.3, layers="fc1"), Target(0.5, layers="fc2")
    reached = run_on_digits(targets).result.reached
    assert [reached[target] for target in targets] == pytest.approx([0.3, 0.5], rel=FEW_UNITS)


@pytest.mark.parametrize(
    ("patterns", "alone"), [(("*",), [True]), (("fc1", "fc[23]"), [True, True]), (("fc1", "*"), [False, False])]
)
def test_which_targets_are_alone_with_their_layers(patterns, alone):
    model, guide = pair()
    targets = tuple(Target(0.5, layers=pattern) for pattern in patterns)
    assert [constraint.alone for constraint in _constraints(targets, model, guide, loader(), FitOptions())] == alone
