"""Gates that are always open or need others: probabilities of all sets by hand, and enumeration against sampling."""

import re
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import betaln
from torch.distributions import Beta

from l0bayes.inference import HardConcreteGuide, infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior, read_formula
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.set_rules import read_rules

NAMES = ["a", "b", "c", "a:b", "a:c", "a:b:c"]
PARENTS = {"a:b": ["a", "b"], "a:c": ["a", "c"], "a:b:c": ["a:b", "a:c"]}
SETS = np.array(list(product([0, 1], repeat=6)))


def possible(row, always):
    opened = {name for name, value in zip(NAMES, row, strict=True) if value}
    return set(always) <= opened and all(set(PARENTS.get(name, ())) <= opened for name in opened)


@pytest.mark.parametrize("always", [(), ("b",)])
@pytest.mark.parametrize("shared", [True, False])
def test_probabilities_of_all_sets(shared, always):
    """Each gate in turn, of those that may be open: its probability; they sum to one."""
    rules = read_rules(NAMES, always, PARENTS)
    probs = np.linspace(0.2, 0.7, 6)
    prior = SetPrior(Beta(1.5, 2.0) if shared else torch.as_tensor(probs), 6, rules)
    found = prior.log_prob(torch.as_tensor(SETS).double()).numpy()
    for row, log_prob in zip(SETS, found, strict=True):
        if not possible(row, always):
            assert log_prob == -np.inf
            continue
        opened = {name for name, value in zip(NAMES, row, strict=True) if value}
        free = [n for n, name in enumerate(NAMES) if set(PARENTS.get(name, ())) <= opened and name not in always]
        inside = row[free]
        expected = np.log(np.where(inside, probs[free], 1 - probs[free])).sum()
        if shared:
            expected = betaln(1.5 + inside.sum(), 2.0 + (1 - inside).sum()) - betaln(1.5, 2.0)
        assert log_prob == pytest.approx(expected)
    if not shared:
        assert np.exp(found).sum() == pytest.approx(1)
    odds = prior.log_odds_given(SETS.sum(1), SETS.astype(bool))
    by_set = {tuple(row): value for row, value in zip(SETS.tolist(), found, strict=True)}
    for row, log_odds in zip(SETS.tolist(), odds, strict=True):
        if possible(row, always):
            for gate in range(6):
                with_it, without = ([*row[:gate], value, *row[gate + 1 :]] for value in (1, 0))
                expected = by_set[tuple(with_it)] - by_set[tuple(without)]
                assert log_odds[gate] == pytest.approx(expected), (row, gate)


def problem(seed=0):
    rng = np.random.default_rng(seed)
    main = rng.normal(size=(60, 3)) + 0.5 * rng.normal(size=(60, 1))
    a, b, c = main.T
    x = np.c_[main, a * b, a * c, a * b * c]
    return x, 0.5 * a + 0.4 * a * b + 0.3 * c + rng.normal(size=60)


@pytest.mark.parametrize("always", [None, ["b"]])
@pytest.mark.parametrize("inclusion", [0.4, Beta(1.0, 1.0)])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_sampling_under_rules(likelihood, inclusion, always):
    x, y = problem()
    y = y if likelihood == "gaussian" else y > 0
    options = {"likelihood": likelihood, "inclusion": inclusion, "groups": NAMES}
    model = SpikeSlabRegression(x, y, always=always, parents=PARENTS, **options)
    exact, found = infer_inclusion(model, "exact"), infer_inclusion(model, "gibbs", draws=700)
    assert np.abs(found.inclusion - exact.inclusion).max() < 0.05
    assert (
        np.abs(exact.inclusion - infer_inclusion(SpikeSlabRegression(x, y, **options), "exact").inclusion).max() > 0.05
    )
    draws = found.average.draws(200, 0).included.reshape(-1, 6)
    assert all(possible(row, always or ()) for row in draws)
    if always:
        np.testing.assert_allclose([found.inclusion[1], exact.inclusion[1]], 1)


def test_always_in_is_all_sets_that_have_it():
    x, y = problem()
    whole = exact_posterior(x, y)
    found = infer_inclusion(SpikeSlabRegression(x, y, always=["x1", "x4"]))
    kept = np.array([m for m in range(64) if m >> 1 & 1 and m >> 4 & 1])
    probs = np.exp(whole.log_probs[kept] - np.logaddexp.reduce(whole.log_probs[kept]))
    np.testing.assert_allclose(found.inclusion, [probs[kept >> j & 1 == 1].sum() for j in range(6)], atol=1e-9)


def test_heredity_of_a_formula():
    import pandas as pd  # noqa: PLC0415 (only here)

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(50, 3)), columns=list("yab")).assign(c=rng.choice(["u", "v", "w"], 50))
    it = read_formula("y ~ a * b * C(c)", frame)
    assert it.parents["a:b"] == ["a", "b"]
    assert sorted(it.parents["a:b:C(c)"]) == ["C(c)", "a", "a:C(c)", "a:b", "b", "b:C(c)"]
    found = infer_inclusion(SpikeSlabRegression(it.X, it.y, groups=it.groups, parents=it.parents), "gibbs", draws=400)
    assert found.inclusion[found.groups.index("a:b:C(c)")] < found.inclusion[found.groups.index("a")]


@pytest.mark.parametrize(
    ("always", "parents", "message"),
    [
        (["q"], None, "always: 'q' is none of a, b, c"),
        (None, {"a:b": ["q"]}, "parents: 'q' is none of a, b, c"),
        (None, {"a": ["b"], "b": ["a"]}, "parents: 'a' needs itself"),
        (["a:b"], PARENTS, "always: 'a:b' has parents that are not always in"),
    ],
)
def test_rules_that_cannot_be(always, parents, message):
    x, y = problem()
    with pytest.raises(ValueError, match=re.escape(message)):
        SpikeSlabRegression(x, y, groups=NAMES, always=always, parents=parents)


def test_what_knows_no_rules():
    x, y = problem()
    model = SpikeSlabRegression(x, y, groups=NAMES, parents=PARENTS)
    with pytest.raises(ValueError, match="always= and parents= need method='exact' or 'gibbs'; got 'importance'"):
        infer_inclusion(model, "importance")
    with pytest.raises(ValueError, match="guides know no rules"):
        HardConcreteGuide(model)
