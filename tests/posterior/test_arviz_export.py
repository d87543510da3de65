"""Posterior draws for ArviZ: a chain a guide."""

import inspect
import sys
import types

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from posterior_guides import LOG_ALPHA, classifier, many_shapes, p_nonzero

from l0bayes import L0Prior, sparsify, to_arviz
from l0bayes.errors import DataError
from l0bayes.find_sparse import find_sparse
from l0bayes.inference import HardConcreteGuide, fit, predict, shrink
from l0bayes.models import MLP, Classifier, SpikeSlabRegression
from l0bayes.subnetwork.masked import masked_forward

# ArviZ 0.23 announces its own refactoring whenever it is imported.
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*ArviZ is undergoing:FutureWarning")


@pytest.fixture
def guide():
    return classifier()[1]


def test_one_guide_is_one_chain(guide):
    posterior = to_arviz(guide, num_samples=50).posterior
    assert set(posterior.data_vars) == {"fc1.input", "fc2.input"}
    assert posterior["fc1.input"].dims[:2] == ("chain", "draw")
    assert posterior["fc1.input"].shape == (1, 50, 4)
    assert posterior["fc2.input"].shape == (1, 50, 3)


def test_a_thousand_draws_are_the_default(guide):
    assert to_arviz(guide).posterior.sizes["draw"] == 1000


def test_draws_are_the_guides(guide):
    torch.manual_seed(3)
    posterior = to_arviz(guide, num_samples=20).posterior
    torch.manual_seed(3)
    for site, gate in guide.gates().items():
        assert np.array_equal(posterior[site].to_numpy()[0], gate.sample((20,)).detach().numpy())


def test_shares_of_open_gates_are_their_probabilities(guide):
    posterior = to_arviz(guide, num_samples=10_000).posterior
    share = (posterior["fc2.input"] != 0).mean(("chain", "draw")).to_numpy()
    expected = p_nonzero(torch.tensor(LOG_ALPHA["fc2.input"])).numpy()
    assert np.allclose(share, expected, atol=4 * 0.5 / 10_000**0.5)


def test_sites_of_every_shape_and_kind():
    posterior = to_arviz(HardConcreteGuide(many_shapes), num_samples=7).posterior
    shapes = {name: variable.shape for name, variable in posterior.data_vars.items()}
    assert shapes == {"z0": (1, 7), "z": (1, 7, 2, 3), "w": (1, 7, 2, 3), "scale": (1, 7)}
    assert (posterior["scale"] > 0).all()


def test_a_point_estimate_has_equal_draws():
    posterior = to_arviz(HardConcreteGuide(many_shapes, others="point"), num_samples=7).posterior
    assert (posterior["w"] == posterior["w"][:, :1]).all()


def closed_and_open():
    """Two guides, every gate of the first closed, every gate of the second open."""
    guides = [classifier()[1] for _ in range(2)]
    with torch.no_grad():
        for guide, value in zip(guides, (-50.0, 50.0), strict=True):
            for parameter in guide.parameters():
                parameter.fill_(value)
    return guides


@pytest.mark.parametrize("collection", [list, tuple, lambda guides: dict(zip("ab", guides, strict=True))])
def test_several_guides_are_chains_in_their_order(collection):
    posterior = to_arviz(collection(closed_and_open()), num_samples=9).posterior
    assert posterior["fc1.input"].shape == (2, 9, 4)
    assert (posterior["fc1.input"][0] == 0).all()
    assert (posterior["fc1.input"][1] == 1).all()


def test_arviz_understands_it(guide):
    import arviz as az  # noqa: PLC0415 (heavy)

    with torch.no_grad():  # a gate that never moves has no R-hat
        guide.parameter("log_alpha.fc1.input").copy_(torch.tensor([-1.0, -0.3, 0.5, 1.0]))
    other = classifier()[1]
    other.load_state_dict(guide.state_dict())
    summary = az.summary(to_arviz([guide, other], num_samples=2000), round_to=None)
    assert len(summary) == 7
    expected = torch.cat([gate.mean for gate in guide.gates().values()]).detach()
    assert np.allclose(summary["mean"], expected, atol=0.05)
    assert (summary["r_hat"] < 1.02).all()


def test_r_hat_tells_seeds_that_disagree():
    import arviz as az  # noqa: PLC0415 (heavy)

    guides = [classifier()[1] for _ in range(2)]
    with torch.no_grad():
        for guide, value in zip(guides, (-2.0, 2.0), strict=True):
            for parameter in guide.parameters():
                parameter.fill_(value)
    assert (az.rhat(to_arviz(guides, num_samples=1000))["fc1.input"] > 1.2).all()


