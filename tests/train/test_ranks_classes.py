"""Two processes that classify, or learn a density and classes at once, are one training on the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_ranks import finish, together

# A batch that two ranks share unevenly, as are the rows that are held out.
STEP = """
import torch
from safetensors.torch import save_file
from iresnet.models import dense_classifier
from iresnet.numerics.series import PowerSeries
from iresnet.parallel import ranks
from iresnet.settings import Settings
from iresnet.tasks.classify import Classify
from iresnet.tasks.hybrid import Hybrid
from iresnet.tasks.rows import Rows
from iresnet.train import Trainer

torch.manual_seed(0)
torch.set_num_threads(1)
x, labels = torch.randn(150, 3, dtype=torch.float64), torch.randint(4, (150,))
network = dense_classifier(3, 4, blocks=2, hidden=(8,), family="gram").double()
network.initialize(x)
for parameter in network.parameters():
    parameter.data += 0.2 * torch.randn_like(parameter)
network.flow.train_logdet = PowerSeries(terms=3, probes=2)
task = TASK
with ranks(torch.device("cpu")) as here:
    settings = Settings(steps=6, batch_size=33, penalty=0.01, lr=1e-2, log_every=1, validate_every=3, clip=1e9, warmup=0)
    told = []
    train, held = (Rows(x[part], labels=labels[part]) for part in (slice(0, 119), slice(119, None)))
    trainer = Trainer(task, train, held, settings, [told.append], here)
    trainer.run(until=1)
    found = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    trainer.run()
    for index, record in enumerate(told):
        numbers = [value for key, value in record.items() if key not in ("split", "seconds", "lr")]
        found[f"told.{index}"] = torch.tensor(numbers, dtype=torch.float64)
    if here.first:
        save_file(found | {f"end.{k}": v for k, v in network.state_dict().items()}, "OUT")
"""


@pytest.mark.parametrize("task", ["Classify(network, smoothing=0.1)", "Hybrid(network, weight=0.5, smoothing=0.1)"])
def test_two_ranks_are_one_training(task: str, tmp_path: Path) -> None:
    """Gradients of the joined batch, the same figures at every step, and the same weights at the end, to rounding."""
    found = {}
    for processes in (1, 2):
        out, script = tmp_path / f"{processes}.safetensors", tmp_path / f"step_{processes}.py"
        script.write_text(STEP.replace("OUT", str(out)).replace("TASK", task))
        finish(together([str(script)], tmp_path, processes))
        found[processes] = load_file(out)
    one, two = found[1], found[2]
    assert one.keys() == two.keys() and sum(key.startswith("told.") for key in one) == 8
    assert one["linear.weight"].abs().max() > 0
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
