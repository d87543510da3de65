"""Every way a Pyro user may train: every parameter of network and guide moves."""

import pyro
import pytest
import torch
from guide_models import batch, changed, classifier, parameters, regression
from pyro.infer import SVI, TraceMeanField_ELBO

from l0bayes import sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.models import MLP, Classifier, Regressor

LOCAL = pytest.mark.parametrize("local", [False, True], ids=["global params", "local params"])
ELBOS = pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, ClosedFormKL_ELBO])


@LOCAL
@ELBOS
def test_stock_svi_and_pyro_optim(elbo, local):
    with pyro.settings.context(module_local_params=local):
        model = classifier()
        guide = HardConcreteGuide(model)
        before = parameters(model, guide)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo())
        losses = [svi.step(*batch()) for _ in range(3)]
        assert all(isinstance(loss, float) for loss in losses)
        assert changed(before, model, guide) == before.keys()


@LOCAL
@ELBOS
def test_elbo_as_a_module_and_one_torch_optimizer(elbo, local):
    with pyro.settings.context(module_local_params=local):
        model = classifier()
        guide = HardConcreteGuide(model)
        before = parameters(model, guide)
        loss = elbo()(model, guide)
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)
        for _ in range(3):
            optimizer.zero_grad()
            loss(*batch()).backward()
            optimizer.step()
        assert changed(before, model, guide) == before.keys()


@LOCAL
@ELBOS
def test_both_ways_take_the_same_first_step(elbo, local):
    x, y = batch()
    with pyro.settings.context(module_local_params=local):
        results = []
        for way in ("svi", "torch"):
            torch.manual_seed(2)
            model = classifier()
            guide = HardConcreteGuide(model)
            torch.manual_seed(3)
            if way == "svi":
                SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), elbo()).step(x, y)
            else:
                loss = elbo()(model, guide)
                optimizer = torch.optim.SGD(loss.parameters(), lr=1e-3)
                loss(x, y).backward()
                optimizer.step()
            results.append(parameters(model, guide))
        torch.testing.assert_close(results[0], results[1])


@LOCAL
def test_a_guide_that_is_set_up_by_the_first_step(local):
    with pyro.settings.context(module_local_params=local):
        guide = HardConcreteGuide(regression)
        x, y = torch.randn(9, 3), torch.randn(9)
        svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
        svi.step(x, y)
        before = parameters(guide)
        svi.step(x, y)
        assert changed(before, guide) == before.keys() == {"0.log_alpha.z", "0.loc.w", "0.log_scale.w"}


@LOCAL
def test_frozen_parameters_stay_and_the_others_move(local):
    with pyro.settings.context(module_local_params=local):
        model = classifier()
        model.net.net.fc1.requires_grad_(False)
        guide = HardConcreteGuide(model)
        before = parameters(model, guide)
        SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO()).step(*batch())
        assert before.keys() - changed(before, model, guide) == {"0.net.net.fc1.weight", "0.net.net.fc1.bias"}


@LOCAL
def test_a_regressor_trains_likewise(local):
    with pyro.settings.context(module_local_params=local):
        model = Regressor(sparsify(MLP(6, 5, 2), torch.zeros(2, 6)), 50, noise_scale=0.5)
        guide = HardConcreteGuide(model)
        before = parameters(model, guide)
        SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO()).step(
            torch.randn(8, 6), torch.randn(8, 2)
        )
        assert changed(before, model, guide) == before.keys()


def test_options_by_parameter_name_see_which_are_gates():
    model = classifier()
    guide = HardConcreteGuide(model)
    before = parameters(model, guide)
    names = []

    def options(name):
        names.append(name)
        return {"lr": 0.1 if "log_alpha" in name else 0.0}

    SVI(model, guide, pyro.optim.Adam(options), TraceMeanField_ELBO()).step(*batch())
    assert len(names) == len(set(names)) == len(before)
    assert sum("log_alpha" in name for name in names) == 3
    assert sum(name.endswith(("weight", "bias")) for name in names) == 6
    assert changed(before, model, guide) == {name for name in before if "log_alpha" in name}


def test_gates_are_told_from_weights_in_a_torch_optimizer_too():
    model = classifier()
    guide = HardConcreteGuide(model)
    loss = TraceMeanField_ELBO()(model, guide)
    gates = {name for name, _ in loss.named_parameters() if "log_alpha" in name}
    assert gates == {f"guide.log_alpha.fc{i}.input" for i in (1, 2, 3)}


@LOCAL
def test_settings_of_the_caller_stay_as_they_are(local):
    with pyro.settings.context(module_local_params=local):
        before = pyro.settings.get()
        model = classifier()
        guide = HardConcreteGuide(model)
        SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO()).step(*batch())
        assert pyro.settings.get() == before


@ELBOS
def test_evaluating_the_loss_changes_nothing(elbo):
    model = classifier()
    guide = HardConcreteGuide(model)
    x, y = batch()
    before = parameters(model, guide)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo())
    assert isinstance(svi.evaluate_loss(x, y), float)
    assert changed(before, model, guide) == set()
    assert all(parameter.grad is None for parameter in (*model.parameters(), *guide.parameters()))


def test_training_lowers_the_loss_and_closes_what_carries_nothing():
    # Labels depend on the first two inputs alone; the other four are noise, at 8 weights of 2 nats each.
    x = torch.randn(400, 6)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    sparse = sparsify(MLP(6, 8, 3), x[:2], gates={"fc1": "input"}, code_cost=2.0)
    model = Classifier(sparse, len(x))
    guide = HardConcreteGuide(model, init_open=0.5)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), TraceMeanField_ELBO())
    losses = [svi.step(x, y) for _ in range(600)]
    assert sum(losses[-50:]) < 0.5 * sum(losses[:50])
    share = guide.gates()["fc1.input"].prob_nonzero.detach()
    assert share[:2].min() > 0.9
    assert share[2:].max() < 0.2
