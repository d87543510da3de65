"""Posterior draws for ArviZ: a chain a guide."""

import numpy as np
import pytest
import torch
from posterior_guides import LOG_ALPHA, classifier, many_shapes, p_nonzero

from l0bayes import to_arviz
from l0bayes.inference import HardConcreteGuide

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
