"""The slab's penalty of weights that are points, weighted by P(open)."""

import itertools

import pytest
import torch
from torch import nn

from l0bayes import sparsify
from l0bayes.code_cost.slab import PointSlab
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, TensorBatches, fit
from l0bayes.models import MLP, Classifier


class Tied(nn.Module):
    """A stream with a layer that reads and makes it: the same gate lies over row and column."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        h = self.first(x)
        return self.last(h + self.inner(h.relu()))


NETS = {
    "units": (lambda: MLP(4, 3, 2, 2), "unit"),
    "inputs": (lambda: MLP(4, 3, 2), "input"),
    "stream": (Tied, "unit"),
    "weights under units": (lambda: MLP(3, 2, 2), {"fc1": "unit", "fc2": "weight"}),
}


def by_enumeration(net, structure, probs, scale):
    """The mean over all gate patterns of the squares of what is alive."""
    expected = 0.0
    sizes = [group.size for group in structure.groups]
    for bits in itertools.product([0.0, 1.0], repeat=sum(sizes)):
        gates = torch.tensor(bits, dtype=torch.float64).split(sizes)
        chance = torch.cat([torch.where(z > 0, p, 1 - p) for z, p in zip(gates, probs, strict=True)]).prod()
        for name, weight in net.named_parameters():
            if weight.dim() < 2:
                continue
            alive = torch.ones_like(weight)
            for group, z in zip(structure.groups, gates, strict=True):
                for part in (part for part in group.slices if part.tensor == name):
                    line = torch.cat((z, torch.ones(1)))[part.gates]
                    shape = weight.shape if part.dim is None else [-1 if d == part.dim else 1 for d in range(2)]
                    alive = alive * line.reshape(shape)
            expected += chance * (alive * weight.detach() ** 2).sum() / (2 * scale**2)
    return expected


@pytest.mark.parametrize("name", NETS)
def test_it_is_the_mean_over_all_patterns(name):
    torch.manual_seed(0)
    build, gates = NETS[name]
    net = build().double()
    structure = sparsify(
        net, torch.randn(2, next(net.parameters()).shape[1], dtype=torch.float64), gates=gates
    ).structure
    probs = [torch.rand(group.size, dtype=torch.float64) for group in structure.groups]
    found = PointSlab(structure, 0.3)(net, probs)
    torch.testing.assert_close(found.double(), by_enumeration(net, structure, probs, 0.3), rtol=1e-12, atol=0)


def loss(slab_scale, **options):
    torch.manual_seed(0)
    net, x, y = MLP(4, 3, 2), torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 1, 0])
    sparse = sparsify(net, x, slab_scale=slab_scale, **options)
    model = Classifier(sparse, num_data=6)
    guide = HardConcreteGuide(model)
    torch.manual_seed(1)
    return ClosedFormKL_ELBO()(model, guide)(x, y), sparse, guide


@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_it_is_in_the_elbo(cost):
    (without, _, _), (found, sparse, guide) = loss(None, cost=cost), loss(0.5, cost=cost)
    probs = [gate.prob_nonzero for gate in guide.gates().values()]
    torch.testing.assert_close(
        found - without, PointSlab(sparse.structure, 0.5)(sparse.net, probs), rtol=1e-4, atol=1e-4
    )


def test_closed_weights_do_not_feel_it():
    _, sparse, guide = loss(0.5)
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.unit")[:] = torch.tensor([-40.0, 40.0, 40.0])
    penalty = PointSlab(sparse.structure, 0.5)(sparse.net, [gate.prob_nonzero for gate in guide.gates().values()])
    (gradient,) = torch.autograd.grad(penalty, sparse.net.fc1.weight)
    assert gradient[0].abs().max() < 1e-10
    torch.testing.assert_close(gradient[1:], sparse.net.fc1.weight[1:] / 0.25)


def test_fine_tuning_keeps_it():
    """With nothing to learn from the data, the weights that are open fall towards zero."""
    _, sparse, guide = loss(0.05, code_cost=0.0)
    model = Classifier(sparse, num_data=1)
    guide = HardConcreteGuide(model, init_open=0.99)
    before = sparse.net.fc1.weight.detach().norm()
    loader = TensorBatches(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long), 8)
    with pytest.warns(UserWarning, match="num_data"):
        fit(model, guide, loader, epochs=1, fine_tune=60, lr=0.01, selection="svi", progress=False)
    assert sparse.net.fc1.weight.detach().norm() < 0.5 * before


@pytest.mark.parametrize(
    ("scale", "cost"), [(0.0, "parameters"), (-1.0, "macs"), (float("inf"), "macs"), (1.0, "paper")]
)
def test_scales_out_of_range(scale, cost):
    with pytest.raises(ValueError, match=f"slab_scale must be finite and > 0.*{scale}"):
        sparsify(MLP(4, 3, 2), torch.zeros(2, 4), slab_scale=scale, cost=cost)


@pytest.mark.parametrize(("code_cost", "options", "expected"), [("aic", {}, 1.0), ("bic", {"num_data": 100}, 2.302585)])
def test_code_costs_by_name(code_cost, options, expected):
    x = torch.zeros(2, 4)
    for gates in ("unit", {"fc1": {"gates": "unit", "code_cost": code_cost}, "fc2": "unit"}):
        named = sparsify(MLP(4, 3, 2, 2), x, code_cost if gates == "unit" else 0.0, gates, **options)
        asked = gates if gates == "unit" else {"fc1": {"gates": "unit", "code_cost": expected}, "fc2": "unit"}
        by_number = sparsify(MLP(4, 3, 2, 2), x, expected if gates == "unit" else 0.0, asked)
        probs = {group.name: torch.full((group.size,), 0.3) for group in named.groups}
        assert named.prior.cost(probs).item() == pytest.approx(by_number.prior.cost(probs).item())
        assert named.prior.cost(probs) > 0


@pytest.mark.parametrize(
    ("code_cost", "options", "message"),
    [("bic", {}, "num_data"), ("mdl", {}, "'aic' or 'bic'"), ("aic", {"cost": "macs"}, "does not go with cost='macs'")],
)
def test_names_that_cannot_be_priced(code_cost, options, message):
    with pytest.raises(ValueError, match=message):
        sparsify(MLP(4, 3, 2), torch.zeros(2, 4), code_cost, **options)
