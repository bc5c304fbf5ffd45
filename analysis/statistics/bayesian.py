"""A Bayesian hierarchical model of correct and incorrect responses, sampled by numpyro (installed
by the extra `bayes`)."""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pandas as pd

from analysis.statistics.clusters import CrossedData, code_responses
from analysis.statistics.mixed_model import marginal_share

#: Adaptation steps and draws of each chain, and the number of chains.
WARMUP, DRAWS, CHAINS = 500, 500, 2
#: Names of the standard deviations, in the order of `Posterior.sd`.
COMPONENTS = ("participants", "participants within conditions", "trials")


def can_sample() -> bool:
    """Return whether numpyro is installed."""
    return find_spec("numpyro") is not None


@dataclass(frozen=True)
class Prior:
    """The priors: Normal(0, effect) for the log odds of each condition, and half-normal with scale
    `standard_deviation` for each standard deviation."""

    effect: float = 1.5
    standard_deviation: float = 1.0


@dataclass(frozen=True)
class Posterior:
    """Draws of all chains, one chain after another.

    Attributes:
        names: of the conditions, in the order of the columns of beta.
        beta: log odds of a correct response of a participant of average ability to a trial of
            average difficulty: [draws, conditions].
        sd: standard deviations of COMPONENTS on the logit scale: [draws, 3].
        rhat, ess: the largest split R̂ and the smallest effective sample size of beta and sd.
        divergences: the number of divergent transitions.
    """

    names: tuple[str, ...]
    beta: np.ndarray
    sd: np.ndarray
    rhat: float
    ess: float
    divergences: int

    @property
    def shares(self) -> np.ndarray:
        """Shares correct, averaged over participants and trials: [draws, conditions]."""
        total = np.linalg.norm(self.sd, axis=1)
        return np.stack([marginal_share(b, sd) for b, sd in zip(self.beta, total, strict=True)])


def sample(frame: pd.DataFrame, prior: Prior, seed: int = 0) -> Posterior:
    """Sample from logit p = β_condition + u_participant + w_(participant, condition) + v_trial.

    This is the model of `mixed_model.py` with priors: u, w and v are normal with mean 0 and one
    standard deviation each. The sampler is NUTS (Hoffman & Gelman 2014), with the non-centred
    parametrisation.

    Args:
        frame: participant, trial, condition, correct (without missing values).

    Raises:
        ValueError: the table has no responses.
    """
    from jax import random
    from numpyro.diagnostics import summary
    from numpyro.infer import MCMC, NUTS

    data = code_responses(frame)
    mcmc = MCMC(
        NUTS(_model, target_accept_prob=0.9), num_warmup=WARMUP, num_samples=DRAWS,
        num_chains=CHAINS, chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    mcmc.run(random.PRNGKey(seed), data, prior, extra_fields=("diverging",))
    chains = {k: np.asarray(v, float) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    diagnostics = summary({name: chains[name] for name in ("beta", "sd")})
    return Posterior(
        data.groups,
        chains["beta"].reshape(-1, len(data.groups)),
        chains["sd"].reshape(-1, len(COMPONENTS)),
        # NaN if one of them is: of a chain that did not move.
        rhat=float(np.max([np.max(part["r_hat"]) for part in diagnostics.values()])),
        ess=float(np.min([np.min(part["n_eff"]) for part in diagnostics.values()])),
        divergences=int(np.sum(mcmc.get_extra_fields()["diverging"])),
    )


def _model(data: CrossedData, prior: Prior) -> None:
    import numpyro
    from numpyro.distributions import Bernoulli, HalfNormal, Normal

    width = len(data.groups)
    sizes = {"u": data.participants, "w": data.participants * width, "v": data.items}
    beta = numpyro.sample("beta", Normal(0, prior.effect).expand([width]).to_event(1))
    half_normal = HalfNormal(prior.standard_deviation)
    sd = numpyro.sample("sd", half_normal.expand([len(COMPONENTS)]).to_event(1))
    u, w, v = (
        numpyro.sample(name, Normal(0, 1).expand([size]).to_event(1))
        for name, size in sizes.items()
    )
    logits = (
        beta[data.group]
        + sd[0] * u[data.participant]
        + sd[1] * w[data.participant * width + data.group]
        + sd[2] * v[data.item]
    )
    numpyro.sample("right", Bernoulli(logits=logits).to_event(1), obs=data.values)
