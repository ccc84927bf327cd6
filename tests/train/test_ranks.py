"""Two processes under torchrun, real ones talking by gloo: they are one training on the joined batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import iresnet
from iresnet.config import build_config
from iresnet.runs import train_run

# Every term of the loss at once: estimated log-determinants, the soft constraint, a batch that two ranks share unevenly and take
# in parts; then more columns, for which the default estimator stops at random and takes several blocks at once, fewer of them the
# more rows a rank has; then batches and held-out rows too few for two; then images, whose levels and shifts are of their rows.
STEP = """
import torch
from safetensors.torch import save_file
from iresnet import dense_flow, image_flow
from iresnet.bijections import waiting
from iresnet.data import Augmentation, ImageSchema
from iresnet.numerics.series import PowerSeries
from iresnet.parallel import ranks
from iresnet.settings import Settings
from iresnet.tasks.rows import Rows
from iresnet.train import Trainer

torch.manual_seed(0)
torch.set_num_threads(1)
rows = torch.randn(150, 3, dtype=torch.float64) @ (torch.eye(3) + torch.ones(3, 3).tril()).double()
context = torch.randn(150, 2, dtype=torch.float64)
found = {}

waiting._ENTRIES = 4 * 8 * 12  # room for four blocks of one of these batches, of width 8

def shaken(flow, logdet=None):
    for parameter in flow.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    flow.train_logdet = logdet or flow.train_logdet
    return flow

def train(name, flow, rows, held, **settings):
    told = []
    settings = Settings(lr=1e-2, log_every=1, clip=1e9, warmup=0, **settings)
    trainer = Trainer(flow, rows, held, settings, [told.append], here)
    trainer.run(until=1)
    found.update({f"{name}.{key}": value.grad.clone() for key, value in flow.named_parameters() if value.grad is not None})
    trainer.run()
    told = [record["loss"] if record["split"] == "train" else record["log_prob"] for record in told]
    found[f"{name}.losses"] = torch.tensor([float(number) for number in told], dtype=torch.float64)
    found.update({f"{name}.end.{key}": value for key, value in flow.state_dict().items()})

