"""Where gates start: P(z != 0) is exactly what was asked for."""

import math

import pyro
import pytest
import torch
from guide_models import classifier, gates_and_slab

from l0bayes import HardConcrete, L0Prior
from l0bayes.inference import HardConcreteGuide


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def open_shares(guide):
    """P(z != 0) by hand (paper, eq. 12), checked to be one number a site."""
    shares = {}
    for name, gate in guide.gates().items():
        shift = gate.beta * (-gate.gamma / gate.zeta).log()
        share = torch.sigmoid(gate.log_alpha - shift).flatten()
        assert torch.equal(share, share[:1].expand(len(share)))
        shares[name] = share[0].item()
    return shares


@pytest.mark.parametrize("share", [1e-6, 0.05, 0.5, 0.8, 0.999999])
def test_one_number_for_all(share):
    shares = open_shares(HardConcreteGuide(gates_and_slab, init_open=share))
    assert shares == {"z": pytest.approx(share, rel=1e-12), "z0": pytest.approx(share, rel=1e-12)}


def test_the_default_is_four_fifths():
    assert open_shares(HardConcreteGuide(gates_and_slab)) == {
        "z": pytest.approx(0.8),
        "z0": pytest.approx(0.8),
    }


@pytest.mark.parametrize(("beta", "gamma", "zeta"), [(2 / 3, -0.1, 1.1), (0.1, -0.5, 1.01), (3.0, -0.01, 2.0)])
def test_any_stretch(beta, gamma, zeta):
    guide = HardConcreteGuide(gates_and_slab, init_open=0.3, beta=beta, gamma=gamma, zeta=zeta)
    gate = guide.gates()["z"]
    assert [t.flatten()[0].item() for t in (gate.beta, gate.gamma, gate.zeta)] == [beta, gamma, zeta]
    assert gate.log_alpha[0].item() == pytest.approx(math.log(0.3 / 0.7) + beta * math.log(-gamma / zeta), rel=1e-12)
    assert open_shares(guide)["z"] == pytest.approx(0.3, rel=1e-12)


def test_the_stretch_reaches_draws_points_and_quantiles():
    stretch = {"beta": 0.3, "gamma": -0.4, "zeta": 1.2}
    guide = HardConcreteGuide(gates_and_slab, **stretch)
    gate = HardConcrete(guide.gates()["z"].log_alpha.detach(), **stretch)
    assert torch.equal(guide.point("median")["z"], gate.point("median"))
    torch.testing.assert_close(guide.quantiles([0.3])["z"][0], gate.icdf(torch.tensor(0.3)))
    torch.manual_seed(3)
    drawn = guide()["z"]
    torch.manual_seed(3)
    assert torch.equal(drawn, gate.rsample())


def test_patterns_by_site_first_match_wins():
    shares = open_shares(HardConcreteGuide(classifier(), init_open={"fc2*": 0.2, "*.input": 0.6}))
    expected = {"fc1.input": 0.6, "fc2.input": 0.2, "fc3.input": 0.6}
    assert shares == {name: pytest.approx(share, rel=1e-12) for name, share in expected.items()}


def test_sites_that_no_pattern_matches_start_at_four_fifths():
    shares = open_shares(HardConcreteGuide(classifier(), init_open={"fc2*": 0.2}))
    expected = {"fc1.input": 0.8, "fc2.input": 0.2, "fc3.input": 0.8}
    assert shares == {name: pytest.approx(share, rel=1e-12) for name, share in expected.items()}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 1.5, math.nan, math.inf])
def test_shares_outside_the_open_interval_are_refused(share):
    with pytest.raises(ValueError, match=r"init_open must be in \(0, 1\)"):
        HardConcreteGuide(gates_and_slab, init_open=share)
    with pytest.raises(ValueError, match=r"init_open.*'z'"):
        HardConcreteGuide(gates_and_slab, init_open={"z": share})


def test_a_pattern_that_matches_no_gate_is_refused_with_the_sites():
    with pytest.raises(ValueError, match=r"'conv\*'.*'z', 'z0'"):
        HardConcreteGuide(gates_and_slab, init_open={"conv*": 0.5, "z": 0.5} | {"conv": 0.4})
    with pytest.raises(ValueError, match="'w'"):  # a site, but not of gates
        HardConcreteGuide(gates_and_slab, init_open={"w": 0.5})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_have_the_default_dtype(dtype):
    torch.set_default_dtype(dtype)
    guide = HardConcreteGuide(gates_and_slab)
    assert {parameter.dtype for parameter in guide.parameters()} == {dtype}


def test_gates_start_alike_whatever_the_prior_says():
    def model():
        pyro.sample("z", L0Prior(torch.tensor([0.0, 1.0, 1000.0])).to_event(1))

    assert open_shares(HardConcreteGuide(model, init_open=0.5)) == {"z": pytest.approx(0.5)}
