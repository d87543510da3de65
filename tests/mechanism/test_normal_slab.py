"""The slab's KL of weights that are normal, weighted by P(open)."""

import itertools

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from l0bayes import sparsify
from l0bayes.code_cost.normal_slab import NormalSlab
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, parameter_groups, shrink
from l0bayes.models import MLP, Classifier
from l0bayes.structure.groups import along


def built(scale=0.3, gates="unit", **options):
    torch.manual_seed(0)
    net = MLP(3, 2, 2).double()
    sparse = sparsify(
        net,
        torch.randn(2, 3, dtype=torch.float64),
        gates=gates,
        slab="normal",
        slab_scale=scale,
        inclusion=0.5,
        **options,
    )
    with torch.no_grad():
        for parameter in sparse.child("log_sd").parameters():
            parameter.copy_(torch.randn_like(parameter) - 2)
    return sparse, [torch.rand(group.size, dtype=torch.float64) for group in sparse.groups]


def alive_by_enumeration(sparse, probs):
    """Weight name to the probability that all gates over it are open."""
    sizes = [group.size for group in sparse.groups]
    found = {n: torch.zeros_like(w) for n, w in sparse.net.named_parameters() if w.dim() > 1}
    for bits in itertools.product([0.0, 1.0], repeat=sum(sizes)):
        gates = torch.tensor(bits, dtype=torch.float64).split(sizes)
        chance = torch.cat([torch.where(z > 0, p, 1 - p) for z, p in zip(gates, probs, strict=True)]).prod()
        for name, total in found.items():
            here = torch.ones_like(total)
            for group, z in zip(sparse.groups, gates, strict=True):
                for part in (part for part in group.slices if part.tensor == name):
                    here = here * along(torch.cat((z, torch.ones(1)))[part.gates], part.dim, total.shape)
            found[name] = total + chance * here
    return found


@pytest.mark.parametrize("gates", ["unit", "input", {"fc1": "unit", "fc2": "weight"}])
def test_it_is_the_mean_over_all_patterns(gates):
    sparse, probs = built(gates=gates)
    expected, prior = torch.zeros((), dtype=torch.float64), Normal(0.0, torch.tensor(0.3, dtype=torch.float64))
    for name, alive in alive_by_enumeration(sparse, probs).items():
        posterior = Normal(sparse.net.get_parameter(name), sparse._slab.sd()[name])
        expected = expected + (alive * kl_divergence(posterior, prior)).sum()
    torch.testing.assert_close(sparse._slab(sparse.net, probs), expected, rtol=1e-10, atol=0)


def test_a_learned_scale_is_the_best_one():
    sparse, probs = built(scale=None)
    found = sparse._slab(sparse.net, probs)
    alive = alive_by_enumeration(sparse, probs)
    best = torch.zeros((), dtype=torch.float64)
    for name, shares in alive.items():
        posterior = Normal(sparse.net.get_parameter(name), sparse._slab.sd()[name])
        scales = torch.logspace(-2, 1, 4001, dtype=torch.float64)
        each = torch.stack([(shares * kl_divergence(posterior, Normal(0.0, s))).sum() for s in scales])
        best = best + each.min()
        at = sparse._slab.log_scale(name, sparse.net.get_parameter(name), shares).exp().item()
        assert at == pytest.approx(float(scales[each.argmin()]), rel=2e-3)
    assert found.item() == pytest.approx(best.item(), abs=1e-5)
    assert found.item() <= best.item() + 1e-12


def test_closed_weights_cost_nothing_and_feel_nothing():
    for scale in (0.3, None):
        sparse, probs = built(scale)
        zero = [torch.zeros_like(prob) for prob in probs]
        cost = sparse._slab(sparse.net, zero)
        gradients = torch.autograd.grad(cost, list(sparse.child("log_sd").parameters()), allow_unused=True)
        assert cost.item() == pytest.approx(0.0, abs=1e-9)
        assert all(torch.isfinite(g).all() and g.abs().max() < 1e-9 for g in gradients)


