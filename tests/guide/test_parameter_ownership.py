"""Several models and guides in one process: nothing passes between them through Pyro's global store."""

import pyro
import pytest
import torch
from guide_models import SIZES, batch, changed, classifier, parameters
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.nn import PyroModule

from l0bayes import sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.models import MLP, Classifier

LOCAL = pytest.mark.parametrize("local", [False, True], ids=["global params", "local params"])
ELBOS = pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, ClosedFormKL_ELBO])


def train(model, guide, elbo=TraceMeanField_ELBO, steps=2):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo())
    for _ in range(steps):
        svi.step(*batch())


def pair():
    model = classifier()
    return model, HardConcreteGuide(model)


@LOCAL
@ELBOS
def test_two_models_trained_one_after_another(elbo, local):
    with pyro.settings.context(module_local_params=local):
        first = pair()
        train(*first, elbo)
        before = parameters(*first)
        torch.manual_seed(8)
        second = pair()
        fresh = parameters(*second)
        torch.manual_seed(8)
        torch.testing.assert_close(second[0].net.net.state_dict(), MLP(*SIZES).state_dict())
        for gate in second[1].gates().values():
            torch.testing.assert_close(gate.prob_nonzero, torch.full_like(gate.log_alpha, 0.8))
        train(*second, elbo)
        assert changed(before, *first) == set()
        assert changed(fresh, *second) == fresh.keys()


@LOCAL
def test_two_guides_of_one_model(local):
    with pyro.settings.context(module_local_params=local):
        model = classifier()
        first, second = HardConcreteGuide(model), HardConcreteGuide(model)
        before = parameters(second)
        train(model, first)
        assert changed(before, second) == set()
        train(model, second)
        assert changed(before, second) == before.keys()


@LOCAL
def test_one_network_in_two_models(local):
    with pyro.settings.context(module_local_params=local):
        sparse = sparsify(MLP(*SIZES), torch.zeros(2, SIZES[0]))
        for num_data in (100, 200):
            model = Classifier(sparse, num_data)
            before = parameters(model)
            train(model, HardConcreteGuide(model))
            assert changed(before, model) == before.keys()


@LOCAL
def test_a_cleared_store_between_two_steps(local):
    with pyro.settings.context(module_local_params=local):
        model, guide = pair()
        train(model, guide)
        pyro.clear_param_store()
        before = parameters(model, guide)
        train(model, guide)
        assert changed(before, model, guide) == before.keys()


@LOCAL
def test_what_the_store_holds_from_others_does_not_come_in(local):
    with pyro.settings.context(module_local_params=local):
        for name in ("net.fc1.weight", "net.net.fc1.weight", "log_alpha.fc1.input", "HardConcreteGuide"):
            pyro.param(name, torch.full((2,), 7.0))
        model, guide = pair()
        train(model, guide)
        assert not any((parameter == 7.0).any() for parameter in (*model.parameters(), *guide.parameters()))


class Wrapped(PyroModule):
    """A user's own Pyro module around the library's."""

    def __init__(self):
        super().__init__()
        self.inner = classifier()

    def forward(self, x, y=None):
        return self.inner(x, y)

    def sample_latents(self):
        return self.inner.sample_latents()


class WrappedGuide(PyroModule):
    def __init__(self, model):
        super().__init__()
        self.inner = HardConcreteGuide(model.inner)

    def forward(self, x, y=None):
        return self.inner(x, y)


@LOCAL
@ELBOS
def test_inside_a_users_own_modules_two_of_the_same_name_train_apart(elbo, local):
    pyro.clear_param_store()
    with pyro.settings.context(module_local_params=local):
        first = Wrapped()
        first_guide = WrappedGuide(first)
        train(first, first_guide, elbo)
        before = parameters(first, first_guide)
        second = Wrapped()
        second_guide = WrappedGuide(second)
        fresh = parameters(second, second_guide)
        train(second, second_guide, elbo)
        assert changed(before, first, first_guide) == set()
        assert changed(fresh, second, second_guide) == fresh.keys()


@LOCAL
@ELBOS
def test_parameters_replaced_after_the_first_step_are_the_ones_that_train(elbo, local):
    with pyro.settings.context(module_local_params=local):
        model, guide = pair()
        train(model, guide, elbo)
        for module in (model, guide):
            module.load_state_dict({k: v.clone() for k, v in module.state_dict().items()}, assign=True)
        before = parameters(model, guide)
        train(model, guide, elbo)
        assert changed(before, model, guide) == before.keys()
