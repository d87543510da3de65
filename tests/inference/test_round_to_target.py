"""The last gates of a run with targets, against every number of open gates there could be."""

import signal
import warnings
from functools import partial

import pytest
import torch
from drawn import fit
from torch.distributions import Categorical
from toy_problem import Surprise, loader, pair

from l0bayes import compact, sparsify
from l0bayes.errors import FileFormatError
from l0bayes.inference import HardConcreteGuide, Target, TensorBatches
from l0bayes.inference.size.constraint import Constraint
from l0bayes.inference.size.rounding import round_to_target
from l0bayes.inference.size.target import TOLERANCE
from l0bayes.inference.training import drawn_gates
from l0bayes.models import MLP, Classifier
from l0bayes.posterior.cost import cost

SIZES = (20, 40, 30, 5)
AT = -2.3978952727983707  # log α from which a gate is open: log(0.1 / 1.1)


def half_trained(seed, *, spread=1.0, centre=AT):
    """A network some of whose gates are open, many near their threshold."""
    torch.manual_seed(seed)
    model = Classifier(sparsify(MLP(*SIZES), torch.zeros(2, SIZES[0]), gates="input"), num_data=100)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for name in guide.gates():
            parameter = guide.parameter(f"log_alpha.{name}")
            parameter.copy_(centre + spread * torch.randn_like(parameter))
    return model, guide


def followed(targets, model, guide):
    constraints = [Constraint(target, model, guide, num_data=100, updates=10) for target in targets]
    for constraint in constraints:
        constraint.alone = not constraint.others(constraints)
    return constraints


def shares_by_number(guide, constraint):
    """The share for each number of open gates, the most probable ones, by brute force."""
    names = list(guide.gates())
    before = {name: guide.parameter(f"log_alpha.{name}").detach().clone() for name in names}
    everything = torch.cat(list(before.values()))
    found = []
    for number in range(len(everything) + 1):
        opened = torch.full_like(everything, AT - 1)
        opened[everything.argsort(descending=True, stable=True)[:number]] = AT + 2
        with torch.no_grad():
            for name, value in zip(names, opened.split([len(v) for v in before.values()]), strict=True):
                guide.parameter(f"log_alpha.{name}").copy_(value)
        found.append(constraint.reached())
    with torch.no_grad():
        for name, value in before.items():
            guide.parameter(f"log_alpha.{name}").copy_(value)
    return found


@pytest.mark.parametrize("off", [-0.4, -0.08, 0.05, 0.09])
@pytest.mark.parametrize("of", ["parameters", "macs"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_nearest_share_there_is(seed, of, off):
    model, guide = half_trained(seed)
    (now,) = followed([Target(0.5, of)], model, guide)
    (constraint,) = followed([Target(now.reached() / (1 + off), of)], model, guide)
    possible = shares_by_number(guide, constraint)
    nearest = min(abs(share / constraint.target.share - 1) for share in possible)
    before = {name: value.detach().clone() for name, value in guide.named_parameters()}
    changed = round_to_target(model, guide, [constraint])
    assert abs(constraint.excess()) <= nearest + 1e-12
    assert changed > 0
    small = cost(compact(model, guide), torch.zeros(1, SIZES[0]))
    full = cost(model.net.net, torch.zeros(1, SIZES[0]))
    assert getattr(small, of) / getattr(full, of) == pytest.approx(constraint.reached())
    for name, value in guide.named_parameters():  # what need not change stays as it was trained
        sure = ((before[name] - AT).abs() > 1) & ((before[name] > AT) == (value > AT))
        assert torch.equal(value[sure], before[name][sure])
    assert round_to_target(model, guide, [constraint]) == 0


@pytest.mark.parametrize("off", [-0.55, 0.2, 0.01, -0.02])
def test_what_is_far_or_near_enough_is_left_alone(off):
    model, guide = half_trained(0)
    (now,) = followed([Target(0.5)], model, guide)
    (constraint,) = followed([Target(now.reached() / (1 + off))], model, guide)
    before = {name: value.detach().clone() for name, value in guide.named_parameters()}
    assert round_to_target(model, guide, [constraint]) == 0
    assert all(torch.equal(value, before[name]) for name, value in guide.named_parameters())


def test_of_several_targets_one_decides():
    model, guide = half_trained(2)
    one, other = followed([Target(0.5), Target(0.5, "macs")], model, guide)
    targets = [Target(one.reached() * 1.2), Target(other.reached() * 1.1, "macs")]
    constraints = followed(targets, model, guide)
    round_to_target(model, guide, constraints)
    assert all(constraint.excess() < TOLERANCE / 2 for constraint in constraints)
    assert max(constraint.excess() for constraint in constraints) > -TOLERANCE


def test_layers_by_themselves():
    model, guide = half_trained(3)
    now = followed([Target(0.5, layers="fc1"), Target(0.5, layers="fc2")], model, guide)
    targets = [Target(now[0].reached() * 1.15, layers="fc1"), Target(now[1].reached() * 0.93, layers="fc2")]
    constraints = followed(targets, model, guide)
    round_to_target(model, guide, constraints)
    assert all(abs(constraint.excess()) < TOLERANCE for constraint in constraints)


def data():
    torch.manual_seed(0)
    x = torch.randn(200, SIZES[0])
    return x, Categorical(logits=x @ torch.randn(SIZES[0], SIZES[-1])).sample()


@pytest.mark.parametrize("fine_tune", [0, 2])
def test_a_short_run_ends_at_its_target(fine_tune, tmp_path):
    model, guide = half_trained(0, spread=0.3, centre=1.0)
    model.num_data = 200
    loader = TensorBatches(*data(), 20, shuffle=True)
    target = Target(0.25)
    options = {"epochs": 30, "fine_tune": fine_tune, "gate_lr": 0.1, "checkpoint": tmp_path / "run", "progress": False}
    result = fit(model, guide, loader, target=target, **options)
    assert result.reached[target] == pytest.approx(0.25, rel=TOLERANCE)
    assert result.history["share"].iloc[-1] == result.reached[target]
    again = fit(model, guide, loader, target=target, **options)
    assert again.rounded == again.settled == result.rounded
    assert again.reached == result.reached


def test_a_run_that_is_stopped_is_not_rounded(tmp_path, monkeypatch):
    """Nor is one that cannot resume: the gates it leaves are those that it was given."""
    rounded = []
    monkeypatch.setattr(drawn_gates, "round_to_target", lambda *_: rounded.append(1) or 0)
    options = {"epochs": 4, "target": Target(0.5), "checkpoint": tmp_path / "run", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        fit(*pair(), Surprise(loader(), 2, partial(signal.raise_signal, signal.SIGINT)), **options)
    with pytest.raises(FileFormatError):
        fit(*pair(), loader(), **(options | {"target": Target(0.6)}))
    assert not rounded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # so short a run misses its target
        fit(*pair(), loader(), **options)
    assert rounded
