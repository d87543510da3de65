"""The code cost of a whole network in the ELBO, against all patterns of its gates, counted by hand."""

import math
from fnmatch import fnmatchcase

import pyro
import pytest
import torch
from guide_models import batch, classifier, spread
from joint_cost_examples import EXAMPLES, alone, build, by_hand, kl, probabilities
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList

from l0bayes import HardConcrete
from l0bayes.errors import PathwiseGradientError
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, shrink

ELBOS = pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, ClosedFormKL_ELBO])
each_example = pytest.mark.parametrize("name", EXAMPLES)
each_cost = pytest.mark.parametrize("cost", ["parameters", "macs"])


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


@ELBOS
@each_example
@each_cost
def test_the_kls_of_a_network_are_its_expected_code_cost(elbo, name, cost):
    sparse, guide = build(name, code_cost=0.3, cost=cost)
    expected = 0.3 * by_hand(name, probabilities(guide), cost).item()
    assert kl(sparse, guide, elbo) == pytest.approx(expected, abs=1e-10)
    assert kl(sparse, guide, elbo, num_particles=3) == pytest.approx(expected, abs=1e-10)


@ELBOS
@each_example
@each_cost
def test_the_gradient_is_that_of_the_mean_over_all_patterns(elbo, name, cost):
    sparse, guide = build(name, code_cost=0.3, cost=cost)
    exact = torch.autograd.grad(0.3 * by_hand(name, probabilities(guide), cost), list(guide.parameters()))
    elbo().loss_and_grads(*alone(sparse, guide))
    torch.testing.assert_close([parameter.grad for parameter in guide.parameters()], list(exact))


@each_example
@each_cost
def test_parameters_cost_what_the_first_pattern_says_of_their_layer(name, cost):
    gates, code_costs = {}, {"norm": 0.9}  # the default's
    for number, layer in enumerate(["conv", "heads.out_proj", "heads", "fc1", "fc2", "fc3"]):
        matching = [word for pattern, word in EXAMPLES[name][2].items() if fnmatchcase(layer, pattern)]
        if layer in dict(EXAMPLES[name][0]().named_modules()):
            code_costs[layer] = 0.25 * number
            gates[f"{layer[:-1]}[{layer[-1]}]"] = {"gates": matching[0], "code_cost": code_costs[layer]}
    sparse, guide = build(name, code_cost=0.9, cost=cost, gates=gates | {"*": "weight"})
    expected = by_hand(name, probabilities(guide), cost, code_costs).item()
    assert kl(sparse, guide) == pytest.approx(expected, abs=1e-10)


def test_a_pattern_that_matches_a_norm_counts_for_it():
    sparse, guide = build("images", code_cost=0.9, gates={"fc[12]": "input", "*": {"gates": "unit", "code_cost": 0.2}})
    code_costs = {"conv": 0.2, "norm": 0.2, "fc1": 0.9, "fc2": 0.9}
    assert kl(sparse, guide) == pytest.approx(by_hand("images", probabilities(guide), "parameters", code_costs).item())


@ELBOS
def test_inclusion_adds_the_kl_of_two_coins_where_it_is_given(elbo):
    gates = {
        "con[v]": "unit",
        "fc[1]": {"gates": "input", "inclusion": 0.2},
        "fc[2]": {"gates": "input", "inclusion": 0.9},
    }
    sparse, guide = build("images", code_cost=0.3, gates=gates)
    probs = probabilities(guide)
    coins = [
        (p * (p / a).log() + (1 - p) * ((1 - p) / (1 - a)).log()).sum()
        for p, a in zip(probs[1:], (0.2, 0.9), strict=True)
    ]
    assert kl(sparse, guide, elbo) == pytest.approx((0.3 * by_hand("images", probs) + sum(coins)).item(), abs=1e-10)


def test_gates_start_at_init_open():
    sparse, _ = build(
        "mlp", gates={"fc1": {"gates": "unit", "init_open": 0.3}, "*": "unit"}, init_open=0.6, code_cost=1.0
    )
    expected = 4 * 0.3 * 3 + (0.3 * 3 + 1) * 0.6 * 2 + 2 * 0.6 * 2
    assert kl(sparse, HardConcreteGuide(sparse)) == pytest.approx(expected, abs=1e-10)