def test_it_is_in_the_elbo_and_the_gates_feel_it():
    torch.manual_seed(0)
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    losses = []
    for slab in ("normal", "point"):
        torch.manual_seed(0)
        sparse = sparsify(MLP(3, 2, 2), x, 0.0, slab=slab, inclusion=0.3, slab_scale=0.5 if slab == "normal" else None)
        model = Classifier(sparse, num_data=6)
        guide = HardConcreteGuide(model, init_open=0.7)
        model.eval()
        kl = ClosedFormKL_ELBO()
        torch.manual_seed(1)
        with torch.no_grad():
            if slab == "normal":
                for parameter in sparse.child("log_sd").parameters():
                    parameter.fill_(-30.0)  # as good as points
        losses.append((kl(model, guide)(x, y), sparse, guide))
    (found, sparse, guide), (without, _, _) = losses
    probs = [gate.prob_nonzero for gate in guide.gates().values()]
    cost = sparse._slab(sparse.net, probs)
    torch.testing.assert_close(found - without, cost, rtol=1e-4, atol=1e-3)
    (gradient,) = torch.autograd.grad(cost, guide.parameter("log_alpha.fc1.unit"))
    assert (gradient > 0).all()


def test_parameters_are_trained_as_variational_ones():
    sparse, _ = built()
    model = Classifier(sparse, num_data=6)
    groups = {
        g["name"]: g for g in parameter_groups(nn.ModuleList([model, HardConcreteGuide(model)]), weight_decay=0.1)
    }
    assert {id(p) for p in groups["variational"]["params"]} == {id(p) for p in sparse.child("log_sd").parameters()}
    assert groups["variational"]["weight_decay"] == 0


def test_biases_frozen_and_shared_weights_are_points():
    net = MLP(3, 4, 3, 2)
    net.fc2.weight.requires_grad_(False)
    sparse = sparsify(net, torch.randn(2, 3), slab="normal", inclusion=0.5)
    assert set(sparse._slab.sd()) == {"fc1.weight", "fc3.weight"}


def test_deviations_shrink_with_the_weights():
    torch.manual_seed(0)
    net = MLP(3, 4, 2)
    sparse = sparsify(net, torch.randn(2, 3), slab="normal", inclusion=0.5)
    model = Classifier(sparse, num_data=6)
    guide = HardConcreteGuide(model)
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()])
    before = {name: value.detach().clone() for name, value in sparse._slab.log_sd().items()}
    ClosedFormKL_ELBO()(model, guide)(torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])).backward()
    optimizer.step()
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.unit")[1] = -30
    assert shrink(model, guide, optimizer) == {"fc1.unit": 1}
    assert sparse._slab.log_sd()["fc1.weight"].shape == (3, 3)
    assert sparse._slab.log_sd()["fc2.weight"].shape == (2, 3)
    assert before["fc1.weight"].shape == (4, 3)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert all(id(p) in held for p in sparse.child("log_sd").parameters())
    ClosedFormKL_ELBO()(model, guide)(torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slab": "laplace"}, "slab must be one of point, normal; got 'laplace'"),
        ({"slab": "normal", "cost": "paper"}, "slab='normal' needs cost='parameters' or 'macs'"),
        ({"slab": "normal", "slab_scale": 0.0}, "slab_scale must be finite and > 0"),
        ({"inclusion": 0.5, "expected_open": 2}, "inclusion or expected_open, not both"),
        ({"expected_open": 4}, "less than the 4 gates; got 4"),
        ({"expected_open": -1.0}, "expected_open must be a number of gates > 0; got -1.0"),
        ({"inclusion": "half"}, "inclusion must be a number strictly between 0 and 1, or a Beta"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        sparsify(MLP(3, 4, 2), torch.zeros(2, 3), **options)


def test_expected_numbers_are_by_group_and_stay_when_units_go():
    sparse = sparsify(MLP(3, 8, 4, 2), torch.zeros(2, 3), expected_open=2)
    assert sparse._inclusion == {"fc1.unit": 0.25, "fc2.unit": 0.5}
    by_layer = {"fc1": {"gates": "unit", "inclusion": dist.Beta(1.0, 3.0)}, "fc2": "unit"}
    mixed = sparsify(MLP(3, 8, 4, 2), torch.zeros(2, 3), gates=by_layer, expected_open=2)
    assert mixed.prior.inclusion_sites == ("inclusion.fc1.unit",)
    assert mixed._inclusion["fc2.unit"] == 0.5
    model = Classifier(sparse, num_data=6)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.unit")[:4] = -30
    shrink(model, guide)
    assert sparse._inclusion["fc1.unit"] == 0.25


def test_slab_class_is_normal_only_when_asked():
    assert isinstance(built()[0]._slab, NormalSlab)
    assert list(sparsify(MLP(3, 4, 2), torch.zeros(2, 3)).child("log_sd").parameters()) == []
