"""Sites that are not gates: supports, log-densities, medians and quantiles against closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_models import sites
from pyro.infer import SVI, TraceMeanField_ELBO

from l0bayes import HardConcrete, L0Prior
from l0bayes.inference import HardConcreteGuide


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


PRIORS = {
    "normal": lambda: dist.Normal(0.0, 1.0),
    "normal vector": lambda: dist.Normal(torch.zeros(3), 1.0).to_event(1),
    "multivariate normal": lambda: dist.MultivariateNormal(torch.zeros(3), torch.eye(3)),
    "student": lambda: dist.StudentT(3.0),
    "half normal": lambda: dist.HalfNormal(1.0),
    "half normal matrix": lambda: dist.HalfNormal(torch.ones(2, 3)).to_event(2),
    "log normal": lambda: dist.LogNormal(0.0, 1.0),
    "gamma": lambda: dist.Gamma(2.0, 1.0),
    "on the unit interval": lambda: dist.Uniform(0.0, 1.0),
    "uniform": lambda: dist.Uniform(-2.0, 5.0),
    "dirichlet": lambda: dist.Dirichlet(torch.ones(4)),
    "dirichlets": lambda: dist.Dirichlet(torch.ones(2, 4)).to_event(1),
    "correlation": lambda: dist.LKJCholesky(3, 1.0),
}


def guide_of(name, **options):
    prior = PRIORS[name]()
    return HardConcreteGuide(lambda: pyro.sample("x", prior), **options), prior


@pytest.mark.parametrize("others", ["normal", "point"])
@pytest.mark.parametrize("name", PRIORS)
def test_draws_medians_and_quantiles_lie_in_the_support(name, others):
    guide, prior = guide_of(name, others=others, init_scale=1.0)
    site = sites(guide)["x"]
    assert (site["fn"].batch_shape, site["fn"].event_shape) == (prior.batch_shape, prior.event_shape)
    assert site["value"].shape == prior.shape()
    assert torch.isfinite(site["fn"].log_prob(site["value"])).all()
    for value in (site["value"], guide.median()["x"], *guide.quantiles([0.2, 0.9])["x"]):
        assert prior.support.check(value).all()


@pytest.mark.parametrize("others", ["normal", "point"])
@pytest.mark.parametrize("name", PRIORS)
def test_stock_svi_moves_every_parameter(name, others):
    prior = PRIORS[name]()
    observed = prior.sample()

    def model():
        x = pyro.sample("x", prior)
        pyro.sample("seen", dist.Normal(x, 0.1).to_event(x.dim()), obs=observed)

    guide = HardConcreteGuide(model, others=others)
    before = [parameter.clone() for parameter in guide.parameters()]
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step()
    assert all(not torch.equal(old, new) for old, new in zip(before, guide.parameters(), strict=True))


def set_to(guide, loc, scale):
    with torch.no_grad():
        guide.get_parameter("loc.x").fill_(loc)
        guide.get_parameter("log_scale.x").fill_(math.log(scale))
    return guide.distributions()["x"]


LOC, SCALE = 0.3, 0.7


def normal(u):
    return dist.Normal(LOC, SCALE).log_prob(u)


# Change of variables by hand: log q(x) = log N(u; loc, scale) - log |dx/du|.
BY_HAND = {
    "normal": normal,
    "half normal": lambda x: dist.LogNormal(LOC, SCALE).log_prob(x),
    "log normal": lambda x: normal(x.log()) - x.log(),
    "gamma": lambda x: normal(x.log()) - x.log(),
    "on the unit interval": lambda x: normal(x.logit()) - x.log() - (1 - x).log(),
    "uniform": lambda x: normal(((x + 2) / 7).logit()) - math.log(7) - ((x + 2) / 7 * (1 - (x + 2) / 7)).log(),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_log_density_is_the_change_of_variables(name):
    guide, _ = guide_of(name)
    fn = set_to(guide, LOC, SCALE)
    x = fn.sample((20,))
    torch.testing.assert_close(fn.log_prob(x), BY_HAND[name](x), rtol=1e-9, atol=1e-9)


def test_independent_sites_sum_over_their_events():
    guide, _ = guide_of("half normal matrix")
    fn = set_to(guide, LOC, SCALE)
    x = fn.sample()
    torch.testing.assert_close(fn.log_prob(x), BY_HAND["half normal"](x).sum())


def test_the_density_on_a_simplex_integrates_to_one():
    guide = HardConcreteGuide(lambda: pyro.sample("x", dist.Dirichlet(torch.ones(3))))
    fn = set_to(guide, 0.2, 0.5)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(60))
    nodes, weights = (nodes + 1) / 2, weights / 2
    first = nodes[:, None].expand(60, 60)
    second = (1 - first) * nodes  # the triangle, with Jacobian 1 - first
    points = torch.stack([first, second, 1 - first - second], -1)
    total = (fn.log_prob(points).exp() * (1 - first) * weights[:, None] * weights).sum()
    assert total.item() == pytest.approx(1.0, abs=1e-6)


# -- medians and quantiles -----------------------------------------------------------------------------

LEVELS = [0.025, 0.25, 0.5, 0.9]
Z = torch.special.ndtri(torch.tensor(LEVELS, dtype=torch.float64))
TRANSFORMS = {
    "normal": lambda u: u,
    "half normal": torch.exp,
    "on the unit interval": torch.sigmoid,
    "uniform": lambda u: 7 * torch.sigmoid(u) - 2,
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_quantiles_are_those_of_the_normal_pushed_through(name):
    guide, _ = guide_of(name)
    set_to(guide, LOC, SCALE)
    torch.testing.assert_close(guide.quantiles(LEVELS)["x"], TRANSFORMS[name](LOC + SCALE * Z))
    torch.testing.assert_close(guide.median()["x"], TRANSFORMS[name](torch.tensor(LOC)))


def test_quantiles_of_gates_are_the_generalised_inverse():
    log_alpha = torch.tensor([-6.0, -1.0, 0.0, 2.0, 7.0])
    guide = HardConcreteGuide(lambda: pyro.sample("z", L0Prior(torch.ones(5)).to_event(1)))
    with torch.no_grad():
        guide.get_parameter("log_alpha.z").copy_(log_alpha)
    levels = torch.tensor(LEVELS)[:, None]
    by_hand = (torch.sigmoid((levels.logit() + log_alpha) / (2 / 3)) * 1.2 - 0.1).clamp(0, 1)
    torch.testing.assert_close(guide.quantiles(LEVELS)["z"], by_hand)
    torch.testing.assert_close(guide.quantiles(torch.tensor(LEVELS))["z"], by_hand)
    torch.testing.assert_close(guide.median()["z"], HardConcrete(log_alpha).point("median"))
    ends = guide.quantiles([0.0, 1.0])["z"]
    assert torch.equal(ends, torch.stack([torch.zeros(5), torch.ones(5)]))


def test_a_point_estimate_is_its_own_every_quantile():
    guide, _ = guide_of("half normal", others="point")
    with torch.no_grad():
        guide.get_parameter("loc.x").fill_(0.5)
    torch.testing.assert_close(guide.quantiles([0.1, 0.9])["x"], torch.full((2,), math.exp(0.5)))
    torch.testing.assert_close(guide.median()["x"], torch.tensor(math.exp(0.5)))
    torch.testing.assert_close(guide()["x"], torch.tensor(math.exp(0.5)))


def test_scale_and_start_are_those_that_were_asked_for():
    guide = HardConcreteGuide(
        lambda: pyro.sample("x", dist.Normal(5.0, 1.0).expand([2]).to_event(1)),
        init_scale=0.02,
        init_loc_fn=pyro.infer.autoguide.init_to_mean,
    )
    base = guide.distributions()["x"].base_dist
    torch.testing.assert_close(base.scale, torch.full((2,), 0.02))
    torch.testing.assert_close(base.loc, torch.full((2,), 5.0))
