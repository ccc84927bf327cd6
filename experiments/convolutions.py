"""Remake results/contraction/convolutions.json: how tight the bound of a convolution is, and which branch learns best.

    IRESNET_DATA=... python experiments/convolutions.py bounds families
    IRESNET_DATA=... python experiments/convolutions.py families --only "sandwich elu" --steps 300

``bounds``: ratios to the largest singular value of the dense matrix. ``families``: MNIST, squeezed to 14 x 14 x 4, blocks of
ActNorm and a branch, the same steps, data and learning rate; bits/dim on test images and processor seconds of a step. What the
file already holds for the same setting is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tried_activations import Skip
from tried_branches import weighted

from iresnet.bases import StandardNormal
from iresnet.bijections import ActNorm, Chain, Pixels, Residual, Squeeze, Unsqueeze
from iresnet.contract.activations import activation
from iresnet.contract.conv_branches import ConvBranch, conv_branch
from iresnet.contract.conv_sandwich import SandwichConvBranch
from iresnet.files import write_json
from iresnet.flow import Flow
from iresnet.numerics.convolution import conv_bound, dense_convolution, frequencies, tap_bound
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries

RESULTS = Path(__file__).resolve().parent.parent / "results" / "contraction" / "convolutions.json"


def almost_orthogonal(kernel: Tensor) -> Tensor:
    """Each input channel of (..., O, I, k, k) over the root of its row of |correlations|, if above 1: norm at most 1 at any size.

    Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks (Prach and Lampert, 2022), arXiv 2208.03160.
    """
    *lead, outputs, inputs, taps, _ = kernel.shape
    flat = kernel.reshape(-1, outputs, inputs, taps, taps)
    padded = torch.nn.functional.pad(flat, (taps - 1,) * 4)
    windows = padded.unfold(-2, taps, 1).unfold(-2, taps, 1)  # (b, O, I, 2k-1, 2k-1, k, k)
    sums = torch.einsum("boixyuv,bojuv->bijxy", windows, flat).abs().sum((2, 3, 4))
    return kernel * sums.clamp(min=1.0).rsqrt().reshape(*lead, 1, inputs, 1, 1)


class AlmostOrthogonalBranch(SandwichConvBranch):
    """Sandwich layers between two almost orthogonal convolutions; an experiment, without a margin for its rounding."""

    def _ends(self, first: Tensor, last: Tensor, share: float, wide: torch.dtype) -> tuple[Tensor, Tensor]:
        held = almost_orthogonal(last.transpose(-4, -3)).transpose(-4, -3)
        return share * almost_orthogonal(first).to(wide), share * held.to(wide)


class ConcatenatedBranch(ConvBranch):
    r"""3x3 - 1x1 - 3x3 whose hidden layers give :math:`[\eta_1 h; \eta_2 s(K * h + b)]`; each K over its bound.

    Invertible DenseNets with Concatenated LipSwish (Perugachi-Diaz et al., 2021), arXiv 2102.02694. An experiment, without a
    margin for its rounding.
    """

    guarantee = "sound"

    def __init__(self, shape: tuple[int, int, int], hidden: tuple[int, ...], lipschitz: float, nonlinearity: str) -> None:
        inner = activation(nonlinearity)
        # Layers carry what they read, unchanged, and `new` channels, of which an activation may make more.
        new, grown = hidden[0], hidden[0] * inner.expand
        carried = [shape[0] + grown * place for place in range(len(hidden) + 1)]
        mixed = Skip(inner, new, 1 if inner.elementwise else -1)
        super().__init__(shape, [width + new for width in carried[:-1]], lipschitz, mixed)
        self.inner, self.grown, self.carried = inner, grown, carried
        taps = [3, *[1] * (len(hidden) - 1), 3]
        outputs = [*[new] * len(hidden), shape[0]]
        self.kernels = nn.ParameterList(
            nn.Parameter(torch.empty(out, width, tap, tap)) for out, width, tap in zip(outputs, carried, taps, strict=True)
        )
        for kernel in self.kernels[:-1]:
            nn.init.orthogonal_(kernel)
        nn.init.zeros_(self.kernels[-1])
        self.eta = nn.ParameterList(nn.Parameter(torch.ones(2)) for _ in hidden)

    def raw(self) -> tuple[Tensor, ...]:
        return (*self.kernels, *self.eta)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        count, made, scale = len(self.hidden), [], torch.ones((), dtype=raw[0].dtype)
        for kernel, eta, width in zip(raw[:count], raw[count + 1 :], self.carried[:-1], strict=True):
            held = self._held(kernel, 1 / self.inner.lipschitz)
            same = torch.zeros(width, *held.shape[-3:], dtype=held.dtype)
            same[torch.arange(width), torch.arange(width), held.shape[-2] // 2, held.shape[-1] // 2] = 1.0
            made.append(torch.cat((same.expand(*held.shape[:-4], *same.shape), held), -4) * scale)
            parts = [
                one[..., None].expand(*one.shape, size) for one, size in zip(weighted(eta), (width, self.grown), strict=True)
            ]
            scale = torch.cat(parts, -1)[..., None, :, None, None]
        return (*made, self._held(raw[count], self.lipschitz) * scale)

    def _held(self, kernel: Tensor, share: float) -> Tensor:
        return kernel * (share / conv_bound(kernel, self.shape[1:]).clamp(min=share))[..., None, None, None, None]


def kernels(outputs: int, inputs: int, seed: int) -> dict[str, Tensor]:
    """Kernels in float64 by kind."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    blur = torch.einsum("oi,a,b->oiab", normal(outputs, inputs), line, line)
    edge = torch.einsum("oi,a,b->oiab", normal(outputs, inputs), line, torch.tensor([1.0, 0, -1], dtype=torch.float64))
    near = 0.3 * normal(outputs, inputs, 3, 3)
    near[:, :, 1, 1] += normal(outputs, inputs)
    return {"random": normal(outputs, inputs, 3, 3), "mostly 1x1": near, "blur": blur, "edge": edge}