@pytest.mark.parametrize("num_samples", [0, -1])
def test_too_few_draws(guide, num_samples):
    with pytest.raises(ValueError, match=f"num_samples >= 1; got 1, {num_samples}"):
        to_arviz(guide, num_samples=num_samples)


@pytest.mark.parametrize("nothing", [[], {}, ()])
def test_no_guides(nothing):
    with pytest.raises(ValueError, match="at least one guide"):
        to_arviz(nothing)


def test_guides_of_different_models(guide):
    with pytest.raises(ValueError, match=r"same (model|sites)"):
        to_arviz([guide, HardConcreteGuide(many_shapes)], num_samples=5)


# -- with data ----------------------------------------------------------------------------------------------------


def data_of(rows=6):
    torch.manual_seed(0)
    return torch.randn(rows, 4), torch.arange(rows) % 2


def test_log_likelihoods_are_those_of_the_same_draws():
    """Each draw's gates, run as a masked network, without the scale of a mini-batch (num_data is 10 here)."""
    model, guide = classifier()
    x, y = data_of()
    idata = to_arviz(guide, num_samples=8, data=(x, y))
    sparse = find_sparse(model)
    posterior, found = idata["posterior"], idata["log_likelihood"]["y"]
    assert found.dims == ("chain", "draw", "y_datum")
    for draw in range(8):
        gates = {g.name: torch.tensor(posterior[g.name].to_numpy()[0, draw]) for g in sparse.groups}
        output = masked_forward(sparse.net, sparse.groups, gates, x)
        expected = -torch.nn.functional.cross_entropy(output, y, reduction="none").detach()
        np.testing.assert_allclose(found[0, draw], expected, atol=1e-5)
    assert np.array_equal(idata["observed_data"]["y"], y)
    assert set(np.unique(idata["posterior_predictive"]["y"])) <= {0, 1}


def test_replicates_come_from_the_predictive():
    model, guide = classifier()
    x, y = data_of()
    torch.manual_seed(0)
    idata = to_arviz(guide, num_samples=4000, data=(x, y))
    torch.manual_seed(1)
    probs = predict(model, guide, x, gates="sample", num_samples=4000).softmax(-1).mean(0)[:, 1]
    found = idata["posterior_predictive"]["y"].mean(("chain", "draw")).to_numpy()
    np.testing.assert_allclose(found, probs, atol=4.5 * 0.5 * (2 / 4000) ** 0.5)


def test_nothing_is_left_changed():
    model, guide = classifier()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stored = set(pyro.get_param_store().keys())
    to_arviz(guide, num_samples=3, data=data_of(), weights="*")
    assert model.training
    assert set(pyro.get_param_store().keys()) == stored
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_with_their_gates():
    model, guide = classifier()
    idata = to_arviz(guide, num_samples=5, weights=["fc1.*", "fc2.weight"])
    posterior, net = idata["posterior"], find_sparse(model).net
    assert {"fc1.weight", "fc1.bias", "fc2.weight"} <= set(posterior.data_vars)
    assert "fc2.bias" not in posterior
    inputs, hidden = (posterior[name].to_numpy()[0] for name in ("fc1.input", "fc2.input"))
    rows, columns = (hidden != 0)[:, :, None], inputs[:, None, :]
    np.testing.assert_allclose(posterior["fc1.weight"][0], net.fc1.weight.detach().numpy() * rows * columns, rtol=1e-6)
    np.testing.assert_allclose(posterior["fc2.weight"][0], net.fc2.weight.detach().numpy() * hidden[:, None], rtol=1e-6)


def test_weights_that_are_normal_are_those_of_the_run():
    """One draw of weights for a draw of the posterior, in the variables and in the log-likelihood alike."""
    torch.manual_seed(0)
    x, y = data_of()
    model = Classifier(sparsify(MLP(4, 3, 2), x, gates="input", slab="normal", inclusion=0.5), num_data=6)
    guide = HardConcreteGuide(model)
    idata = to_arviz(guide, num_samples=4, data=(x, y), weights="*")
    values = {name: torch.tensor(value.to_numpy()[0]) for name, value in idata["posterior"].data_vars.items()}
    for draw in range(4):
        hidden = (x @ values["fc1.weight"][draw].T + values["fc1.bias"][draw]).relu()
        output = hidden @ values["fc2.weight"][draw].T + values["fc2.bias"][draw]
        expected = -torch.nn.functional.cross_entropy(output, y, reduction="none")
        np.testing.assert_allclose(idata["log_likelihood"]["y"][0, draw], expected, atol=1e-5)


