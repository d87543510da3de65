"""A collapsed Gibbs sampler as anybody would write it: one column after the other, dense algebra, nothing updated.

Noise of the reference prior, slab N(0, v σ² / s²), v ~ IG(1/2, 1/2) by random-walk Metropolis on log v.
"""

import numpy as np


def log_joint(x, y, inside, log_v, log_prior):
    """Of centred data, and columns of standard deviation 1."""
    z = x[:, inside]
    v = np.exp(log_v)
    matrix = z.T @ z + np.eye(z.shape[1]) / v
    moment = z.T @ y
    rss = y @ y - moment @ np.linalg.solve(matrix, moment)
    log_det = np.linalg.slogdet(matrix)[1] + z.shape[1] * log_v
    return -0.5 * log_det - 0.5 * (len(y) - 1) * np.log(rss) - 0.5 * log_v - 0.5 / v + log_prior(inside)


def plain_gibbs(x, y, log_prior, *, sweeps, seed, swaps=3):
    """Inclusion probabilities, not Rao-Blackwellised, after a fifth of the sweeps; with swaps of two columns."""
    rng = np.random.default_rng(seed)
    p = x.shape[1]
    inside, log_v = np.zeros(p, dtype=bool), 0.0
    current, total = log_joint(x, y, inside, log_v, log_prior), np.zeros(p)
    for sweep in range(sweeps):
        proposals = [[j] for j in rng.permutation(p)]
        if 0 < inside.sum() < p:
            here, there = inside.nonzero()[0], (~inside).nonzero()[0]
            proposals += [[rng.choice(here), rng.choice(there)] for _ in range(swaps)]
        for columns in proposals:
            if len(columns) > 1 and inside[columns[0]] == inside[columns[1]]:
                continue  # no swap any more
            other = inside.copy()
            other[columns] ^= True
            theirs = log_joint(x, y, other, log_v, log_prior)
            ratio = theirs - current
            if np.log(rng.uniform()) < (ratio if len(columns) > 1 else -np.logaddexp(0, -ratio)):
                inside, current = other, theirs
        proposed = log_v + rng.normal()
        theirs = log_joint(x, y, inside, proposed, log_prior)
        if np.log(rng.uniform()) < theirs - current:
            log_v, current = proposed, theirs
        if sweep >= sweeps // 5:
            total += inside
    return total / (sweeps - sweeps // 5)
