"""The report: the right figures on a sound page, whatever is missing, and whatever the data's names try to be."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import report_run
from iresnet.errors import UserError
from iresnet.report import bound, plus_minus, write_report

VOID = {"br", "img", "link", "meta", "wbr"}
HOSTILE = [
    '<script>alert("1")</script>',
    "'><img src=x onerror=alert(1)>",
    "a & b &lt;",
    "x\n\x00\u202e\ud800y",
    "名前",
]


class Page(HTMLParser):
    """A page as a list of (tag, attributes) and its text; complains about tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html, self.tags, self.open, self.words = path.read_text(encoding="utf-8"), [], [], []
        self.feed(self.html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).replace("\u2212", "-").split())

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    return report_run.write_moons_run(tmp_path_factory.mktemp("moons"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def read(run: Path, name: str) -> dict:
    return json.loads((run / name).read_text())


def change(run: Path, name: str, **changes: object) -> dict:
    content = {**read(run, name), **changes}
    report_run.write(run, name, content)
    return content


def test_the_page_says_what_was_trained_and_how_well(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page, evaluation = Page(path), read(run, "evaluation.json")
    found, above = evaluation["log_prob"], evaluation["nats_above_truth"]
    assert page.words.count("moons") >= 1 and "143 parameters" in page.text and "4,000 rows" in page.text
    assert plus_minus(found["value"], found["stderr_data"]) in page.text.replace("\u00a0", " ")
    assert plus_minus(above["value"], above["stderr"]) in page.text.replace("\u00a0", " ")
    assert "the log-determinant is exact" in page.text and "full-covariance Gaussian" in page.text
    assert "Guaranteed for every input" in page.text and "at most 0.9700" in page.text
    for block in read(run, "certificate.json")["blocks"]:
        assert bound(block["measured"], below=True) in page.text
    assert "iresnet train moons --steps 120 --seed 0 --out runs/moons" in page.text
    assert report_run.CONFIG.split("\n")[1] in page.text and "samples.npz" in page.text
    assert "Picard(tol=1e-09)" in page.text and "No warnings about the data" in page.text


def test_the_page_needs_nothing_but_itself(run: Path) -> None:
    page = Page(write_report(run))
    without_pictures = re.sub(r"data:image/png;base64,[\w+/=]+", "", page.html)
    assert not re.search(r"(?i)https?:|//[a-z]|@import|url\(|<script|<iframe|\son\w+=", without_pictures)
    for _, attributes in page.tags:
        for key in ("src", "href"):
            assert attributes.get(key, "data:").startswith("data:")
    policies = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies and policies[0].startswith("default-src 'none'")


def test_the_page_can_be_used_without_seeing_it(run: Path) -> None:
    page = Page(write_report(run))
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1
    assert page.all("img") and all(len(image["alt"]) > 20 for image in page.all("img"))
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) >= 2
    names = [heading["id"] for heading in page.all("h2")]
    assert [s["aria-labelledby"] for s in page.all("section")] == names and len(set(names)) == len(names)
    charts = [svg for svg in page.all("svg") if svg.get("class") == "chart"]
    assert len(charts) == 2 and all(c["role"] == "img" and "from" in c["aria-label"] for c in charts)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("evaluation.json", "Best validation log-likelihood"),
        ("certificate.json", "iresnet certify run"),
        ("metrics.jsonl", "No metrics have been written yet"),
        ("config.toml", "How to remake it"),
        ("samples.npz", "Samples beside data"),
        ("pictures", "There are no pictures"),
    ],
)
def test_a_missing_part_is_named_and_the_rest_shown(run: Path, missing: str, said: str) -> None:
    whole = Page(write_report(run))
    shutil.rmtree(run / missing) if (run / missing).is_dir() else (run / missing).unlink()
    page = Page(write_report(run))
    assert said in page.text
    assert [h["id"] for h in page.all("h2")] == [h["id"] for h in whole.all("h2")]


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    report_run.write(tmp_path / "new", "run.json", {"status": "running", "steps": 500})
    page = Page(write_report(tmp_path / "new"))
    assert "still going on at step 0 of 500" in page.text and "--resume" in page.text
    for command in ("evaluate", "certify", "reconstruct"):
        assert f"iresnet {command} new" in page.text
    assert "nan" not in page.text.lower().split()


def test_names_from_the_data_are_text_and_nothing_else(run: Path) -> None:
    clean = Page(write_report(run))
    for name in ("run.json", "certificate.json", "evaluation.json"):
        content = json.dumps(read(run, name))
        for word in ("moons", "blocks.1", "Exact()", "full-covariance Gaussian", "gram", "cpu", "hidden", '"test"'):
            bad = json.dumps(HOSTILE[len(word) % 2])[1:-1]
            content = content.replace(f'"{word}"', f'"{bad}"') if word[0] != '"' else content
        (run / name).write_text(content)
    data = read(run, "run.json")["data"]
    change(
        run, "run.json", data={**data, "columns": HOSTILE, "warnings": HOSTILE}, status=HOSTILE[0], command=HOSTILE[1]
    )
    (run / "config.toml").write_text(f"# {HOSTILE[0]}")
    shutil.move(run / "pictures" / "density.png", run / "pictures" / "<script>x.png")
    page = Page(write_report(run))
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4], "x \ufffd\u202e\ufffdy"):
        assert name in page.text
    allowed = {tag for tag, _ in clean.tags} | {"ul", "li"}
    assert {tag for tag, _ in page.tags} <= allowed and len(page.all("img")) == 1
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


