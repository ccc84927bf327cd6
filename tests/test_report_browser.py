"""The report in a real browser: nothing sticks out at 400 and 1280 pixels, light or dark, and all of it can be read.

A wrapper page holds the report in a frame of the wanted width and measures it; Chromium prints what was found.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sklearn.datasets import load_wine

import report_run
from iresnet import pictures
from iresnet.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path to open the report in")

MEASURE = """
const page = document.querySelector('iframe').contentDocument, view = page.defaultView, root = page.documentElement;
const seen = [...page.body.querySelectorAll('*')].filter(e => e.getClientRects().length && !e.closest('.unseen'));
const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(
  v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = e => { for (; e; e = e.parentElement) { const c = parse(view.getComputedStyle(e).backgroundColor);
  if (c[3] > 0) return c; } return [255, 255, 255, 1]; };
const texts = seen.filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
const about = e => e.tagName + '.' + (e.className.baseVal ?? e.className) + ' ' + e.textContent.trim().slice(0, 40);
const contrast = e => { const s = view.getComputedStyle(e), a = light(parse(e.closest('svg') ? s.fill : s.color)),
  b = light(ground(e)); return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
const size = e => { const s = parseFloat(view.getComputedStyle(e).fontSize), svg = e.closest('svg');
  return svg ? s * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : s; };
const out = {
  width: view.innerWidth, scroll: root.scrollWidth, dark: light(ground(page.body)) < 0.2, texts: texts.length,
  outside: seen.filter(e => e.getBoundingClientRect().right > view.innerWidth + 1).map(about),
  clipped: [...page.querySelectorAll('.scroll, pre')].filter(e => e.scrollWidth > e.clientWidth + 1).map(about),
  faint: texts.filter(e => contrast(e) < 4.5).map(e => contrast(e).toFixed(2) + ' ' + about(e)),
  tiny: texts.filter(e => size(e) < 10.5).map(e => size(e).toFixed(1) + ' ' + about(e)),
  pictures: [...page.images].map(i => i.naturalWidth),
};
document.body.innerHTML = '<pre id=out></pre>';
document.getElementById('out').textContent = JSON.stringify(out);
"""


def measure(report: Path, width: int, dark: bool, folder: Path) -> dict:
    """Open ``report`` in a frame of ``width`` pixels, its folded parts unfolded, and return what was measured."""
    page = report.read_text(encoding="utf-8").replace("<details>", "<details open>")
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    script = f"<script>addEventListener('load', () => {{ {MEASURE} }})</script>"
    (folder / "frame.html").write_text(f"<!doctype html><meta charset=utf-8><body>{frame}{script}", encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --window-size=1400,1000 --virtual-time-budget=5000 --dump-dom"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [str(BROWSER), *flags.split(), scheme, profile, (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search('<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the browser measured nothing: {done.stdout[-300:]} {done.stderr[-300:]}"
    return json.loads(html.unescape(found.group(1)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_report(report_run.write_moons_run(tmp_path_factory.mktemp("moons"), steps=30))


@pytest.fixture(scope="module")
def crowded(plain: Path, tmp_path_factory) -> Path:
    """Long names without spaces, many columns and blocks, a failing certificate, warnings: what could burst a page."""
    folder = Path(shutil.copytree(plain.parent, tmp_path_factory.mktemp("table") / "wine"))
    wine, long = load_wine(), "measurements_of_the_second_campaign_" * 4
    run = json.loads((folder / "run.json").read_text())
    names = [f"{long}{name}" for name in wine.feature_names]
    data = {**run["data"], "name": f"/a/{long}.csv", "columns": names * 3, "warnings": names[:2]}
    report_run.write(
        folder, "run.json", {**run, "data": data, "status": "interrupted", "command": f"iresnet train /a/{long}.csv"}
    )
    blocks = json.loads((folder / "certificate.json").read_text())["blocks"] * 3
    blocks = [{**block, "name": f"chain.bijections.{i}.inner.branch"} for i, block in enumerate(blocks)]
    blocks[3] |= {"guarantee": "estimate (power iteration)", "measured": 1.23456, "holds": False}
    report_run.write(folder, "certificate.json", report_run.certificate_of(blocks))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    found = {"value": -1234567.8, "stderr_estimator": 12.3, "stderr_data": 2345.6, "bias": 1e-9}
    baselines = {"Gaussian mixture, components chosen on validation": -1234999.0, long: -2e7}
    report_run.write(folder, "evaluation.json", {**evaluation, "log_prob": found, "baselines": baselines})
    pictures.pairs(folder / "pictures" / "pairs.png", names, wine.data, wine.data[::-1])
    return write_report(folder)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("which", ["plain", "crowded"])
def test_the_page_fits_and_can_be_read(which: str, width: int, dark: bool, request, tmp_path: Path) -> None:
    found = measure(request.getfixturevalue(which), width, dark, tmp_path)
    assert found["dark"] is dark and found["texts"] > 50
    assert found["width"] == width and found["scroll"] <= width and found["outside"] == []
    assert found["clipped"] == []
    assert found["faint"] == [] and found["tiny"] == []
    assert found["pictures"] and all(found["pictures"])
