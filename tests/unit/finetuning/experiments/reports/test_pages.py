"""Both reports in a real browser, without a network: every figure draws, nothing overflows, nothing is fetched."""

import json
import os
import re
import shutil
import subprocess

import pytest

from vfmalign.finetuning.reports import html as check_report
from vfmalign.finetuning.reports.html import Picture

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (1280, 390)
# The page is shown in frames of both widths, which are its viewports; a window cannot be made as narrow as a telephone.
HARNESS = """<!doctype html><meta charset="utf-8"><pre id="found"></pre><script>
const frames = WIDTHS.map(width => {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.src = "page.html";
  document.body.append(frame);
  return new Promise(done => frame.onload = () => done([width, frame]));
});
const look = ([width, frame]) => {
  const page = frame.contentDocument, root = page.scrollingElement;
  return {
    width, viewport: frame.contentWindow.innerWidth, scroll: root.scrollWidth, title: page.title,
    figures: [...page.images].map(image => ({alt: image.alt, natural: image.naturalWidth, shown: image.clientWidth})),
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
  };
};
Promise.all(frames).then(all => found.textContent = JSON.stringify(all.map(look)));
</script>"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium here: `apt-get install chromium`, as `.ci/run` does")
    return found


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
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files", "--enable-logging=stderr",
                "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000",
                "--dump-dom", harness.as_uri(),
            ],
            capture_output=True, text=True, timeout=240, check=True, env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr[-2000:]
        seen = json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
        return seen, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return run


def problems(seen, console):
    """What is wrong with a page, in words."""
    found = list(console)
    for view in seen:
        if view["viewport"] != view["width"]:
            found.append(f"shown at {view['viewport']} instead of {view['width']} pixels")
        if view["scroll"] > view["viewport"]:
            found.append(f"{view['scroll']} pixels wide in {view['viewport']}")
        found += [f"{one['alt']!r} did not draw" for one in view["figures"] if not (one["natural"] and one["shown"])]
        found += [f"fetched {name}" for name in view["fetched"] if not name.startswith("data:")]
    return found


@pytest.mark.parametrize(("size", "models"), [("small", 3), ("large", 4)])
def test_a_experiment_s_page(open_page, pages, size, models):
    seen, console = open_page(pages[size].encode())
    assert problems(seen, console) == []
    assert seen[0]["title"].startswith("Experiment ")
    # 2 × (tasks + models) panels and their legends, 2 maps, curves and their legend, predictors and probes
    assert {len(view["figures"]) for view in seen} == {2 * (5 + models) + 2 * (models + 5) + 2 + 5 * models + 3 + 2}


def test_a_check_s_page(open_page, make_report, make_png):
    seen, console = open_page(
        check_report.render(make_report(phantom=True), [Picture("pretrained", make_png(), "case c-01")])
    )
    assert problems(seen, console) == []
    assert {len(view["figures"]) for view in seen} == {4}


def test_what_is_wrong_is_seen(open_page):
    page = b"""<!doctype html><title>x</title><div style="width:500px">wide</div>
    <img src="data:image/png;base64,AAAA" alt="broken">
    <img src="http://example.invalid/picture.png" alt="outside"><script>console.error("oh")</script>"""
    found = "\n".join(problems(*open_page(page)))
    assert "500 pixels wide in 390" in found or "508 pixels wide in 390" in found
    assert "'broken' did not draw" in found
    assert "fetched http://example.invalid/picture.png" in found
    assert "oh" in found
