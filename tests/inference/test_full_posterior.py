"""The full spike-and-slab posterior of networks, against posteriors that are known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from torch import nn

from l0bayes import SpikeAndSlabPrior, gate_table, sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, TensorBatches, fit, load, predict, save
from l0bayes.models import MLP, Classifier, Regressor, SpikeSlabRegression
from l0bayes.models.exact_posterior import exact_posterior

NOISE, SLAB = 0.7, 0.5


def linear_data(n=60, p=4):
    """Orthogonal columns of unit variance, so that mean field is exact."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(n, p + 1, generator=generator, dtype=torch.float64)
    raw[:, 0] = 1
    x = torch.linalg.qr(raw)[0][:, 1:] * n**0.5
    y = x @ torch.tensor([0.6, 0.0, 0.2, 0.0], dtype=torch.float64)
    y = y + NOISE * torch.randn(n, generator=generator, dtype=torch.float64)
    return x, (y - y.mean())[:, None]


class Line(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.line = nn.Linear(inputs, 1, bias=False).double()

    def forward(self, x):
        return self.line(x)


def fitted(inclusion, x, y, *, epochs=1500, lr=0.02, init_open=0.5):
    torch.manual_seed(0)
    sparse = sparsify(Line(x.shape[1]), x[:2], gates="input", slab="normal", slab_scale=SLAB, inclusion=inclusion)
    model = Regressor(sparse, num_data=len(x), noise_scale=NOISE)
    guide = HardConcreteGuide(model, init_open=init_open)
    options = {"epochs": epochs, "lr": lr, "gate_lr": lr, "schedule": "cosine", "progress": False}
    fit(model, guide, [(x, y)], **options)
    return model, guide, sparse


def test_open_gates_leave_the_exact_normal_posterior():
    """With gates that are open for certain it is Bayesian linear regression, whose posterior is known."""
    x, y = linear_data()
    model, guide, sparse = fitted(1 - 1e-6, x, y, epochs=1000, init_open=0.999)
    assert min(guide.gates()["line.input"].prob_one) > 0.95
    precision = len(x) / NOISE**2 + 1 / SLAB**2
    mean = (x * y).sum(0) / NOISE**2 / precision
    torch.testing.assert_close(sparse.net.line.weight.detach()[0], mean, atol=0.01, rtol=0)
    torch.testing.assert_close(
        sparse._slab.sd()["line.weight"].detach()[0], torch.full_like(mean, precision**-0.5), rtol=0.05, atol=0
    )
    assert model.num_data == len(x)


def test_gates_of_a_network_are_those_of_the_regression_and_near_the_truth():
    """The same model written twice: as a network with normal weights, and as a regression; and all 2^p subsets.

    A relaxed gate is off by about 0.1 by itself; see the README's table for what is better.
    """
    x, y = linear_data()
    _, guide, _ = fitted(0.5, x, y)
    found = torch.tensor(gate_table(guide)["p_nonzero"].to_numpy())
    torch.manual_seed(0)
    regression = SpikeSlabRegression(x, y[:, 0], noise_scale=NOISE, slab_scale=SLAB)
    other = HardConcreteGuide(regression, init_open=0.5)
    fit(
        regression,
        other,
        [regression.data],
        epochs=1500,
        lr=0.02,
        gate_lr=0.02,
        schedule="cosine",
        progress=False,
    )
    torch.testing.assert_close(found.double(), other.gates()["gate"].prob_nonzero.detach().double(), atol=0.08, rtol=0)
    exact = torch.tensor(exact_posterior(x, y[:, 0], NOISE, SLAB).inclusion)
    assert (found - exact).abs().max() < 0.2
    assert ((found > 0.5) == (exact > 0.5)).all()


def test_a_latent_inclusion_is_conjugate_given_the_gates():
    """q(π) is Beta(a + Σ P, b + Σ (1 − P)) at the optimum, for it meets the gates alone."""
    x, y = linear_data()
    model, guide, sparse = fitted(dist.Beta(2.0, 3.0), x, y, epochs=1500)
    assert sparse.prior.inclusion_sites == ("inclusion.line.input",)
    probs = guide.gates()["line.input"].prob_nonzero.detach().sum()
    found = guide.distributions()["inclusion.line.input"]
    assert found.concentration1.item() == pytest.approx(2 + probs.item(), rel=0.1)
    assert found.concentration0.item() == pytest.approx(3 + 4 - probs.item(), rel=0.1)
    assert model.num_data == len(x)


def test_beta_sites_of_plain_models_have_closed_kls():
    def model():
        pi = pyro.sample("pi", dist.Beta(2.0, 5.0))
        with pyro.plate("gates", 3):
            pyro.sample("z", SpikeAndSlabPrior(pi))

    guide = HardConcreteGuide(model)
    beta = guide.distributions()["pi"]
    assert (beta.concentration1.item(), beta.concentration0.item()) == (pytest.approx(2), pytest.approx(5))
    torch.manual_seed(0)
    loss = ClosedFormKL_ELBO(num_particles=2000)(model, guide)()
    # At q(π) = p(π) what is left is E_π Σ KL(P ‖ π), with E log π = ψ(2) − ψ(7).
    prob = guide.gates()["z"].prob_nonzero[0].double()
    mean_log = torch.special.digamma(torch.tensor([2.0, 5.0]).double()) - torch.special.digamma(torch.tensor(7.0))
    entropy = -(prob * prob.log() + (1 - prob) * (1 - prob).log())
    expected = 3 * (-entropy - prob * mean_log[0] - (1 - prob) * mean_log[1])
    assert loss.item() == pytest.approx(expected.item(), abs=0.17)  # 4 standard errors
    median, low = guide.median()["pi"], guide.quantiles([0.1, 0.9])["pi"][0]
    torch.manual_seed(0)
    assert (beta.sample((40_000,)) < median).float().mean().item() == pytest.approx(0.5, abs=0.012)
    assert (beta.sample((40_000,)) < low).float().mean().item() == pytest.approx(0.1, abs=0.008)


def digits_like():
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    return x, (x[:, 0] > 0).long()


def network(**options):
    torch.manual_seed(0)
    x, _ = digits_like()
    sparse = sparsify(MLP(6, 8, 2), x[:2], gates="input", slab="normal", **{"inclusion": 0.5, **options})
    model = Classifier(sparse, num_data=64)
    return model, HardConcreteGuide(model)


def test_stock_svi_trains_it():
    x, y = digits_like()
    model, guide = network()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
    for _ in range(3):
        svi.step(x, y)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == set(before)


def test_evaluation_draws_weights_and_points_are_means():
    x, _ = digits_like()
    model, guide = network()
    point = predict(model, guide, x)
    assert torch.equal(point, predict(model, guide, x, batch_size=7)) or torch.allclose(point, predict(model, guide, x))
    torch.manual_seed(1)
    draws = predict(model, guide, x, gates="sample", num_samples=3, batch_size=64)
    torch.manual_seed(1)
    torch.testing.assert_close(draws, predict(model, guide, x, gates="sample", num_samples=3, batch_size=5))
    assert not torch.allclose(draws[0], draws[1])
    model.eval()
    drawn = Predictive(model, guide=guide, num_samples=2)(x)
    assert drawn["y"].shape == (2, 64)


def test_it_resumes_and_is_stored(tmp_path):
    x, y = digits_like()
    ends = []
    for stops in ([4], [2, 4]):
        torch.manual_seed(0)
        file = tmp_path / f"{len(stops)}.checkpoint"
        for epochs in stops:
            model, guide = network(inclusion=dist.Beta(1.0, 1.0))
            options = {"epochs": epochs, "checkpoint": file, "progress": False, "schedule": "constant"}
            fit(model, guide, TensorBatches(x, y, 16, shuffle=True), **options)
        ends.append({**model.state_dict(), **{f"guide.{k}": v for k, v in guide.state_dict().items()}})
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(name.startswith("net.log_sd.") for name in ends[0])
    save(model, tmp_path / "model.safetensors")
    other = load(tmp_path / "model.safetensors", network()[0])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_fine_tuning_keeps_what_is_known_of_the_inclusion():
    x, y = digits_like()
    model, guide = network(inclusion=dist.Beta(1.0, 1.0))
    loader = TensorBatches(x, y, 16, shuffle=True)
    fit(model, guide, loader, epochs=3, progress=False)
    before = {name: value.detach().clone() for name, value in guide.named_parameters()}
    fit(model, guide, loader, epochs=3, fine_tune=2, progress=False)
    model, guide = network(inclusion=dist.Beta(1.0, 1.0))
    result = fit(model, guide, loader, epochs=2, fine_tune=3, progress=False)
    assert len(result.history) == 5
    assert before.keys() == dict(guide.named_parameters()).keys()


def test_bfloat16_runs():
    x, y = digits_like()
    model, guide = network()
    result = fit(model, guide, TensorBatches(x, y, 16), epochs=2, bf16=True, progress=False)
    assert result.history["elbo"].notna().all()


def test_noise_can_be_learned():
    x, y = linear_data(n=400)
    torch.manual_seed(0)
    model = Regressor(Line(4), num_data=400, noise_scale=None)
    guide = HardConcreteGuide(model)
    fit(model, guide, [(x, y)], epochs=600, lr=0.02, progress=False)
    rest = (y - x @ torch.linalg.lstsq(x, y).solution).square().mean().sqrt()
    assert model.noise_scale.item() == pytest.approx(rest.item(), rel=0.01)


def test_drawn_weights_are_not_compiled():
    x, y = digits_like()
    model, guide = network()
    with pytest.raises(ValueError, match="compile is for weights that are points"):
        fit(model, guide, TensorBatches(x, y, 16), epochs=1, compile=True, progress=False)
