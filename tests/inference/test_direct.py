"""The ELBO without effect handlers: what the handlers give, number for number, and only where nobody would notice."""

from functools import partial

import pytest
import torch
from pyro import plate, sample
from pyro.distributions import Normal
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import Beta
from toy_problem import ROWS, SIZES, blobs

from l0bayes import compact, sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.inference.objective import direct as direct_module
from l0bayes.inference.objective.direct import direct
from l0bayes.inference.objective.loss import Objective
from l0bayes.models import MLP, Classifier, Regressor

WAYS = {
    "plain": {},
    "macs": {"cost": "macs"},
    "the paper's accounting": {"cost": "paper"},
    "inclusion": {"inclusion": 0.3},
    "inclusion of some": {"gates": {"fc1": {"gates": "input", "inclusion": 0.2}, "fc*": "input"}},
    "the paper's accounting, inclusion": {"cost": "paper", "inclusion": 0.3},
    "slab": {"slab_scale": 0.5},
    "single weights": {"gates": "weight"},
    "units": {"gates": "unit"},
}


def built(likelihood=Classifier, init_open=0.6, **options):
    torch.manual_seed(1)
    sparse = sparsify(MLP(*SIZES), torch.zeros(2, SIZES[0]), **({"gates": "input", "code_cost": 0.1} | options))
    model = likelihood(sparse, ROWS)
    guide = HardConcreteGuide(model, init_open=init_open)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model, guide


def batch(likelihood=Classifier):
    x, y = blobs()
    return (x, y) if likelihood is Classifier else (x, torch.randn(ROWS, SIZES[-1]))


def loss_and_gradients(loss, *modules):
    torch.manual_seed(5)
    value = loss()
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)


@pytest.fixture
def both(monkeypatch):
    """Asserts that a loss is the same with and without handlers, and that the latter were not used."""

    def compare(loss, model, guide, *, taken=True):
        found = loss_and_gradients(loss, model, guide)
        count = []
        with monkeypatch.context() as patch:
            patch.setattr(direct_module, "direct", lambda *_: count.append(1))
            by_handlers = loss_and_gradients(loss, model, guide)
        assert len(count) > 0
        assert (direct(model, guide, batch()) is not None) == taken
        torch.testing.assert_close(found, by_handlers, rtol=2e-6, atol=1e-6)
        return found

    return compare


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("likelihood", [Classifier, Regressor, partial(Regressor, noise_scale=None)], ids=str)
def test_it_is_what_handlers_give(way, likelihood, both):
    model, guide = built(likelihood, **WAYS[way])
    both(partial(ClosedFormKL_ELBO().differentiable_loss, model, guide, *batch(likelihood)), model, guide)


def test_it_is_what_pyros_own_elbo_gives(both):
    model, guide = built()
    found, _ = both(partial(ClosedFormKL_ELBO().differentiable_loss, model, guide, *batch()), model, guide)
    torch.manual_seed(5)
    assert found.item() == pytest.approx(TraceMeanField_ELBO().loss(model, guide, *batch()), rel=1e-6)


def test_with_several_draws(both):
    model, guide = built()
    both(partial(ClosedFormKL_ELBO(num_particles=3).differentiable_loss, model, guide, *batch()), model, guide)


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16], ids=str)
def test_in_other_precisions(precision, both):
    model, guide = built(code_cost=0.0)
    x, y = batch()
    if precision == torch.float64:
        model, guide, x = model.double(), guide.double(), x.double()

    def loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            return ClosedFormKL_ELBO().differentiable_loss(model, guide, x, y)

    assert both(loss, model, guide)[0].dtype == (torch.float64 if precision == torch.float64 else torch.float32)


@pytest.mark.parametrize("kind", ["weighted KL", "fixed gates", "fixed gates, another network"])
def test_what_a_run_changes_of_the_loss(kind, both):
    model, guide = built()
    objective = Objective(ClosedFormKL_ELBO(), model, guide)
    if kind == "weighted KL":
        objective.kl_weight = 0.3
    else:
        objective.fixed_gates = guide.point()
    if kind.endswith("network"):
        objective.stand_in = compact(model, guide)
    value, gradients = both(partial(objective, *batch()), model, guide)
    assert objective.negative_elbo == pytest.approx(value.item())
    assert (gradients[-1] is None) == (kind != "weighted KL")