def test_removing_closed_units_for_good_changes_nothing():
    for name in EXAMPLES:
        for cost in ("parameters", "macs"):
            sparse, guide = build(name, cost=cost)
            with torch.no_grad():
                for parameter in guide.parameters():
                    parameter[0] = -60.0
            before = kl(sparse, guide)
            assert shrink(sparse, guide)
            assert kl(sparse, guide) == pytest.approx(before, abs=1e-10)


# -- guides of all kinds ----------------------------------------------------------------------------------------------


def by_sites(model, log_alphas, *, backwards=False):
    """A mean-field guide as a Pyro user writes it."""

    def guide(*_args):
        for group in reversed(model.net.groups) if backwards else model.net.groups:
            log_alpha = pyro.param(f"of {group.name}", log_alphas[group.name].detach().clone())
            pyro.sample(group.name, HardConcrete(log_alpha).to_event(1))

    return guide


@ELBOS
def test_a_guide_written_by_hand_costs_the_same_and_trains(elbo):
    model = classifier()
    automatic = spread(HardConcreteGuide(model))
    guide = by_sites(model, {name: gate.log_alpha for name, gate in automatic.gates().items()})
    losses = []
    for each in (automatic, guide):
        torch.manual_seed(3)
        losses.append(elbo().loss(model, each, *batch()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo())
    before = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    assert math.isfinite(svi.step(*batch()))
    assert all((pyro.param(name) != value).any() for name, value in before.items() if name.startswith("of "))


@ELBOS
def test_the_order_of_the_guides_sites_does_not_matter(elbo):
    model = classifier()
    log_alphas = {group.name: torch.full((group.size,), 60.0) for group in model.net.groups}  # no draw is random
    x, y = batch()
    loss = elbo().loss(model, by_sites(model, log_alphas), x, y)
    with pytest.warns(UserWarning, match="mean field restriction"):
        backwards = elbo().loss(model, by_sites(model, log_alphas, backwards=True), x, y)
    assert backwards == pytest.approx(loss)


def test_gates_shared_out_among_the_guides_of_a_list_cost_the_same():
    sparse, whole = build("mlp")

    def model():
        sparse.sample_latents()

    guide = AutoGuideList(model)
    for name in ("fc2.unit", "fc1.unit"):
        part = HardConcreteGuide(poutine.block(model, expose=[name]))
        guide.append(part)
        with torch.no_grad():
            part.parameter(f"log_alpha.{name}").copy_(whole.parameter(f"log_alpha.{name}"))
    with pytest.warns(UserWarning, match="mean field restriction"):
        assert TraceMeanField_ELBO().loss(model, guide) == pytest.approx(kl(sparse, whole), abs=1e-10)


@ELBOS
def test_a_scale_on_the_guide_scales_the_whole_cost(elbo):
    """As a warm-up of the KL needs it."""
    sparse, guide = build("images")
    model, draws = alone(sparse, guide)
    for scale in (0.25, 2.0):
        warming_up = poutine.scale(draws, scale=scale)
        assert elbo().loss(model, warming_up) == pytest.approx(scale * kl(sparse, guide), abs=1e-10)
    assert elbo().loss(model, poutine.mask(draws, mask=False)) == 0


@ELBOS
def test_an_observed_group_before_others_is_refused(elbo):
    model = classifier()
    guide = HardConcreteGuide(model)
    first = poutine.condition(model, {"fc1.input": torch.ones(6)})
    with pytest.raises(RuntimeError, match="together, and 1 of those before group 2 have no KL"):
        elbo().loss(first, poutine.block(guide, hide=["fc1.input"]), *batch())


@ELBOS
def test_an_observed_last_group_has_a_density_and_the_others_their_cost(elbo):
    model, (x, y) = classifier(), batch()
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.fill_(60.0)  # no draw is random
    last = poutine.condition(model, {"fc3.input": torch.ones(4)})
    rest = poutine.block(guide, hide=["fc3.input"])
    trace = poutine.trace(poutine.replay(last, poutine.trace(rest).get_trace(x, y))).get_trace(x, y)
    observed = trace.log_prob_sum(lambda _, site: site["is_observed"])
    others = 0.1 * model.net.live_cost().gated(
        {"fc1.input": torch.ones(6), "fc2.input": torch.ones(5), "fc3.input": torch.zeros(4)}
    )
    assert elbo().loss(last, rest, x, y) == pytest.approx((others - observed).item())


# -- precision, ELBOs that draw, priors -------------------------------------------------------------------------------


@ELBOS
def test_either_precision_and_moving_between_them(elbo):
    sparse, guide = build("images", code_cost=0.3)
    expected = 0.3 * by_hand("images", probabilities(guide)).item()
    assert kl(sparse, guide.float(), elbo) == pytest.approx(expected, rel=1e-6)
    assert guide.gates()["conv.unit"].log_alpha.dtype == torch.float32
    assert kl(sparse.float(), guide, elbo) == pytest.approx(expected, rel=1e-6)
    rounded = 0.3 * by_hand("images", probabilities(guide.double())).item()
    assert kl(sparse.double(), guide, elbo) == pytest.approx(rounded, abs=1e-10)


def test_single_precision_from_the_start():
    torch.set_default_dtype(torch.float32)
    sparse, guide = build("stream", code_cost=0.3)
    single = kl(sparse, guide)
    torch.set_default_dtype(torch.float64)
    assert single == pytest.approx(0.3 * by_hand("stream", probabilities(guide.double())).item(), rel=1e-6)


@pytest.mark.parametrize(
    "elbo", [Trace_ELBO(), TraceGraph_ELBO(), RenyiELBO(num_particles=2)], ids=lambda e: type(e).__name__
)
def test_elbos_that_draw_their_kl_evaluate_but_do_not_train(elbo):
    """Their log-density of the gates is that of the prior's own draws, whose odds are those of the cost of a group."""
    model = classifier()
    guide = HardConcreteGuide(model)
    assert math.isfinite(elbo.loss(model, guide, *batch()))
    with pytest.raises(PathwiseGradientError):
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo).step(*batch())


