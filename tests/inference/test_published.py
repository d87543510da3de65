"""Published values: of subsets, and of least squares and maximum likelihood where the slab says nothing."""

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from torch.distributions import Beta

from l0bayes.inference import infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior

# Hald's cement, after Draper and Smith (1998): heat evolved, and four components, in per cent.
HALD = pd.DataFrame(
    {
        "x1": [7, 1, 11, 11, 7, 11, 3, 1, 2, 21, 1, 11, 10],
        "x2": [26, 29, 56, 31, 52, 55, 71, 31, 54, 47, 40, 66, 68],
        "x3": [6, 15, 8, 8, 6, 9, 17, 22, 18, 4, 23, 9, 8],
        "x4": [60, 52, 20, 47, 33, 22, 6, 44, 22, 26, 34, 12, 12],
        "heat": [78.5, 74.3, 104.3, 87.6, 95.9, 109.2, 102.7, 72.5, 93.1, 115.9, 83.8, 113.3, 109.4],
    }
)
HALD_RSS = {  # Draper and Smith's tables of all subsets
    ("x1",): 1265.687,
    ("x2",): 906.336,
    ("x4",): 883.867,
    ("x1", "x2"): 57.904,
    ("x1", "x4"): 74.762,
    ("x1", "x2", "x4"): 47.973,
    ("x1", "x2", "x3"): 48.111,
    ("x1", "x2", "x3", "x4"): 47.864,
}

# R's "attitude" (Chatterjee and Price 1977): ratings of supervisors in 30 departments.
_ATTITUDE = """
rating complaints privileges learning raises critical advance
43 51 30 39 61 92 45
63 64 51 54 63 73 47
71 70 68 69 76 86 48
61 63 45 47 54 84 35
81 78 56 66 71 83 47
43 55 49 44 54 49 34
58 67 42 56 66 68 35
71 75 50 55 70 66 41
72 82 72 67 71 83 31
67 61 45 47 62 80 41
64 53 53 58 58 67 34
67 60 47 39 59 74 41
69 62 57 42 55 63 25
68 83 83 45 59 77 35
77 77 54 72 79 77 46
81 90 50 72 60 54 36
74 85 64 69 79 79 63
65 60 65 75 55 80 60
65 70 46 57 75 85 46
50 58 68 54 64 78 52
50 40 33 34 43 64 33
64 61 52 62 66 80 41
53 66 52 50 63 80 37
40 37 42 58 50 57 49
63 54 42 48 66 75 33
66 77 66 63 88 76 72
78 75 58 74 80 78 49
48 57 44 45 51 83 38
85 85 71 71 77 74 55
82 82 39 59 64 78 39
"""
ATTITUDE = pd.read_csv(io.StringIO(_ATTITUDE), sep=" ")


def without(frame, response):
    return frame.drop(columns=response), frame[response]


def statsmodels_data(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import statsmodels.api as sm  # noqa: PLC0415 (its own warnings are no errors of ours)

        return getattr(sm.datasets, name).load_pandas()


def test_subsets_of_halds_cement():
    """BIC of a subset follows from its residual sum of squares; the best is what everybody found."""
    x, y = without(HALD, "heat")
    found = exact_posterior(x, y, prior="bic")
    number = {name: 1 << j for j, name in enumerate(x.columns)}
    total = float(((y - y.mean()) ** 2).sum())
    for subset, rss in HALD_RSS.items():
        gain = found.log_probs[sum(number[name] for name in subset)] - found.log_probs[0]
        assert gain == pytest.approx(-6.5 * np.log(rss / total) - 0.5 * len(subset) * np.log(13), abs=1e-3)
    assert found.top_models(1)["predictors"][0] == ["x1", "x2"]


def test_least_squares_of_the_attitude_survey():
    """Under a slab that says nothing all six coefficients are those that are printed everywhere."""
    x, y = without(ATTITUDE, "rating")
    found = infer_inclusion(SpikeSlabRegression(x, y, slab_scale=1e4))
    coefficients = found.coefficients_of(x.columns)
    published = [0.61319, -0.07305, 0.32033, 0.08173, 0.03838, -0.21706]
    np.testing.assert_allclose(coefficients["mean"], published, atol=2e-4)
    errors = np.array([0.16098, 0.13572, 0.16852, 0.22148, 0.14700, 0.17821])  # of a t with 23 degrees of freedom
    np.testing.assert_allclose(coefficients["sd"], errors * np.sqrt(23 / 21), rtol=0.03)
    default = infer_inclusion(SpikeSlabRegression(x, y)).table.set_index("name")["inclusion"]
    assert default["complaints"] > 0.99
    assert default.drop("complaints").idxmax() == "learning"


def test_logistic_regression_of_spector_and_mazzeo():
    """Greene (2003), table 21.1."""
    data = statsmodels_data("spector")
    model = SpikeSlabRegression(data.exog, data.endog, likelihood="bernoulli", slab_scale=1e3)
    found = infer_inclusion(model).coefficients_of(["GPA", "TUCE", "PSI"])
    np.testing.assert_allclose(found["mean"], [2.826, 0.095, 2.379], atol=1e-3)
    np.testing.assert_allclose(found["sd"], [1.263, 0.142, 1.065], atol=1e-3)
    default = infer_inclusion(SpikeSlabRegression(data.exog, data.endog, likelihood="bernoulli"), "gibbs", draws=800)
    assert set(default.median_model) == {"GPA", "PSI"}


def test_affairs():
    """6,366 women (Fair 1978): what statsmodels' example of a logistic regression of them finds, and what it leaves."""
    data = statsmodels_data("fair")
    y = (data.endog > 0).astype(float)
    columns = ["rate_marriage", "age", "yrs_married", "children", "religious", "educ"]
    found = infer_inclusion(
        SpikeSlabRegression(data.exog[columns], y, likelihood="bernoulli", inclusion=Beta(1.0, 1.0))
    )
    table = found.table.set_index("name")
    assert table.loc[["rate_marriage", "age", "yrs_married", "religious"], "inclusion"].min() > 0.99
    assert table.loc["children", "inclusion"] < 0.5
    np.testing.assert_allclose(table.loc["rate_marriage", "mean"], -0.71, atol=0.03)
