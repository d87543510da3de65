"""A size to reach: what may be asked for, and how the multiplier moves."""

import math
import re

import pytest
import torch
from drawn import fit
from toy_problem import ROWS, loader, pair

from l0bayes.errors import DataError
from l0bayes.inference import Target
from l0bayes.inference.size.constraint import Constraint

# -- what may be asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.0, -0.1, 1.01, 10, math.nan, math.inf, "0.1", None])
def test_a_share_out_of_range(share):
    with pytest.raises(ValueError, match=re.escape(f"target: share must be in (0, 1]; got {share!r}")):
        Target(share)


def test_an_amount_that_is_none():
    with pytest.raises(ValueError, match="target: of must be one of parameters, macs, latency; got 'flops'"):
        Target(0.1, "flops")


def test_latency_is_that_of_everything():
    with pytest.raises(ValueError, match=r"target: latency is that of the whole network; got layers='fc\*'"):
        Target(0.1, "latency", "fc*")


def test_a_target_says_what_it_is():
    assert str(Target(0.1)) == "0.1 of the parameters"
    assert str(Target(1 / 3, "macs", "conv*")) == "0.333 of the macs of conv*"


def constraint(target, *, updates=1000, model_and_guide=None, **options):
    model, guide = model_and_guide or pair(**options)
    return Constraint(target, model, guide, num_data=ROWS, updates=updates), guide


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
    constraint(Target(10 / 74 + 1e-9))


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"pattern 'conv\*' matches no layer with parameters"):
        fit(*pair(), loader(), epochs=1, target=Target(0.5, layers="conv*"), progress=False)


def test_what_is_no_target_is_refused():
    with pytest.raises(TypeError, match=r"target must be a Target, such as Target\(0.1\); got 0.1"):
        fit(*pair(), loader(), epochs=1, target=[0.1], progress=False)


def test_an_empty_loader_is_said():
    with pytest.raises(DataError, match="train_loader is empty"):
        fit(*pair(), [], epochs=1, target=Target(0.5), progress=False)


# -- the multiplier --------------------------------------------------------------------------------------------------


def with_share(target, share, **options):
    """A constraint whose test-time network has so much of it."""
    made, _ = constraint(target, **options)
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
        made.dual_update(1.0)
    assert made.multiplier == pytest.approx(2 * start + ROWS / steps / (2 ** (1 / steps) - 1))


def test_near_it_rises_in_proportion():
    """An excess of 5 % is a quarter of the one from which the rate is full."""
    near, far = (with_share(Target(0.5), share) for share in (0.525, 0.6))
    near.dual_update(1.0)
    far.dual_update(1.0)
    assert near.multiplier == pytest.approx(far.multiplier / 4)


def test_below_half_is_released_in_a_hundredth_of_the_run():
    made = with_share(Target(0.5), 0.4, updates=1000)
    made.multiplier = 8.0
    for _ in range(10):
        made.dual_update(1.0)
    assert made.multiplier == pytest.approx(4.0)


def test_below_the_target_it_turns_and_gathers_the_other_way():
    """First what it has fades to what a step gathers; then it is the mirror image of the rise."""
    made = with_share(Target(0.5), 0.4, updates=1000)
    one_step = ROWS / 50
    made.multiplier = 3 * one_step
    for _ in range(200):
        made.dual_update(1.0)
        if made.multiplier <= one_step:
            break
    assert 0 < made.multiplier <= one_step
    for _ in range(50):
        made.dual_update(1.0)
    assert made.multiplier == pytest.approx(-one_step / (2 ** (1 / 50) - 1))
    assert made.penalty() > 0  # less than was asked for is to be paid for


def test_ahead_of_the_goal_but_above_the_target_it_only_fades():
    made = with_share(Target(0.5), 0.7, updates=1000)
    for start in (-8.0, 0.0, 1e-3):
        made.multiplier = start
        made.dual_update(0.1)
        assert made.multiplier == pytest.approx(start * 0.5 ** (1 / 10))


def test_beside_another_target_it_never_turns():
    made = with_share(Target(0.5), 0.4, updates=1000)
    made.alone, made.multiplier = False, 8.0
    for _ in range(300):
        made.dual_update(1.0)
    assert 0 <= made.multiplier < 1e-6


def test_above_again_it_starts_anew():
    made = with_share(Target(0.5), 0.6, updates=1000)
    made.multiplier = -100.0
    made.dual_update(1.0)
    assert made.multiplier == pytest.approx(ROWS / 50)


@pytest.mark.parametrize(("share", "felt"), [(0.4, 1.0), (0.4875, 1.0), (0.5, 0.5), (0.5125, 0.0), (0.6, 0.0)])
def test_a_negative_one_is_felt_below(share, felt):
    made = with_share(Target(0.5), share)
    made.multiplier = -8.0
    made.set_pressure(1.0)
    above = with_share(Target(0.5), share)
    above.multiplier = 8.0
    above._pressure = 1.0
    torch.testing.assert_close(made.penalty(), -felt * above.penalty())


@pytest.mark.parametrize("excess", [-0.024, 0.0, 0.024])
def test_in_the_band_it_stays(excess):
    made = with_share(Target(0.5), 0.5 * (1 + excess))
    made.multiplier = 8.0
    made.dual_update(1.0)
    assert made.multiplier == 8.0


@pytest.mark.parametrize(
    ("excess", "felt"), [(-0.5, -1), (-0.025, 0), (-0.0125, 0.25), (0, 0.5), (0.0125, 0.75), (0.025, 1), (3, 1)]
)
def test_it_is_felt_in_proportion_over_the_band(excess, felt):
    made = with_share(Target(0.2), 0.2 * (1 + excess))
    made.multiplier = 8.0
    assert made.set_pressure(1.0) == pytest.approx(excess)
    full = with_share(Target(0.2), 10.0)
    full.multiplier = 8.0
    full.set_pressure(1.0)
    assert full.penalty().item() > 0
    assert made.penalty().item() == pytest.approx(felt * full.penalty().item(), abs=1e-6)


def test_the_goal_descends_geometrically_over_the_first_half():
    made = with_share(Target(0.25), 0.5)
    assert [made.set_pressure(done) for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([-0.5, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("of", ["parameters", "macs"])
def test_the_penalty_is_that_of_the_expected_share(of):
    made, guide = constraint(Target(0.5, of))
    made.multiplier = 8.0
    made.set_pressure(1.0)
    inputs = [gate.prob_nonzero.double() for gate in guide.gates().values()]
    rows, biases = (5, 4, 3), 12 * (of == "parameters")
    total = sum(size * len(prob) for size, prob in zip(rows, inputs, strict=True)) + biases
    a, b, c = (prob.sum() for prob in inputs)
    alive = a * b + b * c + 3 * c + (b + c + 3) * (of == "parameters")
    penalty = made.penalty()
    assert penalty.item() == pytest.approx(8.0 * (alive.item() / total - 0.5), rel=1e-5)
    found, wanted = (torch.autograd.grad(value, list(guide.parameters())) for value in (penalty, 8 * alive / total))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