def test_a_costly_network_closes_without_data():
    sparse, guide = build("attention", code_cost=3.0)
    svi = SVI(*alone(sparse, guide), pyro.optim.Adam({"lr": 0.2}), TraceMeanField_ELBO())
    losses = [svi.step() for _ in range(60)]
    assert losses[-1] < 0.01 * losses[0]


def test_the_prior_without_a_guide():
    model = classifier(code_cost=0.5)
    x, y = batch()
    trace = poutine.trace(model).get_trace(x, y)
    draws = {name: site["value"] for name, site in trace.iter_stochastic_nodes() if name.startswith("fc")}
    assert all(set(draw.tolist()) <= {0.0, 1.0} for draw in draws.values())
    costs = {name: trace.nodes[name]["fn"].base_dist.code_cost for name in draws}
    assert costs["fc1.input"].tolist() == [0.0] * 6  # its weights are paid for by the units that they make
    assert costs["fc2.input"].tolist() == pytest.approx([0.5 * (draws["fc1.input"].sum().item() + 1)] * 5)
    assert costs["fc3.input"].tolist() == pytest.approx([0.5 * (draws["fc2.input"].sum().item() + 1 + 3)] * 4)
    assert trace.log_prob_sum().isfinite()


def test_predictive_of_the_prior_and_of_the_guide():
    model = classifier()
    x, _ = batch(9)
    for guide in (None, HardConcreteGuide(model)):
        samples = Predictive(model, guide=guide, num_samples=4)(x)
        assert samples["y"].shape == (4, 9)
        with pytest.raises(ValueError, match="parallel=False"):
            Predictive(model, guide=guide, num_samples=4, parallel=True)(x)


@ELBOS
def test_vectorised_particles_are_refused_with_the_remedy(elbo):
    model = classifier()
    with pytest.raises(ValueError, match="without vectorize_particles"):
        elbo(num_particles=2, vectorize_particles=True).loss(model, HardConcreteGuide(model), *batch())
