"""All reports in a browser without a network: every figure is drawn, nothing overflows, nothing is fetched."""

import json
import os
import re
import shutil
import subprocess

import pytest
from tests.drift_documents import make_document
from tests.monitor_records import make_alarm, make_epoch, make_live_document, make_monitor

from vfmalign.core.domain.jobs import CaseScore
from vfmalign.reports.checks import page as check_report
from vfmalign.reports.checks.page import ExampleSlice, PageSources
from vfmalign.reports.checks.score_table import COLUMNS
from vfmalign.reports.drift import page as drift_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (1280, 390, 320)
FIRST_SCREEN = 800
"""Pixels that a window of 1280 pixels shows without scrolling."""
# The page is shown in frames of both widths, which are its viewports; a window cannot be made as narrow as a telephone.
HARNESS = """<!doctype html><meta charset="utf-8"><pre id="views"></pre><script>
const frames = WIDTHS.map(width => {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.src = "page.html";
  document.body.append(frame);
  return new Promise(done => frame.onload = () => done([width, frame]));
});
const look = ([width, frame]) => {
  const page = frame.contentDocument, root = page.scrollingElement, folded = root.scrollWidth;
  const first = [...page.querySelectorAll(".cautions, .verdict, #forest, #gain-forest, #evidence, #windows")]
    .map(element => element.getBoundingClientRect().bottom);
  page.querySelectorAll("details").forEach(section => section.open = true);
  return {
    width, first, title: page.title,
    viewport: frame.contentWindow.innerWidth, scroll: Math.max(folded, root.scrollWidth),
    figures: [...page.images].map(image => ({alt: image.alt, natural: image.naturalWidth, shown: image.clientWidth})),
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
  };
};
Promise.all(frames).then(all => views.textContent = JSON.stringify(all.map(look)));
</script>"""


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium here: `apt-get install chromium`, as `.ci/run` does")
    return path


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a page at both widths and returns what the browser saw."""

    def run(html):
        (tmp_path / "page.html").write_bytes(html)
        harness = tmp_path / "harness.html"
        harness.write_text(HARNESS.replace("WIDTHS", json.dumps(WIDTHS)))
        done = subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--hide-scrollbars",  # as on a telephone: a bar beside the page would hide what overflows by its width
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files", "--enable-logging=stderr",
                "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000",
                "--dump-dom", harness.as_uri(),
            ],
            capture_output=True, text=True, timeout=240, check=True, env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        match = re.search(r'<pre id="views">(.+?)</pre>', done.stdout, re.DOTALL)
        assert match, done.stderr[-2000:]
        views = json.loads(match[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
        return views, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return run


def list_problems(views, console):
    """Lists the problems of a page."""
    problems = list(console)
    for view in views:
        if view["viewport"] != view["width"]:
            problems.append(f"shown at {view['viewport']} instead of {view['width']} pixels")
        if view["scroll"] > view["viewport"]:
            problems.append(f"{view['scroll']} pixels wide in {view['viewport']}")
        problems += [f"{one['alt']!r} did not draw" for one in view["figures"] if not (one["natural"] and one["shown"])]
        problems += [f"fetched {name}" for name in view["fetched"] if not name.startswith("data:")]
    return problems


@pytest.mark.parametrize(("size", "models"), [("small", 3), ("large", 5)])
def test_an_experiment_s_page(open_page, pages, size, models):
    views, console = open_page(pages[size].encode())
    assert list_problems(views, console) == []
    assert views[0]["title"].startswith("Experiment ")
    assert len(views[0]["first"]) == {"small": 5, "large": 4}[size], "the answers, the main figure and the cautions"
    assert max(views[0]["first"]) <= FIRST_SCREEN
    # 2 × (tasks + models) panels and their legends, 2 maps, curves and their legend, predictors
    assert {len(view["figures"]) for view in views} == {2 * (5 + models) + 2 * (models + 5) + 2 + 5 * models + 3 + 1}


def test_the_page_of_an_experiment_on_label_efficiency(open_page, pages):
    views, console = open_page(pages["labels"].encode())
    assert list_problems(views, console) == []
    curves = [one["alt"] for one in views[0]["figures"] if "number of training cases" in one["alt"]]
    assert len(curves) == 3 * 2


def with_description(network):
    """A network of an architecture that is described by JSON, as imported ones are."""
    layers = [{"kind": "convolution", "channels": 32}] * 200
    return network.model_copy(update={"architecture": f"dilated_stack:{json.dumps({'layers': layers})}"})


def list_scores(metric, network):
    """Scores of cases with ids of an import."""
    values = {"pretrained": 0.1, "specialised": 0.6, "scratch": 0.5, "naive": 0.4}
    return [
        CaseScore(case=f"c-5f5b865d1efe161{place}", group="g", values={metric.name: values[network]})
        for place in range(3)
    ]


def test_a_check_s_page(open_page, make_report, make_png):
    networks = [with_description(network) for network in make_report().result.networks]
    report = make_report(phantom=True, leakage_known=False, held_out=False, networks=tuple(networks))
    scores = {name: list_scores(report.result.metric, name) for name in COLUMNS}
    sources = PageSources([ExampleSlice("pretrained", make_png(), "case c-01")], scores)
    views, console = open_page(check_report.render(report, sources))
    assert list_problems(views, console) == []
    assert {len(view["figures"]) for view in views} == {4}
    assert len(views[0]["first"]) == 3, "the verdict, the main figure and the cautions"
    assert max(views[0]["first"]) <= FIRST_SCREEN


@pytest.mark.parametrize("alarm_row", [231, None], ids=str)
def test_a_monitor_s_page(open_page, alarm_row):
    views, console = open_page(drift_page.render(make_document(alarm_row=alarm_row, has_guarantee=False)))
    assert list_problems(views, console) == []
    assert views[0]["title"] == "Drift of february, test"
    assert len(views[0]["first"]) == 4, "the caution, the verdict, the evidence and the windows"
    assert max(views[0]["first"]) <= FIRST_SCREEN


def test_the_page_of_a_monitor_of_the_service(open_page):
    epochs = [make_epoch(make_alarm(note="x" * 1000), number=number) for number in (3, 2, 1)]
    spec = make_monitor().spec.model_copy(update={"max_silence_hours": 2, "title": "t" * 200})
    monitor = make_monitor(epoch=epochs[0], earlier_epochs=tuple(epochs[1:]), state="paused", spec=spec)
    views, console = open_page(drift_page.render(make_live_document(monitor)))
    assert list_problems(views, console) == []
    assert len(views[0]["first"]) == 4, "the cautions, the verdict, the evidence and the windows"
    assert max(views[0]["first"]) <= FIRST_SCREEN


def test_problems_of_a_page_are_found(open_page):
    page = b"""<!doctype html><title>x</title><div style="width:500px">wide</div>
    <img src="data:image/png;base64,AAAA" alt="broken">
    <img src="http://example.invalid/picture.png" alt="outside"><script>console.error("oh")</script>"""
    text = "\n".join(list_problems(*open_page(page)))
    assert "500 pixels wide in 390" in text or "508 pixels wide in 390" in text
    assert "'broken' did not draw" in text
    assert "fetched http://example.invalid/picture.png" in text
    assert "oh" in text
