"""Where a gradient or a KL would be silently wrong, the ELBOs say so and nothing moves."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_models import batch, changed, classifier, parameters
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal

from l0bayes import HardConcrete, L0Prior
from l0bayes.errors import PathwiseGradientError
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide

LOCAL = pytest.mark.parametrize("local", [False, True], ids=["global params", "local params"])


def student():
    pyro.sample("w", dist.StudentT(3.0))


def test_a_missing_kl_is_named_with_the_remedy():
    guide = HardConcreteGuide(student)
    with pytest.raises(NotImplementedError, match=r"site 'w'.*TraceMeanField_ELBO.*register_kl"):
        ClosedFormKL_ELBO().loss(student, guide)
    assert isinstance(TraceMeanField_ELBO().loss(student, guide), float)  # as the message says


@pytest.mark.parametrize("elbo", [ClosedFormKL_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("prior", [dist.Beta(1.0, 1.0), dist.Uniform(0.0, 1.0)], ids=["beta", "uniform"])
def test_a_gate_never_gets_a_monte_carlo_kl(elbo, prior):
    log_alpha = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(TypeError, match=f"{type(prior).__name__}.*L0Prior") as error:
        elbo().loss_and_grads(lambda: pyro.sample("z", prior), lambda: pyro.sample("z", HardConcrete(log_alpha)))
    assert "biased" in str(error.value)
    assert log_alpha.grad is None


@pytest.mark.parametrize("elbo", [ClosedFormKL_ELBO, TraceMeanField_ELBO])
def test_event_dimensions_that_differ_between_model_and_guide(elbo):
    log_alpha = torch.zeros(3, requires_grad=True)
    with pytest.raises((TypeError, ValueError, NotImplementedError)):
        elbo().loss_and_grads(
            lambda: pyro.sample("z", L0Prior(torch.ones(3)).to_event(1)),
            lambda: pyro.sample("z", HardConcrete(log_alpha)),
        )
    assert log_alpha.grad is None


def test_auxiliary_sites_are_refused_by_name():
    def model():
        pyro.sample("w", dist.Normal(0.0, 1.0))

    guide = AutoNormal(model)
    with pytest.raises(NotImplementedError, match=r"w_unconstrained.*TraceMeanField_ELBO"):
        ClosedFormKL_ELBO().loss(model, guide)
    assert isinstance(TraceMeanField_ELBO().loss(model, guide), float)


def test_a_latent_site_that_the_guide_lacks_is_named():
    def model():
        pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("v", dist.Normal(0.0, 1.0))

    with pytest.raises(RuntimeError, match="'v' is latent in the model and missing in the guide"):
        ClosedFormKL_ELBO().loss(model, lambda: pyro.sample("w", dist.Normal(0.0, 1.0)))


BIASED = pytest.mark.parametrize("elbo", [Trace_ELBO, TraceGraph_ELBO, RenyiELBO])


@LOCAL
@BIASED
def test_elbos_with_pathwise_gradients_raise_and_nothing_moves(elbo, local):
    with pyro.settings.context(module_local_params=local):
        model = classifier()
        guide = HardConcreteGuide(model)
        before = parameters(model, guide)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo())
        with pytest.raises(PathwiseGradientError, match="TraceMeanField_ELBO"):
            svi.step(*batch())
        assert changed(before, model, guide) == set()


@LOCAL
def test_training_goes_on_with_the_right_elbo_after_a_wrong_one(local):
    with pyro.settings.context(module_local_params=local):
        model = classifier()
        guide = HardConcreteGuide(model)
        x, y = batch()
        with pytest.raises(PathwiseGradientError):
            SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x, y)
        before = parameters(model, guide)
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), TraceMeanField_ELBO()).step(x, y)
        assert changed(before, model, guide) == before.keys()


def test_values_of_the_wrong_elbo_are_still_values():
    # Only gradients are biased: as an estimate of the loss Trace_ELBO is right, and may be used without them.
    model = classifier()
    loss = Trace_ELBO().loss(model, HardConcreteGuide(model), *batch())
    assert isinstance(loss, float)


@pytest.mark.parametrize("elbo", [ClosedFormKL_ELBO, TraceMeanField_ELBO])
def test_diverged_gates_do_not_pass_unnoticed(elbo):
    model = classifier()
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        guide.get_parameter("log_alpha.fc1.input")[2] = torch.nan
    # Pyro's own looks at each log-density, ours warns of the sum; here warnings are errors.
    with pytest.raises((ValueError, UserWarning), match=r"fc1\.input|NaN"):
        elbo().loss(model, guide, *batch())