def bounds() -> dict[str, Any]:
    """Ratio of each bound to the truth, largest over a few kernels, by resolution and kind."""
    table: dict[str, Any] = {}
    for size, (outputs, inputs) in ((28, (32, 1)), (14, (32, 4)), (7, (32, 8)), (5, (32, 8)), (4, (32, 8))):
        for seed in range(3):
            for kind, kernel in kernels(outputs, inputs, seed).items():
                truth = float(torch.linalg.matrix_norm(dense_convolution(kernel, (size, size)), 2))
                cosines, sines = frequencies((size, size), (3, 3))
                spectrum = torch.complex(kernel.flatten(2) @ cosines[0].mT, kernel.flatten(2) @ sines[0].mT)
                periodic = float(torch.linalg.matrix_norm(spectrum.movedim(-1, 0), 2).max())
                scaled = almost_orthogonal(1e3 * kernel)
                found = {
                    "four tori": float(conv_bound(kernel, (size, size))) / truth,
                    "periodic torus, exact norms": periodic / truth,
                    "sum over taps": float(tap_bound(kernel)) / truth,
                    "almost orthogonal": 1 / float(torch.linalg.matrix_norm(dense_convolution(scaled, (size, size)), 2)),
                }
                row = table.setdefault(f"{size}x{size} {outputs}<-{inputs} {kind}", {})
                for name, ratio in found.items():
                    row[name] = max(row.get(name, 0.0), round(ratio, 5))
    return table


VARIANTS: dict[str, dict[str, Any]] = {
    "gram lipswish": {"family": "gram", "nonlinearity": "lipswish"},
    "gram elu": {"family": "gram", "nonlinearity": "elu"},
    "gram tanh": {"family": "gram", "nonlinearity": "tanh"},
    "sandwich tanh": {"family": "sandwich", "nonlinearity": "tanh"},
    "sandwich elu": {"family": "sandwich", "nonlinearity": "elu"},
    "sandwich softplus": {"family": "sandwich", "nonlinearity": "softplus"},
    "sandwich elu, almost orthogonal ends": {"family": "almost", "nonlinearity": "elu"},
    "sandwich elu, three hidden layers": {"family": "sandwich", "nonlinearity": "elu", "hidden": (48, 48, 48)},
    "sandwich elu, one hidden layer": {"family": "sandwich", "nonlinearity": "elu", "hidden": (48,)},
    "gram lipswish, preactivated": {"family": "gram", "nonlinearity": "lipswish", "preactivate": True},
    "gram clipswish": {"family": "gram", "nonlinearity": "clipswish"},
    "concatenated tanh": {"family": "concatenated", "nonlinearity": "tanh"},
    "concatenated lipswish": {"family": "concatenated", "nonlinearity": "lipswish"},
    "concatenated clipswish": {"family": "concatenated", "nonlinearity": "clipswish"},
    "gram maxmin": {"family": "gram", "nonlinearity": "maxmin"},
}


