"""Draws in pairs: the second of a pair is the first one's mirror image, and each by itself is an ordinary draw."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from drawn import fit
from pyro import poutine
from toy_problem import blobs, loader, pair

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.inference.objective.antithetic import Antithetic

GATES = 4


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def with_gates_and_weights():
    z = pyro.sample("z", SpikeAndSlabPrior(0.5).expand([GATES]).to_event(1))
    w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([GATES]).to_event(1))
    with pyro.plate("units", 3):
        single = pyro.sample("single", L0Prior(0.1))
    pyro.sample("y", dist.Normal((z * w).sum() + single.sum(), 1.0), obs=torch.tensor(1.5))


def with_a_positive_site():
    pyro.sample("scale", dist.LogNormal(0.0, 1.0).expand([GATES]).to_event(1))


@pytest.fixture
def guide():
    guide = HardConcreteGuide(with_gates_and_weights, init_scale=0.5)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return guide


def drawn(guide, runs):
    """Values and distributions of every site in several runs under one messenger."""
    mirror = Antithetic()
    traces = [poutine.trace(mirror(guide)).get_trace() for _ in range(runs)]
    return [
        {name: (site["value"], site["fn"]) for name, site in trace.nodes.items() if site["type"] == "sample"}
        for trace in traces
    ]


def test_the_second_gates_are_those_of_one_minus_u(guide):
    torch.manual_seed(3)
    _, second = drawn(guide, 2)
    assert next(name for name in second if name != "units") == "z"  # so the first numbers are its noise
    torch.manual_seed(3)
    u = torch.rand(GATES)
    torch.testing.assert_close(second["z"][0], guide.gates()["z"].icdf(1 - u))


def test_gates_of_a_pair_are_mirror_images(guide):
    """Between the atoms cdf(z) is u; those of a pair add up to 1."""
    inside = 0
    for _ in range(50):
        first, second = drawn(guide, 2)
        for name in ("z", "single"):
            gate = guide.gates()[name]
            one, other = (gate.cdf(run[name][0]) for run in (first, second))
            between = [(run[name][0] > 0) & (run[name][0] < 1) for run in (first, second)]
            both = between[0] & between[1]
            inside += int(both.sum())
            torch.testing.assert_close((one + other)[both], torch.ones(int(both.sum())))
            zero, one_minus = first[name][0] == 0, 1 - gate.prob_zero
            assert (gate.cdf(second[name][0])[zero] >= one_minus[zero] - 1e-12).all()
    assert inside > 50


def test_normal_sites_are_mirrored_about_their_mean(guide):
    first, second = drawn(guide, 2)
    middle = (first["w"][0] + second["w"][0]) / 2
    torch.testing.assert_close(middle, guide.parameter("loc.w"))
    assert (first["w"][0] != second["w"][0]).all()


def test_sites_of_other_kinds_are_drawn_anew():
    guide = HardConcreteGuide(with_a_positive_site, init_scale=0.5)
    first, second = drawn(guide, 2)
    middle = (first["scale"][0].log() + second["scale"][0].log()) / 2
    assert (middle - guide.parameter("loc.scale")).abs().min() > 1e-6


def test_the_third_run_starts_another_pair(guide):
    runs = drawn(guide, 4)
    assert len({run["w"][0][0].item() for run in runs}) == 4
    torch.testing.assert_close(runs[2]["w"][0] + runs[3]["w"][0], 2 * guide.parameter("loc.w"))


def test_the_first_run_draws_as_without_pairs(guide):
    torch.manual_seed(8)
    plain = guide()
    torch.manual_seed(8)
    first = drawn(guide, 1)[0]
    assert plain.keys() == first.keys() - {"units"}
    for name, value in plain.items():
        assert torch.equal(first[name][0], value), name


def test_a_gate_drawn_from_nothing_is_closed_and_its_image_open(monkeypatch):
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    log_alpha = torch.zeros(2, requires_grad=True)
    mirror = Antithetic()
    runs = [mirror(lambda: pyro.sample("z", HardConcrete(log_alpha)))() for _ in range(2)]
    assert [run.tolist() for run in runs] == [[0, 0], [1, 1]]
    assert torch.equal(torch.autograd.grad(sum(runs).sum(), log_alpha)[0], torch.zeros(2))


def gradients(model, guide, *args, number, parameters, **options):
    """Each row one estimate of the gradient."""
    elbo, rows = ClosedFormKL_ELBO(**options), []
    for seed in range(number):
        torch.manual_seed(seed)
        loss = elbo.differentiable_loss(model, guide, *args)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(rows)


def test_the_gradient_is_unbiased(guide):
    """The difference of two means, in standard errors; a false alarm once in 10⁵ over all parameters together."""
    parameters = list(guide.parameters())
    number = 500
    single = gradients(with_gates_and_weights, guide, number=number, parameters=parameters)
    pairs = gradients(
        with_gates_and_weights, guide, number=number, parameters=parameters, num_particles=2, antithetic=True
    )
    error = ((single.var(0) + pairs.var(0)) / number).sqrt()
    deviation = (single.mean(0) - pairs.mean(0)).abs() / error
    threshold = -torch.special.ndtri(torch.tensor(1e-5 / (2 * len(deviation))))
    assert deviation.max() < threshold
    assert error.max() < 0.5  # enough runs to see a bias


def test_the_mean_of_a_monotone_loss_varies_less():
    """A linear function of five gates: mirrored gates are correlated by less than -0.7."""
    slopes = torch.linspace(0.5, 2.0, 5)
    log_alpha = torch.zeros(5, requires_grad=True)

    def model():
        z = pyro.sample("z", L0Prior(torch.tensor(0.1)).expand([5]).to_event(1))
        pyro.factor("score", -(slopes * z).sum())

    def guide():
        pyro.sample("z", HardConcrete(log_alpha).to_event(1))

    def losses(**options):
        elbo = ClosedFormKL_ELBO(num_particles=2, **options)
        return torch.tensor([elbo.loss(model, guide) for _ in range(300)])

    independent, paired = losses(), losses(antithetic=True)
    assert paired.var() < 0.3 * independent.var()
    error = math.sqrt((independent.var() + paired.var()) / 300)
    assert abs(independent.mean() - paired.mean()) < 4.5 * error  # a false alarm once in 10⁵


def test_the_loss_is_the_mean_over_the_runs():
    """Two pairs of one seed are the two pairs of two calls."""
    model, guide = pair()
    four, two = (ClosedFormKL_ELBO(num_particles=n, antithetic=True) for n in (4, 2))
    batch = [value.double() if value.is_floating_point() else value for value in blobs()]
    torch.manual_seed(2)
    joint = four.loss(model, guide, *batch)
    torch.manual_seed(2)
    apart = [two.loss(model, guide, *batch) for _ in range(2)]
    assert joint == pytest.approx(sum(apart) / 2)
    assert apart[0] != apart[1]


@pytest.mark.parametrize(
    ("options", "told"), [({}, "1 and False"), ({"num_particles": 3}, "3 and False")], ids=["one", "odd"]
)
def test_what_is_no_number_of_pairs_is_refused(options, told):
    with pytest.raises(ValueError, match=f"num_particles must be even.*got {told}"):
        ClosedFormKL_ELBO(antithetic=True, **options)


def test_vectorised_particles_are_refused():
    with pytest.raises(ValueError, match="vectorize_particles off; got 2 and True"):
        ClosedFormKL_ELBO(2, antithetic=True, vectorize_particles=True)


def test_fit_refuses_what_is_no_pair():
    with pytest.raises(ValueError, match="num_particles must be even with antithetic=True; got 3"):
        fit(*pair(), loader(), epochs=1, antithetic=True, num_particles=3, progress=False)


def test_fit_trains_with_pairs():
    torch.set_default_dtype(torch.float32)
    ends = []
    for options in ({"antithetic": True}, {}):
        model, guide = pair()
        result = fit(model, guide, loader(50), epochs=3, num_particles=2, progress=False, **options)
        ends.append(result.history["elbo"].tolist())
    assert all(map(math.isfinite, ends[0]))
    assert ends[0] != ends[1]
