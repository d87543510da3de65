"""What a run reports, against numbers worked out by hand."""

import math

import pytest
import torch
from drawn import fit
from torch.nn.functional import cross_entropy
from toy_problem import ROWS, SIZES, blobs, loader, pair

from l0bayes.inference import TensorBatches
from l0bayes.subnetwork.masked import masked_forward

CODE_COST = 0.1
ALL_GATED = (6 * 5 + 5) + (5 * 4 + 4) + 4 * 3  # of SIZES = 6, 5, 4, 3; biases of the output have no gates


def p_nonzero(log_alpha):
    return torch.sigmoid(log_alpha - 2 / 3 * math.log(0.1 / 1.1))


def kl(guide):
    """A weight is paid for while the gates of its input and its output are open, a bias while that of its unit is."""
    inputs, first, second = (p_nonzero(guide.parameter(f"log_alpha.fc{layer}.input")).sum() for layer in (1, 2, 3))
    return CODE_COST * ((inputs + 1) * first + (first + 1) * second + second * SIZES[3])


def test_columns_of_a_gated_network():
    model, guide = pair()
    result = fit(model, guide, loader(), epochs=3, validation_loader=loader(), progress=False)
    columns = [
        "epoch",
        "phase",
        "elbo",
        "seconds",
        "steps",
        "expected_l0",
        "open_l0",
        "expected_macs",
        "open_gates",
        "validation_error",
    ]
    assert list(result.history.columns) == columns
    assert result.history["epoch"].tolist() == [1, 2, 3]
    assert (result.history["seconds"] > 0).all()
    assert result.checkpoint is None


def test_without_validation_data_there_is_no_such_column():
    model, guide = pair()
    assert "validation_error" not in fit(model, guide, loader(), epochs=1, progress=False).history


def test_elbo_with_every_gate_open():
    """Nothing is random then: log-likelihood minus the code cost of every parameter that a gate decides over."""
    model, guide = pair()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.fill_(50.0)
        x, y = blobs()
        expected = -cross_entropy(model.net.net(x), y, reduction="sum") - CODE_COST * ALL_GATED
    history = fit(model, guide, [(x, y)], epochs=1, progress=False).history
    assert history["elbo"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("rows", [ROWS, 20])
def test_elbo_is_the_mean_over_draws_scaled_to_the_data_set(rows, num_particles):
    model, guide = pair()
    x, y = (part[:rows] for part in blobs())
    with torch.no_grad():
        torch.manual_seed(11)
        draws = [{site: gate.sample() for site, gate in guide.gates().items()} for _ in range(num_particles)]
        outputs = [masked_forward(model.net.net, model.net.groups, z, x) for z in draws]
        losses = [ROWS / rows * cross_entropy(output, y, reduction="sum") for output in outputs]
        expected = -sum(losses) / num_particles - kl(guide)
    torch.manual_seed(11)
    history = fit(model, guide, [(x, y)], epochs=1, num_particles=num_particles, progress=False).history
    assert history["elbo"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_elbo_of_an_epoch_is_the_mean_of_its_own_steps():
    """With rates that move nothing visibly, and nothing random, batches of one size average to the whole."""
    model, guide = pair()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.fill_(50.0)
    options = {"epochs": 2, "lr": 1e-12, "gate_lr": 1e-12, "progress": False}
    whole, halves = (
        fit(model, guide, TensorBatches(*blobs(), size), **options).history["elbo"].tolist() for size in (50, 25)
    )
    assert whole == pytest.approx([whole[0]] * 2, rel=1e-6)
    assert halves == pytest.approx(whole, rel=1e-5)


def test_expected_l0_and_open_gates():
    model, guide = pair()
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.input").copy_(torch.tensor([-9.0, -2.5, -2.3, 0.0, 2.0, 9.0]))
    row = fit(model, guide, loader(), epochs=1, gate_lr=1e-4, progress=False).history.iloc[0]
    assert row["expected_l0"] == pytest.approx(kl(guide).item() / CODE_COST, rel=1e-5)
    # sigmoid(log α) · 1.2 − 0.1 > 0 for log α > −log 11 = −2.398; gates of the other layers start at −0.2
    assert row["open_gates"] == 4 + SIZES[1] + SIZES[2]


def test_validation_error_is_that_of_the_finished_epoch():
    model, guide = pair()
    x, y = blobs()
    row = fit(model, guide, loader(), epochs=2, lr=1e-2, validation_loader=[(x, y)], progress=False).history.iloc[-1]
    with torch.no_grad():
        output = masked_forward(model.net.net, model.net.groups, guide.point(), x)
    assert row["validation_error"] == pytest.approx((output.argmax(-1) != y).float().mean().item())