# -- when handlers are needed -----------------------------------------------------------------------------------------


class Own(Classifier):
    def forward(self, x, y=None):
        return super().forward(x, y)


class Watched(HardConcreteGuide):
    pass


class Sampling(nn.Module):
    """A network that observes something by itself."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(SIZES[0], 5), nn.Linear(5, SIZES[-1])

    def forward(self, x):
        hidden = self.first(x).relu()
        with plate("rows", len(x), dim=-2), plate("units", hidden.shape[1], dim=-1):
            sample("small", Normal(0.0, 1.0), obs=hidden)
        return self.last(hidden)


def built_on(net):
    model = Classifier(net, ROWS)
    return model, HardConcreteGuide(model)


OTHERS = {
    "a forward of one's own": lambda: built(Own),
    "a guide of one's own": lambda: (model := built()[0], Watched(model)),
    "normal weights": lambda: built(slab="normal"),
    "an inclusion that is unknown": lambda: built(inclusion=Beta(1.0, 1.0)),
    "statements in the network": lambda: built_on(Sampling()),
    "statements in a network with gates": lambda: built_on(sparsify(Sampling(), torch.zeros(2, SIZES[0]))),
}


def test_a_plain_network_needs_none(both):
    model, guide = built_on(MLP(*SIZES))
    both(partial(ClosedFormKL_ELBO().differentiable_loss, model, guide, *batch()), model, guide)


@pytest.mark.parametrize("which", OTHERS)
def test_other_models_and_guides_need_handlers(which, both):
    model, guide = OTHERS[which]()
    if which.startswith("statements"):  # which is found out in the first step
        ClosedFormKL_ELBO().differentiable_loss(model, guide, *batch())
    both(partial(ClosedFormKL_ELBO().differentiable_loss, model, guide, *batch()), model, guide, taken=False)


@pytest.mark.parametrize("part", ["model", "network", "guide"])
def test_hooks_are_called(part, both):
    model, guide = built()
    heard = []
    module = {"model": model, "network": model.net, "guide": guide}[part]
    module.register_forward_hook(lambda *_: heard.append(part))
    both(partial(ClosedFormKL_ELBO().differentiable_loss, model, guide, *batch()), model, guide, taken=False)
    assert heard == [part] * 2


@pytest.mark.parametrize("fixed", [False, True])
def test_an_elbo_of_ones_own_is_asked_for_its_traces(fixed):
    class Traced(ClosedFormKL_ELBO):
        asked = 0

        def trace_pair(self, *args):
            self.asked += 1
            return super().trace_pair(*args)

    model, guide = built()
    objective = Objective(Traced(), model, guide)
    objective.fixed_gates = guide.point() if fixed else None
    objective(*batch())
    assert objective.elbo.asked == 1


class Listener(Messenger):
    def __init__(self):
        super().__init__()
        self.names = []

    def _pyro_sample(self, msg):
        self.names.append(msg["name"])


def test_handlers_outside_see_every_site():
    model, guide = built()
    with Listener() as listener:
        ClosedFormKL_ELBO().differentiable_loss(model, guide, *batch())
    gates = ["fc1.input", "fc2.input", "fc3.input"]
    assert [name for name in listener.names if name != "data"] == [*gates, *gates, "y"]


def test_an_observation_that_is_no_number_a_row_is_explained():
    class PerTarget(Regressor):
        def observation(self, output):
            return Normal(output, 1.0)  # its targets are not one event

    model, guide = built(PerTarget)
    with pytest.raises(ValueError, match="Shape mismatch inside plate"):
        ClosedFormKL_ELBO().differentiable_loss(model, guide, *batch(Regressor))


def test_bad_data_are_refused_as_ever():
    model, guide = built()
    x, y = batch()
    loss = ClosedFormKL_ELBO().differentiable_loss
    with pytest.raises(ValueError, match="x must be finite"):
        loss(model, guide, x * float("nan"), y)
    with pytest.raises(ValueError, match="y must be between 0 and 2"):
        loss(model, guide, x, y + 3)


def test_dropout_is_drawn_from_the_same_stream(both):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(SIZES[0], 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, SIZES[-1]))
    model = Classifier(sparsify(net, torch.zeros(2, SIZES[0])), ROWS)
    guide = HardConcreteGuide(model)
    both(partial(ClosedFormKL_ELBO().differentiable_loss, model, guide, *batch()), model, guide)
