"""Equal time: the budget is kept by its clock, the best validated weights stay, and what diverges ends with a note."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from shaken import rows

from iresnet.compare import Budget, Domain, build, settings_for, train
from iresnet.compare.training import CLOCKS
from iresnet.errors import UserError
from iresnet.tasks.rows import Rows


@pytest.fixture
def halves() -> tuple[Rows, Rows]:
    return Rows(rows(2000, 2)), Rows(rows(300, 2, 1))


def test_the_budget_is_kept_by_the_processors_clock(halves: tuple[Rows, Rows]) -> None:
    domain = Domain((2,))
    shares: list[float] = []
    system = build("maf", domain, size=16)
    system.initialize(halves[0].values.float())
    before = float(system.eval().score(halves[1].values.float()).mean())
    seconds = 0.4
    fitted = train(system, *halves, Budget(seconds, "cpu"), settings_for("maf", domain), lambda share, _: shares.append(share))
    assert seconds <= fitted.processor_seconds < 2 * seconds and fitted.steps > 5
    assert shares == sorted(shares) and shares[-1] >= 1
    assert not system.training
    assert float(system.score(halves[1].values.float()).mean()) > before + 0.05


def test_a_candidate_that_takes_longer_than_the_budget_is_told(halves: tuple[Rows, Rows]) -> None:
    """Kernels cannot be fitted a little: the first width is tried to its end."""
    system = build("kde", Domain((2,)))
    fitted = train(system, *halves, Budget(0.001, "cpu"), settings_for("kde", Domain((2,))))
    assert fitted.steps == 1 and fitted.processor_seconds > 0.001
    assert any(note.endswith("of a budget of 0.001 s: a candidate that is begun is finished") for note in fitted.notes)
    quick = train(build("gaussian", Domain((2,))), *halves, Budget(60, "cpu"), settings_for("gaussian", Domain((2,))))
    assert quick.notes == []


def test_the_best_validated_weights_are_kept(halves: tuple[Rows, Rows]) -> None:
    """Training on rows of another place makes the validation rows ever less likely: the weights of the first look stay."""
    domain = Domain((2,))
    seen: list[str] = []
    system = build("realnvp", domain, size=16)
    far = Rows(torch.cat([rows(500, 2), rows(500, 2) + 40.0]))
    train(system, far, halves[1], Budget(0.6, "cpu"), settings_for("realnvp", domain), lambda _, told: seen.append(told))
    looks = [float(told.split()[2]) for told in seen if told]
    kept = float(system.score(halves[1].values.float()).mean())
    assert kept == pytest.approx(max(looks), abs=1e-3)


def test_what_diverges_ends_early_with_a_note(halves: tuple[Rows, Rows]) -> None:
    domain = Domain((2,))
    system = build("realnvp", domain, size=16)
    settings = dataclasses.replace(settings_for("realnvp", domain), lr=1e30, warmup=0, clip=1e30)
    fitted = train(system, *halves, Budget(20.0, "cpu"), settings)
    assert fitted.processor_seconds < 10 and "not finite at step" in fitted.notes[0]
    assert bool(torch.isfinite(system.score(halves[1].values.float())).all())


def test_budgets_that_are_none_are_refused() -> None:
    assert set(CLOCKS) == {"cpu", "wall"}
    for budget in ((0.0, "cpu"), (1.0, "sun")):
        with pytest.raises(UserError, match="a budget needs a positive time and a clock, cpu or wall"):
            Budget(*budget)