with ranks(torch.device("cpu")) as here:
    flow = dense_flow(3, 2, blocks=2, hidden=(8,), family="gram").double()
    flow.initialize(rows, context)
    shaken(flow, PowerSeries(terms=3, probes=2))
    parts = Rows(rows[:120], context[:120]), Rows(rows[120:], context[120:])
    train("table", flow, *parts, steps=6, batch_size=33, penalty=0.01, validate_every=3, accumulate=3)
    wide = torch.cat([rows, rows.flip(0) + 0.5 * torch.randn_like(rows)], 1)
    flow = dense_flow(6, blocks=6, hidden=(8, 8), family="gram", lipschitz=0.97).double()
    flow.initialize(wide)
    assert flow.train_logdet.roulette == "adaptive"
    train("wide", shaken(flow), Rows(wide), Rows(wide[:7]), steps=12, batch_size=25, validate_every=6)
    flow = dense_flow(3, blocks=1, hidden=(8,)).double()
    flow.initialize(rows)
    train("few", shaken(flow, PowerSeries()), Rows(rows), Rows(rows[:1]), steps=3, batch_size=1, validate_every=1)
    flow = image_flow((1, 4, 4), blocks=(1,), hidden=4, levels=17).double()
    images = torch.randint(0, 17, (50, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Rows(images, schema=ImageSchema((1, 4, 4), 17), augment=Augmentation(1, True))
    flow.initialize(images.all(torch.zeros((), dtype=torch.float64)).x)
    train("images", shaken(flow), images, images, steps=3, batch_size=11, validate_every=3)
    save_file(found, "OUT" if here.first else "OUT.second")
with ranks(torch.device("cpu")) as again:  # who joined once may do so again
    assert int(again.add(torch.ones(()))) == here.count == again.count
"""


def together(words: list[str], cwd: Path, processes: int = 2) -> subprocess.Popen[str]:
    """Start ``words`` (a script, or -m and a module) as so many ranks."""
    source = str(Path(iresnet.__file__).parents[1])
    path = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *launch, *words],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The ranks that torchrun started, by number of process."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(found) >= 2
    return [int(number) for number in found]


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def test_two_ranks_are_one_training(tmp_path: Path) -> None:
    """Gradients of the joined batch, and the same losses and weights some steps later, to rounding in float64."""
    found = {}
    for processes in (1, 2):
        out = tmp_path / f"{processes}.safetensors"
        script = tmp_path / f"step_{processes}.py"
        script.write_text(STEP.replace("OUT", str(out)))
        finish(together([str(script)], tmp_path, processes))
        found[processes] = load_file(out)
    one, two = found[1], found[2]
    assert one.keys() == two.keys() and len(one) > 60
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
    assert len(two["table.losses"]) == 8 and len(set(two["table.losses"].tolist())) == 8
    assert len(two["wide.losses"]) == 14 and len(two["few.losses"]) == 6 and len(two["images.losses"]) == 4
    for key, value in load_file(tmp_path / "2.safetensors.second").items():
        assert torch.equal(value, two[key]), f"every rank knows the same {key}"


MIXTURES = """
import torch
from safetensors.torch import save_file
from iresnet import dense_flow
from iresnet.fitting import start
from iresnet.parallel import ranks
from iresnet.settings import Settings
from iresnet.tasks.rows import Rows
from iresnet.train import Trainer

torch.manual_seed(0)
rows = torch.randn(200, 2, dtype=torch.float64)
flow = dense_flow(2, blocks=1, hidden=(4,), base="mixture", components=5).double()
with ranks(torch.device("cpu")) as here:
    start(flow, rows, seed=here.rank)
    alone = flow.base.centers.clone()
    trainer = Trainer(flow, Rows(rows), None, Settings(steps=3, batch_size=50), (), here)
    trainer.run()
    save_file({"alone": alone, **{f"end.{key}": value for key, value in flow.base.state_dict().items()}}, f"OUT.{here.rank}")
"""


def test_ranks_that_start_at_other_mixtures_train_that_of_the_first(tmp_path: Path) -> None:
    script = tmp_path / "mixtures.py"
    script.write_text(MIXTURES.replace("OUT", str(tmp_path / "out")))
    finish(together([str(script)], tmp_path))
    first, second = (load_file(tmp_path / f"out.{rank}") for rank in (0, 1))
    assert not torch.equal(first["alone"], second["alone"]), "another seed is another mixture"
    assert torch.equal(first["end.centers"], first["alone"]) and first["end.shift"].abs().max() > 0
    assert all(torch.equal(value, second[key]) for key, value in first.items() if key != "alone")


GIVEN = ["--set", "model.blocks=1", "--set", "model.hidden=[8]", "--set", "data.n=301", "--set", "train.log_every=5", "--set"]
GIVEN = [*GIVEN, "train.checkpoint_every=20", "--set", "train.validate_every=15", "--set", "train.batch_size=51"]


def start(run: Path, *words: str) -> subprocess.Popen[str]:
    return together(["-m", "iresnet", "train", *words, "--out", str(run), "-q"], run.parent)


def losses(run: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["split"], line["step"], line.get("loss", line.get("log_prob"))) for line in lines]


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path: Path) -> None:
    """The same losses as one process; one rank killed and both resumed it is the same run bit for bit."""
    words = ["moons", "--steps", "600", *GIVEN]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    out = finish(start(whole, *words))
    assert out.count("log p, nats per row") == 1, "one rank tells"
    options = {"data.name": "moons", "data.n": 301, "model.blocks": 1, "model.hidden": [8], "train.steps": 600}
    options |= {"train.log_every": 5, "train.validate_every": 15, "train.batch_size": 51}
    train_run(build_config(options=options), tmp_path / "one")
    alone, two = losses(tmp_path / "one"), losses(whole)
    assert [record[:2] for record in alone] == [record[:2] for record in two]
    for (_, step, mine), (_, _, theirs) in zip(alone, two, strict=True):
        assert abs(mine - theirs) < 1e-3 * (1 + step / 100), "float32 rounding, which training amplifies slowly"

    process = start(parts, *words)
    end = time.monotonic() + 60
    while time.monotonic() < end and not (parts / "state.safetensors").exists():
        time.sleep(0.01)
    killed = time.monotonic()
    os.kill(workers(process)[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and time.monotonic() - killed < 45
    assert "another of the 2 processes ended or does not answer" in err and "--resume" in err
    assert [line for line in err.splitlines() if line.startswith("iresnet (process 0)")], "one sentence, of the one that is left"
    told = json.loads((parts / "run.json").read_text())
    assert told["status"] == "running" and 0 < told["step"] < 600
    finish(start(parts, "--resume"))
    assert losses(parts) == two
    for name in ("state.safetensors", "best/model.safetensors"):
        for key, value in load_file(parts / name).items():
            assert torch.equal(value, load_file(whole / name)[key]), key
    before = (parts / "best" / "model.safetensors").read_bytes()
    assert finish(start(parts, "--resume")).count("log p, nats per row") == 1
    assert (parts / "best" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    """Killed as two and resumed as one it is the run of one, to float32's rounding, with the estimator that training has."""
    words = ["digits", "--steps", "150", "--set", "train.log_every=5", "--set", "train.checkpoint_every=20"]
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    finish(together(["-m", "iresnet", "train", *words, "--out", str(whole), "-q"], tmp_path, 1))
    process = start(moved, *words)
    end = time.monotonic() + 60
    while time.monotonic() < end and not (moved / "state.safetensors").exists():
        time.sleep(0.01)
    for worker in workers(process):
        os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=60)
    assert 0 < json.loads((moved / "run.json").read_text())["step"] < 150
    finish(together(["-m", "iresnet", "train", "--resume", "--out", str(moved), "-q"], tmp_path, 1))
    one, two = losses(whole), losses(moved)
    assert [record[:2] for record in one] == [record[:2] for record in two] and len(one) > 30
    for (_, step, mine), (_, _, theirs) in zip(one, two, strict=True):
        assert abs(mine - theirs) < 1e-3 * (1 + step / 50), (step, mine, theirs)


@pytest.mark.slow
def test_bad_input_under_torchrun(tmp_path: Path) -> None:
    """Every rank ends; none waits for the others."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"data": {}}')
    process = start(tmp_path / "run", "moons", "--steps", "5", *GIVEN)
    _, err = process.communicate(timeout=100)
    assert process.returncode != 0 and "already holds a run" in err
