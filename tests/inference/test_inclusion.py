"""Inclusion probabilities by each method, against enumeration, and that a wrong one does not go without a warning."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes

from l0bayes.errors import UntrustedPosteriorWarning
from l0bayes.inference import HardConcreteGuide, fit, infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior


def simulated(rho, seed, n=100, p=10):
    rng = np.random.default_rng(seed)
    x = np.sqrt(1 - rho) * rng.normal(size=(n, p)) + np.sqrt(rho) * rng.normal(size=(n, 1))
    y = x @ np.r_[1.0, 0.6, 0.3, 0.2, np.zeros(p - 4)] + rng.normal(size=n)
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=1.0)
    return model, exact_posterior(x, y, 1.0, 1.0)


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    x, y = x / x.std(0), (y - y.mean()) / y.std()
    return SpikeSlabRegression(x, y, noise_scale=0.7, slab_scale=0.5), exact_posterior(x, y, 0.7, 0.5)


def error(found, exact):
    return np.abs(found.inclusion - exact.inclusion).max()


@pytest.mark.parametrize(("rho", "bound"), [(0.0, 0.05), (0.9, 0.15)])
def test_importance_sampling_is_near_the_truth_and_trusted(rho, bound):
    for seed in range(5):
        model, exact = simulated(rho, seed)
        found = infer_inclusion(model, "importance", seed=seed)  # a warning would be an error
        assert error(found, exact) <= bound
        assert found.diagnostics == ()
        assert found.pareto_k < 0.7
        assert found.effective_size > 100


def test_diabetes():
    model, exact = diabetes()
    found = infer_inclusion(model, "importance")
    assert error(found, exact) <= 0.05
    np.testing.assert_allclose(found.table["mean"], exact.mean, atol=0.01)
    assert found.models["gates"][0] == exact.top_models(1)["predictors"][0]
    with pytest.warns(UntrustedPosteriorWarning, match="it misses how gates depend on each other"):
        mean_field = infer_inclusion(model, "binary")
    assert 0.4 < error(mean_field, exact) < 0.6
    # Coordinate ascent as others have it, and the mixture of its ends.
    published = [0.063, 0.999, 1, 1, 0.174, 0.165, 1, 0.067, 1, 0.083]
    np.testing.assert_allclose(mean_field.inclusion, published, atol=0.05)
    with pytest.warns(UntrustedPosteriorWarning):
        assert error(infer_inclusion(model, "mixture"), exact) < 0.25


def test_an_unknown_inclusion():
    """A Beta prior on π, by enumeration, by importance sampling and in mean field."""
    x, y = simulated(0.5, 3)[0].data
    prior = torch.distributions.Beta(1.0, 3.0)
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=1.0, inclusion=prior)
    exact = exact_posterior(x, y, 1.0, 1.0, prior)
    assert np.abs(exact.inclusion - exact_posterior(x, y, 1.0, 1.0).inclusion).max() > 0.05  # it matters
    assert error(infer_inclusion(model, "importance"), exact) < 0.02
    expected = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=1.0, expected_open=2.5)
    assert error(infer_inclusion(expected, "importance"), exact_posterior(x, y, 1.0, 1.0, 0.25)) < 0.02


def test_svi_with_an_unknown_inclusion():
    """The hard concrete guide learns q(π) with the gates: Beta(a + Σ P, b + Σ (1 − P)) at the optimum."""
    x, y = simulated(0.0, 3)[0].data
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=1.0, inclusion=torch.distributions.Beta(1.0, 3.0))
    torch.manual_seed(0)
    guide = HardConcreteGuide(model, init_open=0.5)
    fit(model, guide, [model.data], epochs=1200, lr=0.05, gate_lr=0.05, schedule="cosine", progress=False)
    probs, found = guide.gates()["gate"].prob_nonzero.detach(), guide.distributions()["inclusion"]
    assert found.concentration1.item() == pytest.approx(1 + float(probs.sum()), rel=0.15)
    assert found.concentration0.item() == pytest.approx(3 + float((1 - probs).sum()), rel=0.15)


@pytest.mark.parametrize("method", ["binary", "mixture"])
def test_there_is_a_warning_where_mean_field_is_off(method):
    for seed in range(6):
        model, exact = simulated(0.9, seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = infer_inclusion(model, method, seed=seed)
        assert len(caught) == len(found.diagnostics)
        if error(found, exact) > 0.2:
            assert found.diagnostics


def test_the_hard_concrete_guide():
    model, exact = simulated(0.0, 0, p=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = infer_inclusion(model, "mean-field")
    off = error(found, exact)
    assert off < 0.25
    assert bool(caught) == bool(found.diagnostics)
    assert found.diagnostics or off < 0.2
    np.testing.assert_allclose(found.table["mean"], exact.mean, atol=0.15)
    assert found.models.empty


def test_scales_are_learned_first():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 5)) * [1, 10, 1, 1, 1]
    y = 2 * x[:, 0] + 0.3 * x[:, 1] + 0.5 * rng.normal(size=150)
    model = SpikeSlabRegression(pd.DataFrame(x, columns=list("abcde")), y, slab_scale=1.0)
    with pytest.warns(
        UntrustedPosteriorWarning, match="noise_scale was learned by mean field, 0.*Give noise_scale, or"
    ):
        found = infer_inclusion(model, "importance")
    assert model.scale("noise").item() == pytest.approx(0.5, rel=0.15)
    table = found.table.set_index("name")
    assert table.loc[["a", "b"], "inclusion"].min() > 0.99
    assert table.loc[["c", "d", "e"], "inclusion"].max() < 0.5
    assert table["mean"].to_numpy()[:2] == pytest.approx([2, 0.3], abs=0.1)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_other_likelihoods(likelihood):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(250, 6)) + rng.normal(size=(250, 1))
    eta = 1.2 * x[:, 0] if likelihood == "bernoulli" else 0.4 * x[:, 0]
    y = rng.binomial(1, 1 / (1 + np.exp(-eta))) if likelihood == "bernoulli" else rng.poisson(np.exp(eta))
    model = SpikeSlabRegression(x, y, likelihood=likelihood, slab_scale=1.0)
    found, enumerated = infer_inclusion(model, "importance"), infer_inclusion(model)
    assert enumerated.method == "exact"
    assert error(found, enumerated) < 0.03
    assert found.inclusion[0] > 0.95
    assert found.inclusion[1:].max() < 0.5
    assert found.table["mean"][0] == pytest.approx(1.2 if likelihood == "bernoulli" else 0.4, abs=0.3)


def test_groups():
    model, _ = simulated(0.5, 1, p=6)
    x, y = model.data
    grouped = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=1.0, groups=["u", "u", "v", "v", "w", "w"])
    found = infer_inclusion(grouped)
    assert found.groups == ("u", "v", "w")
    assert found.inclusion.shape == (3,)
    assert found.table["inclusion"].tolist() == np.repeat(found.inclusion, 2).tolist()
    assert found.inclusion[0] > 0.99


def test_the_same_seed_gives_the_same_answer_and_leaves_the_random_state_alone():
    model, _ = simulated(0.9, 3)
    before = torch.get_rng_state()
    one, other = (infer_inclusion(model, "importance", seed=5) for _ in range(2))
    assert (one.inclusion == other.inclusion).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_more_predictors_than_can_be_enumerated():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 60))
    y = x[:, :3] @ [1.0, -1.0, 0.8] + rng.normal(size=120)
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=1.0, inclusion=0.05)
    found = infer_inclusion(model, "importance")
    assert found.inclusion[:3].min() > 0.99
    assert found.inclusion[3:].max() < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "flow"},
            "method must be one of auto, exact, gibbs, mean-field, binary, mixture, importance; got 'flow'",
        ),
        ({"starts": 0}, "starts must be at least 1, draws at least 200; got 0 and 4000"),
        ({"draws": 10}, "starts must be at least 1, draws at least 200; got 32 and 10"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        infer_inclusion(simulated(0.0, 0)[0], **options)


@pytest.mark.parametrize("design", ["more columns than rows", "collinear"])
def test_designs_without_full_rank(design):
    rng = np.random.default_rng(0)
    if design == "collinear":
        x = rng.normal(size=(30, 5))
        x = np.c_[x, x[:, 0], x[:, 1] - x[:, 2]]
    else:
        x = rng.normal(size=(8, 12))
    y = x[:, 0] + 0.3 * rng.normal(size=len(x))
    model = SpikeSlabRegression(x, y, noise_scale=0.3, slab_scale=1.0)
    assert error(infer_inclusion(model, "importance"), exact_posterior(x, y, 0.3, 1.0)) < 0.03


@pytest.mark.parametrize(("method", "tolerance"), [("importance", 0.02), ("mixture", 0.08), ("binary", 0.08)])
def test_sizes_groups_and_the_median_model(method, tolerance):
    model, exact = simulated(0.0, 3)
    found = infer_inclusion(model, method)
    assert found.sizes.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.sizes, exact.sizes, atol=tolerance)
    assert found.sizes @ np.arange(11) == pytest.approx(found.inclusion.sum())
    assert found.median_model == exact.median_model
    for names in (["x2", "x3"], ["x5", "x6", "x7"]):
        assert found.group_inclusion(names) == pytest.approx(exact.group_inclusion(names), abs=tolerance)
    assert found.group_inclusion(["x4"]) == pytest.approx(found.inclusion[4])
    with pytest.raises(ValueError, match="gates: 'x10' is none of x0, x1"):
        found.group_inclusion(["x1", "x10"])


def test_near_copies_raise_no_false_alarm():
    """Few distinct sets share the probability, and weights are nearly equal: the shape of their tail means nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6))
    x[:, 1] = x[:, 0] + 0.05 * rng.normal(size=80)
    y = x[:, 0] + 0.5 * x[:, 3] + rng.normal(size=80)
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=1.0)
    assert error(infer_inclusion(model, "importance"), exact_posterior(x, y, 1.0, 1.0)) < 0.03


def test_names_of_before_go_on_working_and_say_what_is_new():
    model, _ = simulated(0.0, 0, p=4)
    with pytest.warns(DeprecationWarning, match="guide= is called method= now"):
        by_guide = infer_inclusion(model, guide="mixture")
    assert by_guide.method == by_guide.guide == "mixture"
    assert (by_guide.inclusion == infer_inclusion(model, "mixture").inclusion).all()
    with pytest.warns(DeprecationWarning, match="'resampled' is called 'importance' now") as caught:
        resampled = infer_inclusion(model, "resampled")
    assert [warning.filename for warning in caught] == [__file__]
    assert resampled.method == "importance"
    assert resampled.doubts == resampled.diagnostics == ()
    with pytest.warns(DeprecationWarning, match="infer_inclusion: ") as both:
        infer_inclusion(model, guide="resampled")
    assert len(both) == 2


def test_a_diagnostic_names_the_method():
    model, _ = diabetes()
    with pytest.warns(UntrustedPosteriorWarning, match="infer_inclusion, method='binary': .* Use method='importance'"):
        found = infer_inclusion(model, "binary")
    assert found.doubts == found.diagnostics != ()
