"""A size to reach: what may be asked for, how the multiplier moves, and that runs get there."""

import math
import re
import signal
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from toy_problem import ROWS, Surprise, assert_equal_checkpoints, assert_equal_states, loader, pair, state

from l0bayes import compact, sparsify
from l0bayes.errors import FileFormatError
from l0bayes.inference import HardConcreteGuide, Target, TensorBatches, evaluate, fit
from l0bayes.inference.files import read_tensors
from l0bayes.inference.target import TOLERANCE, Budget
from l0bayes.models import MLP, Classifier
from l0bayes.posterior.cost import cost

# -- what may be asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.0, -0.1, 1.01, 10, math.nan, math.inf, "0.1", None])
def test_a_share_out_of_range(share):
    with pytest.raises(ValueError, match=re.escape(f"target: share must be in (0, 1]; got {share!r}")):
        Target(share)


def test_a_word_that_is_none():
    with pytest.raises(ValueError, match="target: of must be one of parameters, macs, latency; got 'flops'"):
        Target(0.1, "flops")


def test_latency_is_that_of_everything():
    with pytest.raises(ValueError, match=r"target: latency is that of the whole network; got layers='fc\*'"):
        Target(0.1, "latency", "fc*")


def test_a_target_says_what_it_is():
    assert str(Target(0.1)) == "0.1 of the parameters"
    assert str(Target(1 / 3, "macs", "conv*")) == "0.333 of the macs of conv*"


def budget(target, *, updates=1000, model_and_guide=None, **options):
    model, guide = model_and_guide or pair(**options)
    return Budget(target, model, guide, num_data=ROWS, updates=updates), guide


@pytest.mark.parametrize(
    ("options", "target", "least"),
    [
        # 6-5-4-3 has 35 + 24 + 15 parameters; a network 1-1-1-3 has 2 + 2 + 6.
        ({}, Target(0.13), 10 / 74),
        ({}, Target(0.08, "macs"), 5 / 62),
        ({"gates": {"fc2": {"gates": "input", "min_units": 5}}}, Target(0.9), 1.0),
        ({"gates": {"fc1": "input"}}, Target(0.5), (10 + 24 + 15) / 74),
        ({"gates": {"fc1": "input"}}, Target(0.5, layers="fc2"), 1.0),
    ],
    ids=["parameters", "macs", "min_units", "dense layers", "dense layer alone"],
)
def test_what_is_impossible_is_refused_with_numbers(options, target, least):
    asked = re.escape(f"target: {target} cannot be reached")
    with pytest.raises(ValueError, match=rf"{asked}: min_units .* alone are {least:.3g}\."):
        fit(*pair(**options), loader(), epochs=1, target=target, progress=False)


def test_what_is_just_possible_is_not_refused():
    budget(Target(10 / 74 + 1e-9))


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"pattern 'conv\*' matches no layer with parameters"):
        fit(*pair(), loader(), epochs=1, target=Target(0.5, layers="conv*"), progress=False)


def test_what_is_no_target_is_refused():
    with pytest.raises(TypeError, match=r"target must be a Target, such as Target\(0.1\); got 0.1"):
        fit(*pair(), loader(), epochs=1, target=[0.1], progress=False)


# -- the multiplier --------------------------------------------------------------------------------------------------


def with_share(target, share, **options):
    """A budget whose test-time network has so much of it."""
    made, _ = budget(target, **options)
    made.reached = lambda: share
    return made


@pytest.mark.parametrize("start", [0.0, 8.0])
@pytest.mark.parametrize("updates", [100, 1000])
def test_far_above_it_doubles_in_a_twentieth_of_the_run_beside_a_nat_a_datum(updates, start):
    """m ← 2^(1/n) m + N/n, n times: 2 m + (N/n) / (2^(1/n) − 1)."""
    made = with_share(Target(0.5), 1.0, updates=updates)
    made.multiplier = start
    steps = updates // 20
    for _ in range(steps):
        made.update(1.0)
    assert made.multiplier == pytest.approx(2 * start + ROWS / steps / (2 ** (1 / steps) - 1))


def test_near_it_rises_in_proportion():
    """An excess of 5 % is a quarter of the one from which the rate is full."""
    near, far = (with_share(Target(0.5), share) for share in (0.525, 0.6))
    near.update(1.0)
    far.update(1.0)
    assert near.multiplier == pytest.approx(far.multiplier / 4)


def test_below_half_is_released_in_a_hundredth_of_the_run():
    made = with_share(Target(0.5), 0.4, updates=1000)
    made.multiplier = 8.0
    for _ in range(10):
        made.update(1.0)
    assert made.multiplier == pytest.approx(4.0)


@pytest.mark.parametrize("excess", [-0.024, 0.0, 0.024])
def test_in_the_band_it_stays(excess):
    made = with_share(Target(0.5), 0.5 * (1 + excess))
    made.multiplier = 8.0
    made.update(1.0)
    assert made.multiplier == 8.0


@pytest.mark.parametrize(
    ("excess", "felt"), [(-0.5, 0), (-0.025, 0), (-0.0125, 0.25), (0, 0.5), (0.0125, 0.75), (0.025, 1), (3, 1)]
)
def test_it_is_felt_in_proportion_over_the_band(excess, felt):
    made = with_share(Target(0.2), 0.2 * (1 + excess))
    made.multiplier = 8.0
    assert made.aim(1.0) == pytest.approx(excess)
    full = with_share(Target(0.2), 10.0)
    full.multiplier = 8.0
    full.aim(1.0)
    assert full.penalty().item() > 0
    assert made.penalty().item() == pytest.approx(felt * full.penalty().item(), abs=1e-6)