def regression(seed=0, columns=("age", "bmi", "bp")):
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(90, 3)), columns=["age", "bmi", "bp"])
    y = x["bmi"] + 0.5 * rng.normal(size=90)
    model = SpikeSlabRegression(x[list(columns)], y, noise_scale=0.5)
    torch.manual_seed(seed)
    guide = HardConcreteGuide(model, init_open=0.5)
    fit(model, guide, [model.data], epochs=300, lr=0.05, gate_lr=0.05, progress=False)
    return model, guide


def test_a_regression_has_names():
    model, guide = regression()
    idata = to_arviz({"first": guide, "second": guide}, num_samples=40, data=())
    posterior = idata["posterior"]
    assert posterior["slab"].dims == ("chain", "draw", "predictor")
    assert posterior["predictor"].to_numpy().tolist() == ["age", "bmi", "bp"]
    assert posterior["chain"].to_numpy().tolist() == [0, 1]
    assert posterior.attrs["chains"] == ["first", "second"]
    draw = {site: torch.tensor(posterior[site].to_numpy()[1, 3]) for site in ("gate", "slab", "coefficient")}
    x, y = model.data
    torch.testing.assert_close(draw["coefficient"], draw["gate"] * draw["slab"])
    output = model.intercept + (x - x.mean(0)) @ draw["coefficient"]  # in the user's units
    expected = torch.distributions.Normal(output, 0.5).log_prob(y)
    np.testing.assert_allclose(idata["log_likelihood"]["y"][1, 3], expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # ArviZ 0.23 calls matplotlib and pandas in ways that they are about to leave
def test_arviz_summarises_plots_and_compares():
    import arviz as az  # noqa: PLC0415 (heavy)
    import matplotlib.pyplot as plt  # noqa: PLC0415

    idata = to_arviz({f"seed {seed}": regression(seed)[1] for seed in (0, 1)}, num_samples=200, data=())
    summary = az.summary(idata, var_names=["gate", "slab"])
    assert "gate[bmi]" in summary.index
    of_0x = {"r_hat": True} if "r_hat" in inspect.signature(az.plot_forest).parameters else {}
    az.plot_forest(idata, var_names=["gate"], **of_0x)
    az.plot_forest(idata, var_names=["gate"], combined=False)
    az.plot_trace(idata, var_names=["slab"])
    plt.close("all")
    without = to_arviz(regression(columns=("age", "bp"))[1], num_samples=200, data=())
    comparison = az.compare({"with bmi": idata, "without": without})
    assert comparison.index[0] == "with bmi"


def test_attributes_say_what_r_hat_means(guide):
    attributes = to_arviz(guide, num_samples=2)["posterior"].attrs
    assert "R-hat across chains says whether the guides" in attributes["r_hat"]
    assert attributes["inference_library"] == "l0bayes"


def test_gates_of_a_shrunk_network_keep_their_numbers():
    torch.manual_seed(0)
    model = Classifier(sparsify(MLP(4, 3, 2), torch.zeros(2, 4)), num_data=10)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.unit")[1] = -30
    shrink(model, guide)
    assert to_arviz(guide, num_samples=2)["posterior"]["fc1.unit_gate"].to_numpy().tolist() == [0, 2]


def test_data_with_nothing_observed(guide):
    with pytest.raises(DataError, match=r"site 'y' is neither observed nor in the guide"):
        to_arviz(guide, num_samples=2, data=(torch.zeros(3, 4),))


def test_a_part_of_the_data():
    def model(x, y):
        z = pyro.sample("z", L0Prior(0.1))
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("y", dist.Normal(z * x[rows], 1.0), obs=y[rows])

    data = (torch.zeros(5), torch.zeros(5))
    with pytest.raises(DataError, match="plate 'data' takes 2 of 5 data"):
        to_arviz(HardConcreteGuide(model, args=data), num_samples=2, data=data)


def test_weights_that_are_not_there(guide):
    with pytest.raises(ValueError, match=r"weights: the pattern 'conv\*' matches none of fc1.weight"):
        to_arviz(guide, num_samples=2, weights="conv*")


def test_the_data_tree_of_arviz_1(monkeypatch):
    """ArviZ 1's from_dict is that of arviz-base, which there is for older versions of Python too."""
    base = pytest.importorskip("arviz_base")
    arviz = types.ModuleType("arviz")
    arviz.__version__, arviz.from_dict = "1.0.0", base.from_dict
    monkeypatch.setitem(sys.modules, "arviz", arviz)
    tree = to_arviz({"a": regression()[1]}, num_samples=10, data=())
    assert type(tree).__name__ == "DataTree"
    assert set(tree.children) == {"posterior", "posterior_predictive", "log_likelihood", "observed_data"}
    assert tree["posterior"]["slab"].dims == ("chain", "draw", "predictor")
    assert "r_hat" in tree["posterior"].attrs
