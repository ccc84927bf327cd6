"""Posterior estimation with the package sbi, an invertible residual flow as its density estimator.

    pip install sbi
    python examples/sbi_posterior.py [--simulations 2000] [--epochs 100] [--seeds 0] [--beside maf zuko_nsf] [--record FILE]

sbi's linear Gaussian simulator has a posterior in closed form, so the error can be measured and not only looked at: the table
prints KL(true posterior || estimate) in nats, its mean over held-out observations, for this flow and for sbi's own estimators
of the names given, all trained by sbi on the same simulations.

Fast epsilon-free Inference of Simulation Models with Bayesian Conditional Density Estimation (Papamakarios and Murray, 2016),
arXiv 1605.06376
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import iresnet
from iresnet.files import write_json
from iresnet.interop.zuko import LazyFlow

FEATURES, OBSERVATIONS, DRAWS = 3, 20, 1000
OURS = "residual flow"


def residual_estimator(theta: Tensor, x: Tensor, blocks: int = 4) -> Any:
    """What sbi builds from its first batch: p(theta | x), whitened by the simulations it is to learn from."""
    from sbi.neural_nets.estimators import ZukoFlow
    from sbi.utils.sbiutils import standardizing_net

    flow = iresnet.dense_flow(theta.shape[1], context=x.shape[1], blocks=blocks, hidden=(32, 32))
    standardize = standardizing_net(x)
    flow.initialize(theta, standardize(x))
    return ZukoFlow(LazyFlow(flow), standardize, input_shape=theta[0].shape, condition_shape=x[0].shape)


def problem() -> tuple[MultivariateNormal, Callable[[Tensor], Tensor], Callable[[Tensor], MultivariateNormal]]:
    """The prior, the simulator, and the true posterior of an observation."""
    from sbi.simulators.linear_gaussian import linear_gaussian, true_posterior_linear_gaussian_mvn_prior

    shift = -torch.ones(FEATURES)
    covariance = 0.3 * torch.eye(FEATURES) + 0.2 * torch.ones(FEATURES, FEATURES)
    prior = MultivariateNormal(torch.zeros(FEATURES), torch.eye(FEATURES))

    def simulate(theta: Tensor) -> Tensor:
        return linear_gaussian(theta, shift, covariance)

    def truth(x: Tensor) -> MultivariateNormal:
        return true_posterior_linear_gaussian_mvn_prior(x[None], shift, covariance, prior.loc, prior.covariance_matrix)

    return prior, simulate, truth


def fit(estimator: Any, simulations: int, epochs: int, seed: int = 0) -> Any:
    """sbi's posterior with that density estimator, a name of sbi's or a function such as :func:`residual_estimator`."""
    from sbi.inference import NPE

    torch.manual_seed(seed)
    prior, simulate, _ = problem()
    theta = prior.sample((simulations,))
    inference = NPE(prior=prior, density_estimator=estimator, show_progress_bars=False)
    inference.append_simulations(theta, simulate(theta))
    inference.train(max_num_epochs=epochs, training_batch_size=200, learning_rate=2e-3)
    return inference.build_posterior()


def divergence(posterior: Any, seed: int = 1) -> tuple[float, float]:
    """KL(truth || posterior) in nats, the mean over observations, and its standard error."""
    prior, simulate, truth = problem()
    torch.manual_seed(seed)
    found = []
    for x in simulate(prior.sample((OBSERVATIONS,))):
        true = truth(x)
        theta = true.sample((DRAWS,))
        with torch.no_grad():
            found.append(float((true.log_prob(theta) - posterior.log_prob(theta, x=x)).mean()))
    values = torch.tensor(found)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=100, help="at most; sbi stops when its validation loss does")
    parser.add_argument("--beside", nargs="*", default=["maf"], help="density estimators of sbi's own: maf, nsf, zuko_nsf, ...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the simulations and of the training")
    parser.add_argument("--record", type=Path, help="write the figures into this JSON file")
    given = parser.parse_args(arguments)
    print(f"KL(true posterior || estimate), nats, {OBSERVATIONS} observations, {given.simulations} simulations")
    rows, shown = [], None
    for seed in given.seeds:
        for name in (OURS, *given.beside):
            began = time.process_time()
            estimate = fit(residual_estimator if name == OURS else name, given.simulations, given.epochs, seed)
            seconds = time.process_time() - began
            shown = estimate if shown is None else shown
            value, error = divergence(estimate)
            rows.append({"estimator": name, "seed": seed, "kl": value, "stderr": error, "processor_seconds": seconds})
            print(f"  {name:<14} {value:8.4f} +- {error:.4f}" + (f"  seed {seed}" if len(given.seeds) > 1 else ""), flush=True)
    if given.record:
        setting = {"simulations": given.simulations, "epochs_at_most": given.epochs, "observations": OBSERVATIONS, "draws": DRAWS}
        versions = {name: version(name) for name in ("sbi", "torch", "zuko")} | {"python": platform.python_version()}
        told = " ".join(["python examples/sbi_posterior.py --seeds", *map(str, given.seeds), "--beside", *given.beside])
        write_json(given.record, {"name": "sbi", "remake": told, "versions": versions} | setting | {"rows": rows})
    prior, simulate, truth = problem()
    torch.manual_seed(2)
    x = simulate(prior.sample((1,)))[0]
    assert shown is not None
    drawn = shown.sample((DRAWS,), x=x, show_progress_bars=False)
    print(f"one observation: mean of {DRAWS} draws {_told(drawn.mean(0))}, true {_told(truth(x).mean)}")


def _told(values: Tensor) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in values.tolist()) + ")"


if __name__ == "__main__":
    main()