def test_the_goal_descends_geometrically_over_the_first_half():
    made = with_share(Target(0.25), 0.5)
    assert [made.aim(done) for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([-0.5, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("of", ["parameters", "macs"])
def test_the_penalty_is_that_of_the_expected_share(of):
    made, guide = budget(Target(0.5, of))
    made.multiplier = 8.0
    made.aim(1.0)
    inputs = [gate.prob_nonzero.double() for gate in guide.gates().values()]
    rows, biases = (5, 4, 3), 12 * (of == "parameters")
    total = sum(size * len(prob) for size, prob in zip(rows, inputs, strict=True)) + biases
    a, b, c = (prob.sum() for prob in inputs)
    alive = a * b + b * c + 3 * c + (b + c + 3) * (of == "parameters")
    penalty = made.penalty()
    assert penalty.item() == pytest.approx(8.0 * (alive.item() / total - 0.5), rel=1e-5)
    found, wanted = (torch.autograd.grad(value, list(guide.parameters())) for value in (penalty, 8 * alive / total))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


# -- runs that get there ---------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("of", ["parameters", "macs"])
def test_a_run_on_digits_lands_on_its_target_and_still_knows_them(of):
    target = Target(0.1, of)
    run = run_on_digits(target)
    assert run.result.reached[target] == pytest.approx(0.1, rel=TOLERANCE)
    assert share_of_compact(run, of) == pytest.approx(run.result.reached[target], rel=1e-6)
    assert evaluate(run.model, run.guide, run.batches) < 0.15
    history = run.result.history
    assert history["share"].iloc[-1] == run.result.reached[target]
    assert history["share"].iloc[0] > 0.5
    assert history["multiplier"].iloc[-1] > 0


def test_two_targets_at_once():
    targets = Target(0.5, "parameters", "fc1"), Target(0.25, layers="fc2")
    run = run_on_digits(targets, epochs=30)
    for target, share in run.result.reached.items():
        assert share == pytest.approx(target.share, rel=TOLERANCE)
    small = compact(run.model, run.guide)
    assert small.fc2.weight.numel() + 10 == pytest.approx(0.25 * 1010, rel=TOLERANCE)


def toy_run(target, path=None, batches=None, epochs=4, **options):
    model, guide = pair()
    options = {"gate_lr": 0.1, "checkpoint": path} | options
    with pytest.warns(UserWarning, match="was not reached"):
        result = fit(model, guide, batches or loader(), epochs=epochs, target=target, progress=False, **options)
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


@pytest.mark.parametrize("options", [{}, {"fine_tune": 2}, {"shrink_below": 0.3, "gate_lr": 0.3}], ids=str)
def test_epochs_at_a_time_are_the_run_at_once(options, tmp_path):
    """The multiplier is in the checkpoint, and its rate is that of a run of so many epochs: those stay."""
    targets = Target(0.4), Target(0.3, "macs")
    whole = toy_run(targets, tmp_path / "whole", **options)
    for epoch in (2, 5, 8):
        ctrl_c = Surprise(loader(), epoch, partial(signal.raise_signal, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="^$"):
            toy_run(targets, tmp_path / "parts", ctrl_c, **options)
    parts = toy_run(targets, tmp_path / "parts", **options)
    assert all(value > 0 for value in read_tensors(tmp_path / "whole", "checkpoint")[1]["multipliers"])
    assert_equal_states(state(*whole[:2]), state(*parts[:2]))
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_a_checkpoint_of_another_number_of_targets_is_refused(tmp_path):
    toy_run(Target(0.4), tmp_path / "run", epochs=1)
    with pytest.raises(FileFormatError, match="it was written with 1 targets, now there are 0"):
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
        sizes = {name: sum(p.numel() for p in call.func.parameters()) for name, call in functions.items()}
        calls.append((sizes, [call() for call in functions.values()]))
        return SimpleNamespace(ratio={name: 0.2 + 0.8 * size / sizes["full"] for name, size in sizes.items()})

    monkeypatch.setattr("l0bayes.inference.target.interleaved", timed)
    return calls


def test_latency_follows_what_was_measured(clock):
    target = Target(0.5, "latency")
    run = run_on_digits(target, epochs=30)
    assert len(clock) == 30  # once an epoch
    history, last = run.result.history, clock[-1][0]
    assert history["share"].tolist() == [0.2 + 0.8 * sizes["compact"] / sizes["full"] for sizes, _ in clock]
    assert run.result.reached[target] == history["share"].iloc[-1] == pytest.approx(0.5, rel=TOLERANCE)
    assert last == {"full": 7510, "compact": sum(p.numel() for p in compact(run.model, run.guide).parameters())}
    assert all(output.shape == (100, 10) and not output.requires_grad for _, outputs in clock for output in outputs)


def test_latency_of_a_network_that_is_shrunk_is_that_of_the_full_one(clock):
    run_on_digits(Target(0.5, "latency"), epochs=20, shrink_below=0.05)
    assert {sizes["full"] for sizes, _ in clock} == {7510}


def test_latency_with_the_real_clock():
    history = toy_run(Target(0.01, "latency"), epochs=2)[2].history
    assert (history["share"] > 0).all()
    assert (history["multiplier"] > 0).all()


def test_latency_beside_another_target_is_measured_too(clock):
    latency = Target(0.5, "latency")
    result = run_on_digits((Target(0.375), latency), epochs=30).result
    assert clock
    assert result.reached[latency] == pytest.approx(0.5, rel=TOLERANCE)
