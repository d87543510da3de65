# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bayesian variable selection, for who comes from BAS or spikeslab
#
# Linear, logistic and Poisson regression with coefficients that are there or not, from data to predictions, on
# scikit-learn's diabetes data: 442 patients, ten baseline variables, and the progression of the disease a year later.
#
# | you know | here |
# |---|---|
# | `bas.lm(y ~ ., prior="ZS-null")` | `SpikeSlabRegression(X, y)`, then `infer_inclusion(model)` |
# | `modelprior=beta.binomial(1, 1)` | `inclusion=Beta(1, 1)` |
# | `method="deterministic"`, `"MCMC"` | `method="exact"`, `"gibbs"`; `"auto"` chooses |
# | `coef`, `image`, `predict(…, se.fit=TRUE)` | `.summary()`, `.plot()`, `.predict(X)`; `.top_models()` |
# | `diagnostics(fit)` | `mcse`, `rhat`, `ess` of each probability; a warning where .1 cannot be excluded |
# | `prior="g-prior"`, `"BIC"` | `exact_posterior(X, y, prior="g")`, `"bic"` |
# | spikeslab: two normals, p in the thousands | a point mass at 0, coefficients integrated out; p in the thousands |
# | a factor is several variables | one gate for all of its columns: `groups=`, which `read_formula` makes |

# %%
import logging
import warnings

warnings.filterwarnings("ignore")  # what ArviZ, pandas and matplotlib say to each other
logging.getLogger("arviz").setLevel(logging.ERROR)

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_diabetes
from torch.distributions import Beta

from l0bayes import to_arviz
from l0bayes.errors import UntrustedPosteriorWarning
from l0bayes.inference import infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior, read_formula

warnings.filterwarnings("always", category=UntrustedPosteriorWarning)
torch.set_num_threads(1)

data = load_diabetes(as_frame=True, scaled=False)
X, y = data.data, data.target
print(X.describe().loc[["mean", "std", "min", "max"]].round(1).to_string())

# %% [markdown]
# ## Ten variables: all 1,024 models
#
# The data are in the units in which they were measured. That is fine: by default a coefficient that is there is N(0, v
# σ² / s²), with s the standard deviation of its column, and v ~ IG(1/2, 1/2) integrated out with the noise, as Zellner
# and Siow have it, but for the correlations of the columns.

# %%
model = SpikeSlabRegression(X, y, inclusion=Beta(1.0, 1.0))
found = infer_inclusion(model)
print(found)
print(found.summary().drop(columns=["group", "mcse"]).round(3).to_string())
print(found.scales.round(2).to_string())

# %%
found.plot()
plt.show()
print(found.top_models(5).to_string())
print("log evidence:", round(found.log_evidence, 2))
print(
    "Bayes factor of sex, bmi, bp, s3, s5 against the same without sex:",
    round(found.bayes_factor(["sex", "bmi", "bp", "s3", "s5"], ["bmi", "bp", "s3", "s5"]), 1),
)

# %% [markdown]
# What other priors say of the same data. Nobody knows which is right; where they agree, they matter little.

# %%
others = {
    "Zellner and Siow, Beta(1, 1)": found.inclusion,
    "the same, 1/2 each": infer_inclusion(SpikeSlabRegression(X, y)).inclusion,
    "unit information, Beta(1, 1)": infer_inclusion(
        SpikeSlabRegression(X, y, slab="unit-information", inclusion=Beta(1.0, 1.0))
    ).inclusion,
    "g-prior, g = n, Beta(1, 1)": exact_posterior(X, y, prior="g", inclusion=Beta(1.0, 1.0)).inclusion,
    "BIC, Beta(1, 1)": exact_posterior(X, y, prior="bic", inclusion=Beta(1.0, 1.0)).inclusion,
}
print(pd.DataFrame(others, X.columns).T.round(2).to_string())

# %% [markdown]
# ## All squares and interactions: 64 columns
#
# 2^64 models: now they are sampled. A formula makes the columns. The table has the Monte Carlo standard error of each
# probability beside it; sampling goes on until they are small.

