"""The table of gates, against the formulas of the paper."""

import math

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from posterior_guides import LOG_ALPHA, classifier, many_shapes, p_nonzero

from l0bayes import HardConcrete, gate_table
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import SpikeSlabRegression

MOMENTS = ["p_nonzero", "p_one", "mean", "sd", "mean_open", "sd_open"]
POINTS = ["point_paper", "point_median", "point_mean", "point", "open"]
COLUMNS = ["site", "layer", "group", "index", *MOMENTS, *POINTS]
ALL = torch.tensor(LOG_ALPHA["fc1.input"] + LOG_ALPHA["fc2.input"], dtype=torch.float64)


def close(column, expected, tolerance=1e-6):
    torch.testing.assert_close(torch.tensor(column.to_numpy()).double(), expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def guide():
    return classifier()[1]


def test_a_row_a_gate(guide):
    table = gate_table(guide)
    assert list(table.columns) == COLUMNS
    assert table["site"].tolist() == ["fc1.input"] * 4 + ["fc2.input"] * 3
    assert table["layer"].tolist() == ["fc1"] * 4 + ["fc2"] * 3
    assert table["index"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert isinstance(table.index, pd.RangeIndex)
    assert table["open"].dtype == bool


def test_probabilities(guide):
    table = gate_table(guide)
    close(table["p_nonzero"], p_nonzero(ALL))
    close(table["p_one"], 1 - torch.sigmoid(2 / 3 * math.log(1.1 / 0.1) - ALL))


def test_moments(guide):
    """E[z] = ∫ P(z > t) dt and E[z²] = ∫ 2t P(z > t) dt, by the midpoint rule."""
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    logit = 2 / 3 * torch.log((t + 0.1) / (1.1 - t))
    above = torch.sigmoid(ALL[:, None] - logit)
    mean, square = above.mean(1), (2 * t * above).mean(1)
    table = gate_table(guide)
    close(table["mean"], mean)
    close(table["sd"], (square - mean.square()).clamp(min=0).sqrt(), tolerance=1e-4)


def test_moments_given_open(guide):
    """Of a million draws; six standard errors. A gate at log α = −20 is open in no draw."""
    table = gate_table(guide)
    draws = torch.cat([gate.sample((1_000_000,)) for gate in guide.gates().values()], 1).double()
    for row, values in zip(table.itertuples(), draws.T, strict=True):
        opened = values[values != 0]
        if len(opened) > 1000:
            error = float(opened.std()) / math.sqrt(len(opened))
            assert row.mean_open == pytest.approx(float(opened.mean()), abs=6 * error + 1e-6)
            assert row.sd_open == pytest.approx(float(opened.std()), rel=0.02, abs=1e-3)
    assert 0 < table["mean_open"][0] < 1


def test_the_papers_gate_is_the_default(guide):
    point = (torch.sigmoid(ALL) * 1.2 - 0.1).clamp(0, 1)
    table = gate_table(guide)
    close(table["point"], point)
    assert table["open"].tolist() == (point > 0).tolist() == [False, True, True, True, False, True, True]


def test_the_median(guide):
    point = (torch.sigmoid(ALL * 3 / 2) * 1.2 - 0.1).clamp(0, 1)
    table = gate_table(guide, rule="median")
    close(table["point"], point)
    assert table["open"].tolist() == (point > 0).tolist() == [False, False, True, True, False, True, True]


def test_the_mean_closes_nothing(guide):
    table = gate_table(guide, rule="mean")
    assert table["point"].tolist() == table["mean"].tolist()
    assert table["open"].all()


def test_an_unknown_rule(guide):
    with pytest.raises(ValueError, match="rule must be one of paper, median, mean; got 'mode'"):
        gate_table(guide, rule="mode")


def test_extreme_gates_stay_numbers(guide):
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.input").copy_(torch.tensor([-1e4, -80.0, 80.0, 1e4]))
    table = gate_table(guide).iloc[:4]
    assert table["p_nonzero"].tolist() == [0, pytest.approx(0, abs=1e-30), 1, 1]
    assert (table["sd"] >= 0).all()
    assert table["point"].tolist() == [0, 0, 1, 1]


def test_sites_of_no_and_of_two_dimensions():
    """Gates of a matrix are numbered row by row; other sites are not in the table."""
    guide = HardConcreteGuide(many_shapes)
    with torch.no_grad():
        guide.parameter("log_alpha.z").copy_(torch.arange(6.0).reshape(2, 3))
    table = gate_table(guide)
    assert table["site"].tolist() == ["z0"] + ["z"] * 6
    assert table["layer"].tolist() == ["z0"] + ["z"] * 6
    assert table["index"].tolist() == [0, 0, 1, 2, 3, 4, 5]
    close(table["p_nonzero"].iloc[1:], p_nonzero(torch.arange(6.0).double()))


def test_the_guides_own_stretch_counts():
    guide = HardConcreteGuide(many_shapes, beta=0.5, gamma=-0.2, zeta=1.3, init_open=0.7)
    gate = HardConcrete(guide.parameter("log_alpha.z0").detach(), 0.5, -0.2, 1.3)
    row = gate_table(guide).iloc[0]
    assert row["p_nonzero"] == pytest.approx(0.7, rel=1e-6)
    assert row["mean"] == pytest.approx(gate.mean.item())
    assert row["p_one"] == pytest.approx(gate.prob_one.item())


def test_a_guide_without_gates():
    guide = HardConcreteGuide(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)))
    with pytest.raises(ValueError, match="no gate sites"):
        gate_table(guide)


def test_a_guide_that_has_not_seen_data():
    guide = HardConcreteGuide(lambda x: pyro.sample("w", dist.Normal(x, 1.0)))
    with pytest.raises(RuntimeError, match="Call it once"):
        gate_table(guide)


def test_points_by_every_rule(guide):
    for rule in ("paper", "median", "mean"):
        table = gate_table(guide, rule)
        expected = torch.cat([gate.point(rule) for gate in guide.gates().values()]).double()
        close(table[f"point_{rule}"], expected)
        close(table["point"], expected)


def regression(groups=None):
    torch.manual_seed(0)
    x = pd.DataFrame(torch.randn(30, 3).numpy(), columns=["age", "bmi", "bp"])
    model = SpikeSlabRegression(x, x["bmi"] + x["bp"], noise_scale=1.0, groups=groups)
    return model, HardConcreteGuide(model)


def test_a_regression_has_names_and_coefficients():
    model, guide = regression()
    table, found = gate_table(guide), model.coefficients(guide)
    assert list(table.columns) == [*COLUMNS, "coefficient", "low", "high"]
    assert table["group"].tolist() == ["age", "bmi", "bp"]
    assert table["coefficient"].tolist() == found["mean"].tolist()
    assert table["low"].tolist() == found["low"].tolist()


def test_shared_gates_have_no_coefficient_of_their_own():
    _, guide = regression(["body", "body", "blood"])
    table = gate_table(guide)
    assert table["group"].tolist() == ["body", "blood"]
    assert list(table.columns) == COLUMNS