def build(variant: dict[str, Any], blocks: int, lipschitz: float) -> Flow:
    """A flow of one scale, 14 x 14 x 4."""
    shape, given = (4, 14, 14), {"hidden": (48, 48)} | variant
    parts: list[Any] = [Pixels(), Squeeze()]
    for _ in range(blocks):
        if given["family"] == "almost":
            branch: Any = AlmostOrthogonalBranch(shape, given["hidden"], lipschitz, given["nonlinearity"])
        elif given["family"] == "concatenated":
            branch = ConcatenatedBranch(shape, given["hidden"], lipschitz, given["nonlinearity"])
        else:
            branch = conv_branch(shape=shape, lipschitz=lipschitz, **given)
        parts += [ActNorm(4), Residual(branch)]
    return Flow(Chain([*parts, ActNorm(4), Unsqueeze()]), StandardNormal((1, 28, 28)))


def digits() -> tuple[Tensor, Tensor]:
    """MNIST's training and test images as levels (N, 1, 28, 28)."""
    from iresnet.data.images import find

    source = find("mnist")
    if source is None:
        raise SystemExit("no MNIST: set IRESNET_DATA to the folder that holds it")
    splits = source.read(None)
    return torch.from_numpy(splits["train"].images), torch.from_numpy(splits["test"].images)


def train(name: str, train_images: Tensor, test_images: Tensor, asked: argparse.Namespace) -> dict[str, Any]:
    """One run: bits/dim on test images, its errors, and what a step costs."""
    torch.manual_seed(asked.seed)
    flow = build(VARIANTS[name], asked.blocks, asked.lipschitz)
    generator = torch.Generator().manual_seed(asked.seed)

    def batch(images: Tensor, rows: Tensor) -> Tensor:
        levels = images[rows].float()
        return levels + torch.rand(levels.shape, generator=generator).clamp(max=1 - 1e-6)

    flow.initialize(batch(train_images, torch.randint(len(train_images), (256,), generator=generator)))
    optimizer = torch.optim.Adam(flow.parameters(), asked.lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, asked.lr, asked.steps, pct_start=0.1, anneal_strategy="linear")
    bits, began = 784 * math.log(2), time.process_time()
    flow.train()
    for step in range(asked.steps):
        x = batch(train_images, torch.randint(len(train_images), (asked.batch,), generator=generator))
        optimizer.zero_grad()
        loss = -flow.log_prob(x).mean() / bits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"{name}: step {step + 1}, {loss.item():.3f} bits/dim, {time.process_time() - began:.0f} s", flush=True)
    seconds = time.process_time() - began
    flow.eval()
    values, variances = [], []
    with torch.no_grad():
        for rows in torch.arange(asked.test).split(100):
            told = flow.estimate(batch(test_images, rows), logdet=PowerSeries(probes=2, tol=1e-2), noise=Noise(0, rows))
            values.append(told.value)
            variances.append(told.stderr.square())
    value = torch.cat(values)
    return {
        "bits_per_dim": -float(value.mean()) / bits,
        "stderr_data": float(value.std()) / math.sqrt(len(value)) / bits,
        "stderr_estimator": math.sqrt(float(torch.cat(variances).sum())) / len(value) / bits,
        "seconds_per_step": seconds / asked.steps,
        "parameters": sum(parameter.numel() for parameter in flow.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["bounds", "families", []], default=["bounds", "families"])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--lipschitz", type=float, default=0.97)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--test", type=int, default=1000, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    content: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    if "bounds" in asked.parts:
        write_json(asked.out, content := content | {"bounds": bounds()})
    if "families" not in asked.parts:
        return
    images = digits()
    setting = {key: getattr(asked, key) for key in ("steps", "batch", "blocks", "lipschitz", "lr", "test", "seed")}
    key = ", ".join(f"{name} {value}" for name, value in setting.items())
    for name in asked.only:
        known = content.setdefault("families", {}).setdefault(key, {})
        if name not in known:
            known[name] = train(name, *images, asked)
            print(name, json.dumps(known[name]), flush=True)
            content["machine"] = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.platform()}
            write_json(asked.out, content)


if __name__ == "__main__":
    main()
