"""Flows as the posterior of a variational autoencoder: planar, radial, and residual."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from ..bijections import Bijection, Chain, Residual
from ..contract.branches import dense_branch
from ..data.images import load_images
from ..errors import UserError
from ..numerics.logdet import Exact
from ..numerics.noise import Noise
from ..numerics.series import PowerSeries
from ..report.format import plus_minus
from ..settings import Settings
from .base import Bar, Cell, Paper, Picture, Record, Reproduction, Table
from .extras import normflows
from .telling import mean_and_spread

__all__ = ["REPRODUCTION", "Autoencoder", "Vae"]

_NAMES = {"none": "none (Gaussian)", "planar": "planar", "radial": "radial", "residual": "residual (ours)"}
# -log p(x) of binarised MNIST, at most, in nats: Table 2 of Rezende and Mohamed, 2015.
_PUBLISHED = {"none": "89.9", "planar": "85.1 (80 layers), 87.5 (10 layers)", "radial": "–", "residual": "–"}


@dataclass(frozen=True)
class Vae:
    """Perceptrons of one hidden layer on either side; ``layers`` of planar or radial flow, ``blocks`` residual ones."""

    data: str = "mnist"
    posteriors: tuple[str, ...] = ("none", "planar", "radial", "residual")
    latent: int = 20
    hidden: int = 200
    layers: int = 10
    blocks: int = 2
    width: int = 32
    lipschitz: float = 0.97
    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3
    rows: int = 2000
    importance: int = 64
    seeds: int = 1


class _Shared(nn.Module):
    """The layers of a library whose forward gives (z, log det), one after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(len(z))
        for layer in self.layers:
            z, log_det = layer(z)
            total = total + log_det
        return z, total


class _Ours(nn.Module):
    """A chain of residual blocks, applied from z_0 to z_K, whose estimated log det is differentiable."""

    def __init__(self, chain: Bijection) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        logdet = PowerSeries(terms=2, roulette="adaptive") if self.training else Exact()
        moved, found = self.chain.bind().forward_and_logdet(z, logdet, Noise.fresh(len(z), z.device))
        return moved, found.value


def _posterior(name: str, setting: Vae) -> nn.Module:
    if name == "none":
        return _Shared([])
    if name == "residual":
        widths = (setting.width, setting.width)
        return _Ours(
            Chain(
                [
                    Residual(dense_branch("sandwich", setting.latent, widths, setting.lipschitz, "tanh", 0))
                    for _ in range(setting.blocks)
                ]
            )
        )
    made = getattr(normflows().flows, {"planar": "Planar", "radial": "Radial"}[name])
    return _Shared([made((setting.latent,)) for _ in range(setting.layers)])


class Autoencoder(nn.Module):
    """log p(x) of binary x (B, d) bounded from below, with a Gaussian encoder, a Bernoulli decoder and a flow between them."""

    def __init__(self, features: int, setting: Vae, posterior: str) -> None:
        super().__init__()
        hidden, latent = setting.hidden, setting.latent
        self.encoder = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, features))
        self.flow = _posterior(posterior, setting)

    def forward(self, x: Tensor) -> Tensor:
        """One draw (B,) of log p(x, z) - log q(z | x), whose mean is the bound."""
        mean, raw = self.encoder(x).chunk(2, 1)
        scale = softplus(raw) + 1e-4
        eps = torch.randn_like(mean)
        z, log_det = self.flow(mean + scale * eps)
        log_q = (-0.5 * eps.square() - scale.log()).sum(1) - log_det
        fit = -binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
        return fit - 0.5 * z.square().sum(1) - log_q


def _binary(name: str, rows: int) -> tuple[Tensor, Tensor]:
    """Training and test images (N, d) of zeros and ones, each pixel one with probability its brightness: drawn once, for all."""
    dataset = load_images(name, seed=0)
    if dataset is None:
        raise UserError(f"{name} holds no images")
    found = []
    for place, split in enumerate((dataset.train, dataset.test)):
        values = split.values if place == 0 else split.values[:rows]
        bright = values.flatten(1).float() / (dataset.schema.levels - 1)  # type: ignore[union-attr]
        generator = torch.Generator().manual_seed(place)
        found.append(torch.rand(bright.shape, generator=generator) < bright)
    return found[0], found[1]


