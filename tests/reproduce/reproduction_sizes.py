"""Every reproduction at the smallest size at which it still says something: seconds instead of minutes, the same code."""

from __future__ import annotations

from typing import Any

from iresnet.reproduce.bias import Bias
from iresnet.reproduce.complexity import Complexity
from iresnet.reproduce.figure1 import Figure1
from iresnet.reproduce.figure2 import Figure2
from iresnet.reproduce.figure3 import Figure3
from iresnet.reproduce.pretrain import Pretrain
from iresnet.reproduce.regularisation import Regularisation
from iresnet.reproduce.table1 import Table1
from iresnet.reproduce.table2 import Table2
from iresnet.reproduce.vae import Vae

__all__ = ["NEEDS", "SMALL"]

_NET = ("model.blocks=[2]", "model.hidden=[8,8]", "model.alpha=1e-6")

SMALL: dict[str, Any] = {
    "figure1": Figure1(blocks=4, hidden=(8, 8), points=20, steps=10, seeds=2),
    "figure2": Figure2(sets=("moons",), seconds=0.3, parameters=2000, rows=200),
    "figure3": Figure3(data="digits-images", sets=_NET, steps=10, rows=20, back=10),
    "table1": Table1(cells=("free", "0.5", "resnet"), sets=("train.steps=20", "model.blocks=2", "model.hidden=[8,8]")),
    "table2": Table2(data="digits-images", models=("iresnet", "made"), seconds=0.3, parameters=3000, rows=20),
    "complexity": Complexity(dimensions=(2, 4), width=8, seconds=0.1, rows=20),
    "bias": Bias(terms=(1,), blocks=2, hidden=(8, 8), steps=12, batch_size=64, rows=100),
    "regularisation": Regularisation(penalties=(0.1,), families=("gram",), blocks=2, hidden=(8, 8), steps=12, rows=100),
    "vae": Vae(data="digits-images", latent=3, hidden=16, layers=2, blocks=1, width=8, steps=20, rows=50, importance=4),
    "pretrain": Pretrain(sets=_NET, before=10, steps=10, seeds=1),
}
# What comes with the extra ``compare``.
NEEDS = {"figure2": ("normflows",), "complexity": ("zuko",), "table2": ("zuko",), "vae": ("normflows",)}
