"""Binary mean field: its ELBO against enumeration, its fixed point, and where it is exact."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Beta, MultivariateNormal, kl_divergence

from l0bayes.inference.regression.coordinate_ascent import coordinate_ascent, distinct
from l0bayes.models import SpikeSlabRegression, exact_posterior
from l0bayes.models.collapsed import collapsed


def regression(rho=0.7, groups=None, seed=0, inclusion=0.4):
    rng = np.random.default_rng(seed)
    x = np.sqrt(1 - rho) * rng.normal(size=(50, 4)) + np.sqrt(rho) * rng.normal(size=(50, 1))
    y = 0.4 * x[:, 0] + 0.3 * x[:, 1] + rng.normal(size=50)
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=0.5, inclusion=inclusion, groups=groups)
    return collapsed(model), exact_posterior(x, y, 1.0, 0.5, inclusion), model


def starts(number, gates, seed=0):
    return (torch.rand(number, gates, generator=torch.Generator().manual_seed(seed)) < 0.5).double()


def minus_kl_of_gates(probs, inclusion):
    """−KL(q(γ) ‖ p(γ)), and of an unknown inclusion, by quadrature over the best q(π)."""
    q = torch.distributions.Bernoulli(probs)
    if not isinstance(inclusion, Beta):
        return -kl_divergence(q, torch.distributions.Bernoulli(torch.full_like(probs, inclusion))).sum()
    best = Beta(inclusion.concentration1 + probs.sum(), inclusion.concentration0 + (1 - probs).sum())

    def over_gates(pi):
        return float(kl_divergence(q, torch.distributions.Bernoulli(torch.full_like(probs, pi))).sum())

    mean = stats.beta(float(best.concentration1), float(best.concentration0)).expect(over_gates)
    return -mean - kl_divergence(best, inclusion)


@pytest.mark.parametrize("inclusion", [0.4, Beta(torch.tensor(1.5).double(), torch.tensor(2.5).double())])
@pytest.mark.parametrize("groups", [None, ["a", "a", "b", "b"]])
def test_elbo_is_the_one_that_enumerating_the_gates_gives(groups, inclusion):
    """E_q[log-likelihood] over all gates and their normals, less the KLs, each from torch's own distributions."""
    it, _, _ = regression(groups=groups, inclusion=inclusion)
    gates = it.prior.gates
    field = coordinate_ascent(it, starts(5, gates))
    quadratic = it.quadratic()
    blocks = [(it.gate_of == gate).nonzero()[:, 0] for gate in range(gates)]
    covariances = [torch.linalg.inv(quadratic.matrix[c][:, c] + torch.diag(it.precision[c])) for c in blocks]
    for probs, mean, elbo in zip(field.probs, field.mean, field.elbo, strict=True):
        total = minus_kl_of_gates(probs, inclusion)
        for gate, columns in enumerate(blocks):
            prior = MultivariateNormal(torch.zeros(len(columns)).double(), torch.diag(1 / it.precision[columns]))
            slab = MultivariateNormal(mean[columns], covariances[gate])
            total = total - probs[gate] * kl_divergence(slab, prior)
        for model in range(2**gates):
            opened = torch.tensor([model >> gate & 1 for gate in range(gates)]).bool()
            share = torch.where(opened, probs, 1 - probs).prod()
            expected = mean * opened[it.gate_of]
            second = torch.outer(expected, expected)
            for gate in opened.nonzero()[:, 0].tolist():
                second[blocks[gate][:, None], blocks[gate]] += covariances[gate]
            total = total + share * (quadratic.vector @ expected - 0.5 * (quadratic.matrix * second).sum())
        assert float(elbo) == pytest.approx(float(total), abs=1e-8)


@pytest.mark.parametrize("inclusion", [0.4, Beta(1.5, 2.5)])
def test_it_is_below_the_evidence(inclusion):
    it, _, _ = regression(inclusion=inclusion)
    field = coordinate_ascent(it, starts(20, 4))
    models = torch.arange(16)
    every = (models[:, None] >> torch.arange(4) & 1).double()
    assert (field.elbo < it.log_joint(every).logsumexp(0)).all()


def test_it_is_exact_where_columns_are_orthogonal():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 5))
    x = 6 * np.linalg.qr(x - x.mean(0))[0]
    y = x @ [1.0, 0.3, 0.2, 0.0, 0.0] + rng.normal(size=40)
    model = SpikeSlabRegression(x, y, noise_scale=1.0, slab_scale=0.5)
    field = distinct(coordinate_ascent(collapsed(model), starts(10, 5)))
    assert len(field.elbo) == 1
    exact = exact_posterior(x, y, 1.0, 0.5)
    np.testing.assert_allclose(field.probs[0], exact.inclusion, atol=1e-8)
    np.testing.assert_allclose((field.probs * field.mean)[0] / model.parts().spread, exact.mean, atol=1e-8)


def test_distinct_ends_come_best_first():
    it, _, _ = regression(rho=0.98)
    field = coordinate_ascent(it, starts(40, 4))
    few = distinct(field)
    assert 1 < len(few.elbo) < 40
    assert few.elbo[0] == field.elbo.max()
    assert (few.elbo.diff() <= 0).all()
    for probs in field.probs:
        assert ((few.probs - probs).abs().amax(1) <= 1e-3).any()