def _measure_one(setting: Vae, posterior: str, seed: int, data: tuple[Tensor, Tensor], record: Record, advance: Any) -> Cell:
    train, test = data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Autoencoder(train.shape[1], setting, posterior)
        settings = Settings(steps=setting.steps, lr=setting.lr, batch_size=setting.batch_size)
        optimizer, size = settings.build_optimizer(model.parameters()), min(setting.batch_size, len(train))
        order, history, window = torch.randperm(len(train)), [], []
        for step in range(setting.steps):
            place = (step * size) % (len(train) - size + 1)
            order = torch.randperm(len(train)) if place < size else order
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            bound = model(train[order[place : place + size]].float()).mean()
            optimizer.zero_grad()
            (-bound).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()
            window.append(float(bound.detach()))
            if (step + 1) % max(1, setting.steps // 40) == 0:
                history.append({"step": step + 1, "bound": sum(window) / len(window)})
                window = []
            advance(1)
        model.eval()
        with torch.no_grad():
            draws = torch.stack([torch.cat([model(part.float()) for part in test.split(500)]) for _ in range(setting.importance)])
    bound = draws.mean(0)  # of a row, over draws
    weighted = draws.logsumexp(0) - math.log(setting.importance)
    record.keep(f"{posterior}/{seed}", bound=bound.numpy())
    gain = bound - torch.from_numpy(record.kept(f"{setting.posteriors[0]}/{seed}")["bound"])  # of the same images
    return {
        "history": history,
        "bound": float(bound.mean()),
        "stderr": float(bound.std() / math.sqrt(len(bound))),
        "gain": float(gain.mean()),
        "gain_stderr": float(gain.std() / math.sqrt(len(gain))),
        "weighted": float(weighted.mean()),
        "flow_parameters": sum(parameter.numel() for parameter in model.flow.parameters()),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def measure(setting: Vae, record: Record, bar: Bar) -> None:
    """Each posterior, for every seed."""
    if {"planar", "radial"} & set(setting.posteriors):
        normflows()  # before anything is trained, if it is not there
    data = _binary(setting.data, setting.rows)
    for posterior in setting.posteriors:
        with bar(posterior, setting.seeds * setting.steps) as advance:
            for seed in range(setting.seeds):
                record.cell(f"{posterior}/{seed}", partial(_measure_one, setting, posterior, seed, data, record, advance))


def draw(record: Record) -> list[Picture]:
    """The bound through training, of the first seed, beside where it ends on held-out images."""
    from ..pictures.canvas import new_figure, save

    names = record.arguments["posteriors"]
    colours = dict(zip(_NAMES, ("#566272", "#0b69a8", "#2f9e6e", "#d1591a"), strict=True))
    with new_figure(1, 2, size=4.2) as (figure, axes):
        left, right = axes[0]
        for name in names:
            history = record.under(name)[0]["history"]
            tail = history[len(history) // 4 :]
            left.plot(
                [h["step"] for h in tail], [-h["bound"] for h in tail], color=colours[name], linewidth=1.8, label=_NAMES[name]
            )
        left.set(title="training batches", xlabel="step", ylabel="−bound, nats an image")
        left.legend(frameon=False, fontsize=11)
        for place, name in enumerate(names):
            cells = record.under(name)
            bound, weighted = (-sum(cell[key] for cell in cells) / len(cells) for key in ("bound", "weighted"))
            right.bar(place, bound - weighted, bottom=weighted, width=0.6, color=colours[name], alpha=0.55)
            error = 2 * max(cell["gain_stderr"] for cell in cells)  # none for the first, which the others are compared to
            right.errorbar(place, bound, yerr=error, color=colours[name], capsize=4)
        right.set_xticks(range(len(names)), [_NAMES[name].replace(" (", "\n(") for name in names])
        low = min(-cell["weighted"] for name in names for cell in record.under(name))
        right.set(title="held-out images", ylim=(low - 1, None))
        save(figure, record.path / "vae.png")
    told = (
        "Left: the bound through training. Right, of held-out images: the top of a bar is minus the bound, with two standard "
        "errors of its difference from the first on the same images; its foot minus the tighter bound by "
        f"{record.arguments['importance']} importance-weighted draws, so that its height estimates what the posterior still "
        "lacks."
    )
    return [Picture("vae.png", told)]


def tables(record: Record) -> list[Table]:
    """The bounds on held-out images."""
    arguments = record.arguments
    header = ("posterior", "parameters of the flow", "−bound, nats an image", "± of the finite set")
    header = (*header, f"gained over {arguments['posteriors'][0]}", "−log p(x), importance-weighted", "published −bound")
    rows = []
    for place, name in enumerate(arguments["posteriors"]):
        cells = record.under(name)
        columns = ([-cell["bound"] for cell in cells], [-cell["weighted"] for cell in cells])
        bound, weighted = (mean_and_spread(column, 4) for column in columns)
        gains = [cell["gain"] for cell in cells]
        error = math.sqrt(sum(cell["gain_stderr"] ** 2 for cell in cells)) / len(cells)
        gain = plus_minus(sum(gains) / len(gains), error) if place else "–"
        told = [_NAMES[name], f"{cells[0]['flow_parameters']:,}", bound, f"{max(cell['stderr'] for cell in cells):.2g}", gain]
        rows.append([*told, weighted, _PUBLISHED[name] if arguments["data"] == "mnist" else "–"])
    return [Table("Held-out images, nats an image", header, rows)]


def findings(record: Record) -> list[str]:
    """The order of the posteriors."""
    mean = {
        name: sum(cell["bound"] for cell in record.under(name)) / len(record.under(name))
        for name in record.arguments["posteriors"]
    }
    order = sorted(mean, key=lambda name: -mean[name])
    told = ", ".join(f"{_NAMES[name]} {-mean[name]:.2f}" for name in order)
    return [f"Nats an image that the bound asks for, fewest first: {told}."]


REPRODUCTION = Reproduction(
    "Variational autoencoder: flows as posterior",
    "The encoder's Gaussian z_0 is mapped on by a flow, z_K = f(z_0), so that the posterior log q(z_K | x) = log q(z_0 | x) - "
    "log |det df/dz_0| can take shapes that a Gaussian cannot, and the bound on log p(x) is tighter. A residual flow is used "
    "forward: no inverse is needed. Encoder, decoder, data and steps are the same for all; planar and radial flows are those "
    "of normflows.",
    [
        Paper("Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015)", "1505.05770", "Table 2", checked=False),
    ],
    {
        "tiny": Vae(),
        "paper": Vae(
            latent=40, hidden=400, layers=80, blocks=8, width=128, steps=500_000, batch_size=100, lr=1e-4, rows=10_000, seeds=1
        ),
    },
    measure,
    draw,
    tables,
    findings,
    [
        "The papers' flows are amortised: the encoder gives each image its own. Here all images share one, of all kinds, so "
        "flows gain less.",
        "The paper trains 500,000 steps of a deeper model with annealing, here far fewer; its figures are bounds after that.",
        "Pixels are binarised by one draw for all, not the draw that the paper used.",
        "The parameters of the flows are not equal: the table has them. Those of encoder and decoder are.",
    ],
)