# %%
numbers = [name for name in X.columns if name != "sex"]
frame = ((X - X.mean()) / X.std()).assign(y=y)
quadratic = "y ~ (" + " + ".join(X.columns) + ")**2 + " + " + ".join(f"I({name}**2)" for name in numbers)
design = read_formula(quadratic, frame)
large = infer_inclusion(SpikeSlabRegression(design.X, design.y, groups=design.groups, inclusion=Beta(1.0, 1.0)))
table = large.table.sort_values("inclusion", ascending=False)
print(f"{design.X.shape[1]} columns, {large.evaluations:,} states of the chains")
print(table.drop(columns="group").head(9).round(3).to_string(index=False))
print("largest Monte Carlo standard error:", table["mcse"].max().round(3))
with_s = [name for name in design.X.columns if "sex" in name]
print("P(sex matters in any way):", round(large.group_inclusion(with_s), 3))
large.plot()
plt.show()

# %% [markdown]
# Age by itself hardly matters, but age together with sex does, as has been found again and again.
#
# ## Predictions
#
# Model-averaged, with intervals of the posterior predictive, for patients that were left out; beside least squares on
# all columns.

# %%
rng = np.random.default_rng(0)
held = rng.permutation(len(frame)) < 130
train, test = frame[~held], frame[held]
rows = []
for name, formula in {
    "ten variables": "y ~ " + " + ".join(X.columns),
    "with squares and interactions": quadratic,
}.items():
    it = read_formula(formula, train)
    fitted = infer_inclusion(SpikeSlabRegression(it.X, it.y, groups=it.groups, inclusion=Beta(1.0, 1.0)))
    new = it.rows(test)
    predicted = fitted.predict(new)
    inside = (predicted["low"] < test["y"]) & (test["y"] < predicted["high"])
    slopes = np.linalg.lstsq(np.c_[np.ones(len(it.X)), it.X], it.y, rcond=None)[0]
    squares = np.c_[np.ones(len(new)), new] @ slopes
    rows.append(
        {
            "model": name,
            "rmse, averaged": np.sqrt(((predicted["mean"] - test["y"]) ** 2).mean()),
            "rmse, least squares": np.sqrt(((squares - test["y"]) ** 2).mean()),
            "in 95 % intervals": inside.mean(),
        }
    )
print(pd.DataFrame(rows).round(2).to_string(index=False))

# %% [markdown]
# ## In ArviZ
#
# Chains are real chains, and each draw has its log-likelihoods: leave-one-out compares the two regressions, and its
# effective number of parameters is about the number of coefficients that are there.

# %%
draws = {"ten variables": to_arviz(found, 500), "with squares and interactions": to_arviz(large, 250)}
comparison = az.compare(draws)
print(comparison[["rank", "elpd_loo", "p_loo", "elpd_diff", "dse"]].round(1).to_string())
sizes = {name: float(it["posterior"]["included"].sum("group").mean()) for name, it in draws.items()}
print("open gates on average:", {name: round(size, 1) for name, size in sizes.items()})
print(az.summary(draws["ten variables"], var_names=["intercept", "noise_scale", "inclusion"]).round(2).to_string())

# %% [markdown]
# ## Other responses, categories, and what else there is
#
# Whether the disease progressed more than it did in three of four patients: a logistic regression, its marginal
# likelihoods by Laplace's method. Age in bands is a category: one gate for its columns.

# %%
bands = pd.cut(X["age"], [0, 35, 45, 55, 65, 80]).astype(str)
cases = frame.assign(bad=(y > y.quantile(0.75)).astype(float), band=bands)
logistic = read_formula("bad ~ C(band) + sex + bmi + bp + s1 + s2 + s3 + s4 + s5 + s6", cases)
bad = infer_inclusion(
    SpikeSlabRegression(logistic.X, logistic.y, likelihood="bernoulli", groups=logistic.groups), "gibbs"
)
shown = bad.summary()[["name", "group", "inclusion", "mcse", "mean", "low", "high"]]
print(shown.round(3).to_string(index=False))
print(bad.predict(logistic.rows(cases.head(4)), noise=False).round(3).to_string())

# %% [markdown]
# Poisson regressions have `exposure=`; all have `offset=`; `slab_scale=` is a width in your units, one or one for each
# column; `expected_open=` is a number of variables to expect. Where thousands of columns meet few rows the same two
# lines do: `SpikeSlabRegression(X, y, expected_open=5)`, `infer_inclusion(model)`.