def test_bits_per_dimension_lead_and_show_both_errors(run: Path) -> None:
    bits = {"value": 1.98712, "stderr_estimator": 0.00081, "stderr_data": 0.0112, "bias": 0.00013}
    change(run, "evaluation.json", bits_per_dim=bits, nats_above_truth=None, true_log_density=None)
    text = Page(write_report(run)).text.replace("\u00a0", " ")
    assert "Held-out bits/dim 1.987 ± 0.011 ± 0.0008" in text and "bias at most 0.00013" in text
    assert "This flow bits per dimension 1.987 0.011 0.00081 0.00013" in text
    assert "Above the truth" not in text and "True density" not in text and "better than a full-covariance" in text
    change(run, "evaluation.json", bits_per_dim={**bits, "stderr_estimator": None, "bias": None})
    text = Page(write_report(run)).text.replace("\u00a0", " ")
    assert "1.987 ± 0.011 ± unknown" in text and "bias unknown" in text


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ({"holds": False}, "more was measured than it allows"),
        ({"bound": 1.0}, "the bound is not below 1"),
        ({"bound": None}, "the bound is not below 1"),
        ({"bound": 0.2}, "more was measured"),
    ],
)
def test_no_guarantee_is_claimed_that_the_certificate_does_not_give(run: Path, flaw: dict, said: str) -> None:
    blocks = read(run, "certificate.json")["blocks"]
    blocks[3] |= {"name": "the_third", **flaw}
    change(run, "certificate.json", blocks=blocks, holds=blocks[3]["holds"])
    text = Page(write_report(run)).text
    assert "Not guaranteed: the_third." in text and said in text
    assert "Guaranteed for every input" not in text and "Inverse not guaranteed" in text


def test_a_family_that_promises_nothing_may_still_be_certified_for_the_weights_it_has(run: Path) -> None:
    assert "training on" not in Page(write_report(run)).text
    blocks = [{**block, "guarantee": "estimate"} for block in read(run, "certificate.json")["blocks"]]
    change(run, "certificate.json", blocks=blocks, amplification=12.34)
    text = Page(write_report(run)).text
    assert (
        "Guaranteed for every input" in text and "✓ yes estimate" in text and "cannot be broken by training on" in text
    )
    assert "grows about 12 times" in text


def test_many_blocks_and_columns_are_folded_away(run: Path) -> None:
    blocks = read(run, "certificate.json")["blocks"] * 4
    change(run, "certificate.json", blocks=blocks)
    change(run, "run.json", data={**read(run, "run.json")["data"], "columns": [f"c{i}" for i in range(90)]})
    page = Page(write_report(run))
    assert "All 32 blocks" in page.text and "90 columns" in page.text and "c89" in page.text
    assert len(page.all("details")) == 3
    change(run, "certificate.json", blocks=[])
    assert "no residual blocks" in Page(write_report(run)).text


def test_metrics_of_a_killed_and_resumed_run(run: Path) -> None:
    lines = [{"step": s, "split": "train", "loss": 3.0 - s / 100} for s in range(0, 100, 10)]
    lines += [{"step": 90, "split": "train", "loss": float("nan")}, {"step": 80, "split": "train", "loss": 7.25}]
    lines += [{"step": 50, "split": "validation", "log_prob": -1.0, "stderr_data": 0.1, "stderr_estimator": None}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text + "[1]\n" + '{"step": 100, "split": "tr')
    change(run, "run.json", status="interrupted", steps=200)
    page = Page(write_report(run))
    labels = [svg["aria-label"] for svg in page.all("svg") if "aria-label" in svg]
    assert labels[0] == "Training loss over 9 logged steps, from 3 to 7.25."
    assert "1 step not finite and left out" in page.text and "unknown errors are not in the band" in page.text
    assert "interrupted at step 90 of 200" in page.text


def test_user_errors(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; give the folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no run\.json"):
        write_report(tmp_path)
    report_run.write(run, "evaluation.json", [1])
    with pytest.raises(UserError, match="does not hold a JSON object"):
        write_report(run)
    (run / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        write_report(run)


def test_writing_again_gives_the_same_bytes_and_leaves_nothing_behind(run: Path) -> None:
    (run / "pictures" / "broken.png").write_bytes(b"no picture")
    before = {path.name for path in run.iterdir()}
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert {path.name for path in run.iterdir()} == before | {"report.html"}
    assert first.count(b"<img") == 1


def test_the_report_imports_nothing_heavy() -> None:
    code = "import sys, iresnet.report; print({'torch', 'numpy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
