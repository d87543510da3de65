"""What fit refuses before it trains, and what it does with networks that are Bayesian without gates."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from drawn import fit
from pyro.infer import TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroSample
from torch import nn

from l0bayes.errors import DataError
from l0bayes.inference import HardConcreteGuide, TensorBatches, evaluate
from l0bayes.inference.cli import main
from l0bayes.models import MLP, Classifier

X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def bayesian_net():
    net = PyroModule[nn.Linear](2, 2)
    net.weight = PyroSample(dist.Normal(0.0, 10.0).expand([2, 2]).to_event(2))
    return net


def bayesian():
    model = Classifier(bayesian_net(), num_data=40)
    return model, HardConcreteGuide(model, args=(X, Y))


def test_a_bayesian_network_without_gates_is_evaluated_at_its_posterior():
    model, guide = bayesian()
    batches = TensorBatches(X, Y, 10, shuffle=True)
    fit(model, guide, batches, epochs=60, lr=0.1, progress=False)
    assert evaluate(model, guide, batches) <= 0.05
    assert len({evaluate(model, guide, batches) for _ in range(3)}) == 1


def test_its_sites_have_ordinary_names_and_its_state_fits_a_fresh_guide():
    _, guide = bayesian()
    fresh = bayesian()[1]
    assert [name for name, _ in guide.named_parameters()] == ["loc.net.weight", "log_scale.net.weight"]
    fresh.load_state_dict(guide.state_dict())


class Stray(PyroModule):
    def forward(self, x, y=None):
        scale = pyro.param("stray_scale", torch.tensor(3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x[:, 0], scale.exp()), obs=y)


def test_parameters_of_the_global_store_are_refused():
    model = Stray()
    with pytest.raises(ValueError, match="'stray_scale' belongs to Pyro's global store"):
        fit(model, HardConcreteGuide(model, args=(X, Y)), [(X, X[:, 0])], epochs=1, optimizer=sgd(), progress=False)


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.mark.parametrize("loader", [5, iter([(X, Y)]), [X]])
def test_loaders_that_cannot_be_used(loader):
    model = Classifier(MLP(2, 2), num_data=40)
    with pytest.raises(DataError, match="train_loader must"):
        fit(model, HardConcreteGuide(model), loader, epochs=1, progress=False)


def test_a_model_that_is_no_module():
    with pytest.raises(TypeError, match="model must be a module"):
        fit(print, HardConcreteGuide(Classifier(MLP(2, 2), 4)), [(X, Y)], epochs=1, progress=False)


def test_a_number_of_data_that_contradicts_the_loader_is_said():
    model = Classifier(MLP(2, 2), num_data=40_000)
    with pytest.warns(UserWarning, match="num_data is 40000, and train_loader gave 40 rows"):
        fit(model, HardConcreteGuide(model), [(X, Y)], epochs=1, progress=False)


class Scaled(PyroModule):
    """A site, HalfCauchy, whose KL is registered nowhere."""

    def forward(self, x, y=None):
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(0.0, scale), obs=y)


def test_another_elbo_may_be_given():
    model = Scaled()
    guide = HardConcreteGuide(model, args=(X, X[:, 0]))
    result = fit(model, guide, [(X, X[:, 0])], epochs=30, lr=0.1, elbo=TraceMeanField_ELBO(), progress=False)
    assert result.history["elbo"].iloc[-5:].mean() > result.history["elbo"].iloc[:5].mean()


def test_an_optimizer_with_a_learning_rate_that_is_a_tensor(tmp_path):
    model = Classifier(MLP(2, 2), num_data=40)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1))
    settings = {"optimizer": optimizer, "checkpoint": tmp_path / "run.checkpoint", "progress": False}
    for epochs in (1, 2):
        result = fit(model, HardConcreteGuide(model), [(X, Y)], epochs=epochs, **settings)
        assert len(result.history) == epochs


def test_options_may_be_spelled_with_dashes(tmp_path, capsys):
    assert main(["train", "--data", "mnist", "--data-dir", str(tmp_path / "nothing"), "--batch-size=7"]) == 1
    assert "nothing" in capsys.readouterr().err
