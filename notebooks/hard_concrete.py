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
# # The hard concrete distribution
#
# A gate $z \in [0, 1]$ that is *exactly* 0 with positive probability, and still has gradients. It is a sigmoid of
# logistic noise, stretched beyond $[0, 1]$ and clipped back
# ([Louizos, Welling & Kingma, 2018](https://arxiv.org/abs/1712.01312), eq. 10-11):
#
# $$u \sim U(0,1),\quad s = \mathrm{sigmoid}\!\left(\frac{\log u - \log(1-u) + \log\alpha}{\beta}\right),\quad
# z = \min(1, \max(0,\, s(\zeta - \gamma) + \gamma)).$$

# %%
import matplotlib.pyplot as plt
import torch
from torch.distributions import kl_divergence

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## A mixed distribution: two atoms and a density
#
# `prob_zero` and `prob_one` are closed form. `log_prob` is a log-density with respect to
# $\delta_0 + \delta_1 +$ Lebesgue measure, so at 0 and 1 it is the logarithm of a probability.

# %%
inside = torch.linspace(0.002, 0.998, 500)
figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained", sharey=True)
for axis, log_alpha in zip(axes, (-2.0, 0.0, 2.0), strict=True):
    gate = HardConcrete(log_alpha)
    axis.plot(inside, gate.log_prob(inside).exp(), color="#1b6ca8")
    axis.vlines([0, 1], 0, [gate.prob_zero, gate.prob_one], color="#d1495b", lw=4)
    axis.set(title=f"log α = {log_alpha:g}", xlabel="z")
axes[0].set_ylabel("density (line), probability (bars)")
plt.show()

# %%
gate = HardConcrete(torch.tensor([-2.0, 0.0, 2.0]))
draws = gate.sample((200_000,))
print("P(z = 0)  closed form", gate.prob_zero, " sampled", (draws == 0).double().mean(0))
print("P(z = 1)  closed form", gate.prob_one, " sampled", (draws == 1).double().mean(0))
print("E[z]      quadrature ", gate.mean, " sampled", draws.mean(0))

# %% [markdown]
# ## Its KL divergences are exact
#
# From the paper's L0 prior, from a spike-and-slab prior, from another hard concrete: closed forms, or a quadrature
# that is exact to rounding. All are registered with `torch.distributions`, so Pyro's `TraceMeanField_ELBO` finds them.

# %%
for prior in (L0Prior(0.1), SpikeAndSlabPrior(0.2), HardConcrete(-1.0)):
    print(f"{type(prior).__name__:>18}", kl_divergence(gate, prior))

# %% [markdown]
# ## Why not Monte Carlo?
#
# Reparameterisation invites us to estimate $\nabla\,\mathrm{KL}$ as the mean of
# $\nabla\,[\log q(z) - \log p(z)]$ along draws $z(u, \alpha)$. For a mixed distribution that is *wrong*: where a draw
# leaves an atom the integrand jumps, and no derivative along the path sees a jump. Below, the naive formula is written
# out in plain torch, since the library refuses it.


# %%
def naive_log_prob(z, log_alpha, beta=2 / 3, gamma=-0.1, zeta=1.1):
    logit = beta * ((z - gamma) / (zeta - z)).log() - log_alpha
    below, above = torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)
    density = below + above + torch.log(torch.tensor(beta * (zeta - gamma))) - ((z - gamma) * (zeta - z)).log()
    return torch.where(z == 0, below, torch.where(z == 1, above, density))


log_alpha = torch.tensor(0.5, requires_grad=True)
prior = HardConcrete(-1.0)

z = HardConcrete(log_alpha).rsample((1_000_000,))
naive = (naive_log_prob(z, log_alpha) - naive_log_prob(z, prior.log_alpha)).mean()
(naive_gradient,) = torch.autograd.grad(naive, log_alpha)

exact = kl_divergence(HardConcrete(log_alpha), prior)
(exact_gradient,) = torch.autograd.grad(exact, log_alpha)

step = 1e-5
difference = (
    kl_divergence(HardConcrete(log_alpha.detach() + step), prior)
    - kl_divergence(HardConcrete(log_alpha.detach() - step), prior)
) / (2 * step)
print(f"KL        exact {exact:.4f}   Monte Carlo {naive:.4f}   (the value agrees)")
print(f"gradient  exact {exact_gradient:.4f}   naive {naive_gradient:.4f}   finite difference {difference:.4f}")

# %% [markdown]
# The value is right and the gradient is not, which is how such an error goes unnoticed. So in l0bayes a gradient that
# would flow through the log-density of a gate's *value* is an error:

# %%
try:
    HardConcrete(log_alpha).log_prob(HardConcrete(log_alpha).rsample()).backward()
except RuntimeError as error:
    print(type(error).__name__, "-", str(error)[:107], "...")

# %% [markdown]
# ## Three gates for test time
#
# The paper's rule is neither the mean nor the median of the distribution; all three are offered by name.

# %%
grid = HardConcrete(torch.linspace(-5, 5, 400))
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for rule in ("paper", "median", "mean"):
    axis.plot(grid.log_alpha, grid.point(rule), label=rule)
axis.set(xlabel="log α", ylabel="gate at test time")
axis.legend(frameon=False)
plt.show()
