"""Decisions over gates: against every pattern of gates, and at the ends."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l0bayes import sparsify
from l0bayes.inference.selection.decision import Decider, Limit, marginal
from l0bayes.min_units import open_at_least
from l0bayes.models import MLP

EVERYTHING = {"a": torch.ones(4, dtype=torch.bool), "b": torch.ones(3, dtype=torch.bool)}
NOTHING_LESS = partial(open_at_least, least={})
numbers = st.lists(st.floats(0, 20), min_size=7, max_size=7)
positive = st.lists(st.floats(0.1, 5), min_size=7, max_size=7)


def by_group(values):
    values = torch.tensor(values, dtype=torch.float64)
    return {"a": values[:4], "b": values[4:]}


def flat(gates):
    return torch.cat([gates["a"], gates["b"]]).double()


def additive(adds):
    """A size to which each gate adds a number of its own."""
    return lambda gates: flat(gates) @ torch.tensor(adds, dtype=torch.float64)


@given(numbers, numbers)
def test_at_a_price_a_gate_is_open_where_its_evidence_exceeds_its_cost(nats, costs):
    code_cost = Limit(additive(costs), 0.0, price=1.0)
    decision = Decider(EVERYTHING, by_group(nats), NOTHING_LESS).decide([code_cost])
    assert flat(decision.opened).tolist() == [float(a > b) for a, b in zip(nats, costs, strict=True)]
    torch.testing.assert_close(
        flat(decision.log_odds), torch.tensor(nats, dtype=torch.float64) - torch.tensor(costs, dtype=torch.float64)
    )


@settings(max_examples=100)
@given(numbers, positive, st.floats(0.0, 30.0))
def test_under_a_limit_nothing_better_costs_as_little(nats, adds, most):
    """Of all patterns that are no larger than the one chosen none has more evidence: what a multiplier guarantees."""
    decision = Decider(EVERYTHING, by_group(nats), NOTHING_LESS).decide([Limit(additive(adds), most)])
    patterns = torch.tensor(list(itertools.product([0.0, 1.0], repeat=7)), dtype=torch.float64)
    sizes, worth = (
        patterns @ torch.tensor(adds, dtype=torch.float64),
        patterns @ torch.tensor(nats, dtype=torch.float64),
    )
    chosen = flat(decision.opened)
    size = float(chosen @ torch.tensor(adds, dtype=torch.float64))
    assert size <= most
    assert float(chosen @ torch.tensor(nats, dtype=torch.float64)) >= float(worth[sizes <= size].max()) - 1e-9
    assert all((odds > 0) == gate for odds, gate in zip(flat(decision.log_odds), chosen, strict=True))


@settings(max_examples=100)
@given(numbers, positive, st.floats(0.5, 30.0))
def test_filling_takes_whatever_still_fits(nats, adds, most):
    decider = Decider(EVERYTHING, by_group(nats), NOTHING_LESS)
    limit = Limit(additive(adds), most)
    before, after = flat(decider.decide([limit]).opened), flat(decider.decide([limit], fill=True).opened)
    size = float(after @ torch.tensor(adds, dtype=torch.float64))
    assert size <= most + 1e-12
    assert (after >= before).all()
    left = [a for a, n, gate in zip(adds, nats, after, strict=True) if not gate and n > 0]
    assert all(size + a > most for a in left)


@given(numbers, positive, positive, st.floats(1.0, 20.0), st.floats(1.0, 20.0))
def test_several_limits_are_kept_at_once(nats, first, second, most, other):
    limits = [Limit(additive(first), most), Limit(additive(second), other)]
    opened = Decider(EVERYTHING, by_group(nats), NOTHING_LESS).decide(limits, fill=True).opened
    assert all(float(limit.size(opened)) <= limit.most for limit in limits)


def test_every_group_keeps_its_least_whatever_is_asked():
    keep = partial(open_at_least, least={"a": 2, "b": 1})
    nats = by_group([1.0, 3.0, 2.0, 0.0, 0.5, 0.1, 0.2])
    opened = Decider(EVERYTHING, nats, keep).decide([Limit(additive([1.0] * 7), 0.0)]).opened
    assert opened["a"].tolist() == [False, True, True, False]
    assert opened["b"].tolist() == [True, False, False]


def test_gates_come_back():
    nothing = {name: torch.zeros_like(gates) for name, gates in EVERYTHING.items()}
    opened = Decider(nothing, by_group([1.0] * 7), NOTHING_LESS).decide([]).opened
    assert flat(opened).all()


def test_what_gates_add_is_the_difference_that_each_of_them_makes():
    """The parameters of an MLP: products of widths, so what a unit adds depends on the units around it."""
    sparse = sparsify(MLP(4, 5, 3, 2), torch.zeros(2, 4))
    live = sparse.live_cost()
    opened = {group.name: torch.rand(group.size) < 0.6 for group in sparse.groups}
    adds = marginal(live.amount, opened)
    for name, gates in opened.items():
        for gate in range(len(gates)):
            with_it, without = ({**opened, name: gates.clone()} for _ in range(2))
            with_it[name][gate], without[name][gate] = True, False
            sizes = [float(live.amount({k: v.double() for k, v in it.items()})) for it in (with_it, without)]
            assert float(adds[name][gate]) == pytest.approx(sizes[0] - sizes[1])


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.1])
def test_a_network_lands_on_its_target(share):
    sparse = sparsify(MLP(40, 50, 30, 5), torch.zeros(2, 40), gates="input")
    live = sparse.live_cost()
    opened = {group.name: torch.ones(group.size, dtype=torch.bool) for group in sparse.groups}
    nats = {group.name: torch.rand(group.size) * 10 for group in sparse.groups}
    limit = Limit(lambda gates: live.amount(gates) / live.total, share)
    keep = partial(open_at_least, least=dict.fromkeys(opened, 1))
    for _ in range(4):  # what gates add is counted anew
        opened = Decider(opened, nats, keep).decide([limit], fill=True).opened
    reached = float(limit.size({name: gates.double() for name, gates in opened.items()}))
    assert 0.98 * share <= reached <= share
