"""The KL in the ELBO, with the likelihood taken away, is the paper's penalty by hand."""

import math

import pytest
import torch
from guide_models import NUM_DATA, SIZES, batch, classifier, gates_and_slab, spread
from pyro.infer import TraceMeanField_ELBO
from torch.nn.functional import cross_entropy

from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.subnetwork.masked import masked_forward

ELBOS = pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, ClosedFormKL_ELBO])
FAN_OUT = dict(zip(("fc1.input", "fc2.input", "fc3.input"), SIZES[1:], strict=True))
COST = pytest.mark.parametrize("cost", ["parameters", "macs", "paper"])


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def kl_of(elbo, model, guide, x, y):
    """The loss plus the log-likelihood that was computed by hand, masked, at the same draw."""
    torch.manual_seed(4)
    loss = elbo().loss(model, guide, x, y)
    torch.manual_seed(4)
    logits = masked_forward(model.net.net, model.net.groups, guide(x, y), x)
    return loss - NUM_DATA * cross_entropy(logits, y).item()


def probabilities(guide, beta=2 / 3, gamma=-0.1, zeta=1.1):
    """P(z != 0) = sigmoid(log alpha - beta log(-gamma / zeta)), one number at a time (paper, eq. 12)."""
    shift = beta * math.log(-gamma / zeta)
    return {
        name.removeprefix("log_alpha."): [1 / (1 + math.exp(shift - a)) for a in parameter.tolist()]
        for name, parameter in guide.named_parameters()
    }


def open_numbers(p, cost="parameters"):
    """Expected numbers of parameters or multiply-accumulates of each layer that live, but for the output's biases."""
    if cost == "paper":
        return {name.removesuffix(".input"): FAN_OUT[name] * sum(shares) for name, shares in p.items()}
    inputs, first, second = (sum(p[f"fc{number}.input"]) for number in (1, 2, 3))
    bias = 1 if cost == "parameters" else 0
    return {"fc1": first * (inputs + bias), "fc2": second * (first + bias), "fc3": SIZES[3] * second}


def coins(p, inclusion):
    """KL(Bernoulli(p) || Bernoulli(inclusion))."""
    return p * math.log(p / inclusion) + (1 - p) * math.log((1 - p) / (1 - inclusion))


@ELBOS
@COST
@pytest.mark.parametrize("code_cost", [0.0, 0.1, 3.0])
def test_it_is_the_code_cost_of_what_lives_in_expectation(elbo, cost, code_cost):
    model = classifier(code_cost=code_cost, cost=cost)
    guide = spread(HardConcreteGuide(model))
    by_hand = code_cost * sum(open_numbers(probabilities(guide), cost).values())
    assert kl_of(elbo, model, guide, *batch()) == pytest.approx(by_hand, abs=1e-6)


@ELBOS
@COST
@pytest.mark.parametrize("inclusion", [0.01, 0.5, 0.9])
def test_with_inclusion_the_kl_of_two_coins_a_gate_is_added(elbo, cost, inclusion):
    model = classifier(code_cost=0.2, inclusion=inclusion, cost=cost)
    guide = spread(HardConcreteGuide(model))
    p = probabilities(guide)
    by_hand = 0.2 * sum(open_numbers(p, cost).values()) + sum(coins(q, inclusion) for qs in p.values() for q in qs)
    assert kl_of(elbo, model, guide, *batch()) == pytest.approx(by_hand, abs=1e-6)


@ELBOS
def test_any_stretch(elbo):
    stretch = {"beta": 0.4, "gamma": -0.3, "zeta": 1.05}
    model = classifier(code_cost=1.0)
    guide = spread(HardConcreteGuide(model, **stretch))
    by_hand = sum(open_numbers(probabilities(guide, **stretch)).values())
    assert kl_of(elbo, model, guide, *batch()) == pytest.approx(by_hand, abs=1e-6)


@ELBOS
@pytest.mark.parametrize("size", [1, 7, 200])
def test_it_does_not_depend_on_the_batch(elbo, size):
    model = classifier()
    guide = spread(HardConcreteGuide(model))
    by_hand = 0.1 * sum(open_numbers(probabilities(guide)).values())
    assert kl_of(elbo, model, guide, *batch(size)) == pytest.approx(by_hand, abs=1e-6)


@ELBOS
@COST
def test_options_of_a_pattern_count_each_for_their_layer(elbo, cost):
    gates = {"fc1": {"gates": "input", "code_cost": 2.0}, "fc3": {"gates": "input", "inclusion": 0.3}}
    model = classifier(code_cost=0.5, gates=gates, cost=cost)
    guide = spread(HardConcreteGuide(model))
    p = probabilities(guide)
    numbers = open_numbers(p | {"fc2.input": [1.0] * SIZES[1]}, cost)  # no gates there: every unit is open
    ungated = {"paper": {"fc2": numbers["fc2"]}, "parameters": {"fc1": SIZES[1]}, "macs": {}}[cost]
    numbers = {layer: number - ungated.get(layer, 0.0) for layer, number in numbers.items()}
    by_hand = (
        2.0 * numbers["fc1"] + 0.5 * (numbers["fc2"] + numbers["fc3"]) + sum(coins(q, 0.3) for q in p["fc3.input"])
    )
    assert kl_of(elbo, model, guide, *batch()) == pytest.approx(by_hand, abs=1e-6)


@ELBOS
def test_slab_weights_add_the_kl_of_two_normals(elbo):
    guide = spread(HardConcreteGuide(gates_and_slab))
    with torch.no_grad():
        guide.get_parameter("loc.w").copy_(torch.tensor([0.0, 1.0, -2.0, 0.5]))
        guide.get_parameter("log_scale.w").copy_(torch.tensor([0.0, -1.0, 0.5, 0.2]))
        guide.get_parameter("loc.w0").fill_(0.3)
        guide.get_parameter("log_scale.w0").fill_(-0.7)

    def normals(loc, log_scale, prior_loc, prior_scale):
        ratio = math.exp(log_scale) / prior_scale
        return 0.5 * (ratio**2 + ((loc - prior_loc) / prior_scale) ** 2 - 1) - math.log(ratio)

    p = {name: gate.prob_nonzero.flatten().tolist() for name, gate in guide.gates().items()}
    by_hand = 0.3 * sum(p["z"]) + coins(p["z0"][0], 0.2) + normals(0.3, -0.7, -1.0, 0.5)
    by_hand += sum(
        normals(loc, log_scale, 1.0, 2.0) for loc, log_scale in [(0.0, 0.0), (1.0, -1.0), (-2.0, 0.5), (0.5, 0.2)]
    )
    assert elbo().loss(gates_and_slab, guide) == pytest.approx(by_hand, abs=1e-10)
