"""A HardConcreteGuide is a Pyro AutoGuide: in lists, with other guides, through handlers, with Predictive."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_models import batch, changed, classifier, parameters, regression, spread
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuide, AutoGuideList, AutoNormal

from l0bayes.inference import HardConcreteGuide
from l0bayes.posterior import expected_l0


@pytest.fixture(autouse=True)
def _empty_store(_same_start):
    pyro.clear_param_store()  # Pyro's own guides share it by name


def data(rows=7):
    return torch.randn(rows, 3), torch.randn(rows)


def listed(other=AutoNormal):
    """Gates by one guide, weights by another."""
    guide = AutoGuideList(regression)
    guide.append(HardConcreteGuide(poutine.block(regression, hide=["w"])))
    guide.append(other(poutine.block(regression, hide=["z"])))
    return guide


def test_it_is_an_auto_guide():
    assert isinstance(HardConcreteGuide(classifier()), AutoGuide)


@pytest.mark.parametrize("other", [AutoNormal, AutoDelta, HardConcreteGuide])
def test_a_list_of_guides_trains(other):
    guide, (x, y) = listed(other), data()
    assert set(guide(x, y)) == {"z", "w"}
    before = parameters(guide)
    SVI(regression, guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step(x, y)
    assert changed(before, guide) == before.keys()


def test_a_list_answers_for_its_parts():
    guide, (x, y) = listed(), data()
    guide(x, y)
    assert guide.median(x, y)["z"].shape == (3,)
    assert guide.quantiles([0.1, 0.9], x, y)["z"].shape == (2, 3)
    assert guide[0].master() is guide
    assert list(guide[0].gates()) == ["z"]


def test_a_second_list_in_the_same_process_starts_afresh():
    first, (x, y) = listed(HardConcreteGuide), data()
    first(x, y)
    with torch.no_grad():
        first[0].get_parameter("log_alpha.z").fill_(5.0)
    before = parameters(first)
    second = listed(HardConcreteGuide)
    second(x, y)
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert second[0].gates()["z"].prob_nonzero.tolist() == pytest.approx([0.8] * 3)
    SVI(regression, second, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step(x, y)
    assert changed(before, first) == set()


def test_plates_of_a_list_are_made_once_for_all_parts():
    def model(y):
        with pyro.plate("data", 10, subsample_size=4) as index:
            gate = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            weight = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(gate * weight, 1.0), obs=y[index])

    guide = AutoGuideList(model)
    guide.append(HardConcreteGuide(poutine.block(model, hide=["w"])))
    guide.append(HardConcreteGuide(poutine.block(model, hide=["z"])))
    y = torch.randn(10)
    assert {name: len(value) for name, value in guide(y).items()} == {"z": 4, "w": 4}
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step(y)


def test_arguments_of_median_and_quantiles_are_those_of_pyro():
    guide, (x, y) = HardConcreteGuide(regression), data()
    guide(x, y)
    for name, value in guide.median().items():
        torch.testing.assert_close(guide.median(x, y)[name], value)
        torch.testing.assert_close(guide.quantiles([0.5], x, y=y)[name][0], value)


@pytest.mark.parametrize(
    "handler",
    [
        lambda model: poutine.block(model, hide=["nothing"]),
        lambda model: poutine.scale(model, scale=0.5),
        lambda model: poutine.condition(model, data={"y": batch(4)[1]}),
    ],
    ids=["block", "scale", "condition"],
)
def test_models_inside_handlers(handler):
    # Modules as well as functions: this is how a list of guides splits a model.
    for model, arguments in ((regression, data()), (classifier(), batch(4))):
        guide = HardConcreteGuide(handler(model))
        guide(*arguments)
        assert [name for name, _ in guide.named_parameters() if name.startswith("log_alpha")]


# -- Predictive ---------------------------------------------------------------------------------------------


def test_predictive_with_the_guide():
    model = classifier()
    guide = spread(HardConcreteGuide(model))
    x, _ = batch(9)
    samples = Predictive(model, guide=guide, num_samples=5)(x)
    assert samples["y"].shape == (5, 9)
    assert {name: value.numel() for name, value in samples.items() if name != "y"} == {
        "fc1.input": 5 * 6,
        "fc2.input": 5 * 5,
        "fc3.input": 5 * 4,
    }


def test_predictive_with_posterior_samples_runs_them():
    model = classifier()
    guide = spread(HardConcreteGuide(model))
    x, _ = batch(9)
    gates = Predictive(guide, num_samples=6)(x)
    logits = Predictive(model.net, posterior_samples=gates, return_sites=["_RETURN"])(x)["_RETURN"]
    assert logits.shape == (6, 9, 3)
    for i in range(6):
        expected = model.net.run({name: value[i] for name, value in gates.items()}, x)
        torch.testing.assert_close(logits[i], expected)


def test_posterior_draws_follow_the_gates():
    # 15 binomial shares of 2,000 draws, each within 5 standard deviations: a false alarm in 100,000.
    model = classifier()
    guide = spread(HardConcreteGuide(model))
    x, _ = batch(1)
    samples = Predictive(guide, num_samples=2000)(x)
    for name, gate in guide.gates().items():
        share = (samples[name].reshape(2000, -1) != 0).double().mean(0)
        p = gate.prob_nonzero.detach().double()
        assert ((share - p).abs() < 5 * (p * (1 - p) / 2000).sqrt()).all()


def test_predictive_of_the_prior():
    x = torch.randn(4, 3)
    samples = Predictive(regression, num_samples=50)(x)
    assert set(samples["z"].unique().tolist()) <= {0.0, 1.0}
    assert samples["y"].shape == (50, 4)


def test_many_draws_at_once_are_refused_with_the_remedy():
    model = classifier()
    x, y = batch()
    elbo = TraceMeanField_ELBO(num_particles=2, vectorize_particles=True)
    with pytest.raises(ValueError, match="vectorize_particles"):
        elbo.loss(model, HardConcreteGuide(model), x, y)


def test_a_hand_written_guide_may_use_it_as_a_part():
    model = classifier()
    gates = HardConcreteGuide(model)
    x, y = batch()

    def guide(*args):
        with poutine.scale(scale=0.5):
            return gates(*args)

    torch.manual_seed(0)
    halved = TraceMeanField_ELBO().loss(model, guide, x, y)
    torch.manual_seed(0)
    whole = TraceMeanField_ELBO().loss(model, gates, x, y)
    assert math.isclose(whole - halved, 0.1 * expected_l0(model, gates) / 2, rel_tol=1e-3)


def test_other_elbos_work_where_no_gate_is_involved():
    def model():
        pyro.sample("y", dist.Normal(pyro.sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=torch.tensor(2.0))

    guide = HardConcreteGuide(model)
    before = parameters(guide)
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step()
    assert changed(before, guide) == before.keys()
