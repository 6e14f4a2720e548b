"""Reports in a real browser: no request, no overflow, contrast in light and dark, values at points, tables that sort.

The figures in them are of runs made up for the purpose, with a trial of every kind.
"""

import json
import re
import select
import socket

import pytest
from browser import PROGRAM, Browser
from run_directories import BANDIT_BASELINES, write_run

from metarl.analysis.report import write_report
from metarl.analysis.trial_recording import Course, Path, Pulls, Rewards, TrialRecording, Visits, to_json

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium on this machine; apt-get install chromium")
TRIALS = {
    "course": Course("forward velocity", "m/s", 1.5, 0.05, [[0.0, 1.0, 2.0], [1.0, 1.5, 1.4]]),
    "path": Path(("x (m)", "y (m)"), [[[0, 0], [1, 1]], [[0, 0], [1, 2]]], [1, 2]),
    "visits": Visits((4, 3), 7, [[0, 1, 1, 5], [0, 4, 4, 7]]),
    "pulls": Pulls([0.2, 0.9, 0.4], [0, 1, 1], [0.0, 1.0, 1.0]),
    "rewards": Rewards([[0.0, 1.0], [1.0, 1.0]]),
}
NEAREST = """
(() => {  // lowest contrast of what is drawn and written in figures, and what it is
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(parse(getComputedStyle(document.body).backgroundColor));
  const grid = getComputedStyle(document.documentElement).getPropertyValue("--grid").trim();
  const found = [];
  for (const part of document.querySelectorAll("figure svg path, figure svg use, figure svg text")) {
    const style = getComputedStyle(part);
    if (part.closest("defs, clipPath, .tips")) continue;
    for (const kind of part.tagName === "text" ? ["fill"] : ["stroke", "fill"]) {
      const seen = style[kind] !== "none" && Number(style.opacity) * Number(style[kind + "Opacity"]) === 1;
      const width = kind === "stroke" && parseFloat(style.strokeWidth) === 0;
      if (!seen || width || part.style[kind] === "var(--grid)") continue;
      const [low, high] = [light(parse(style[kind])), paper].sort((a, b) => a - b);
      found.push([(high + 0.05) / (low + 0.05), part.outerHTML.slice(0, 200)]);
    }
  }
  found.sort((a, b) => a[0] - b[0]);
  return [found.length, ...found[0]];
})()
"""
COLUMN = "[...document.querySelectorAll('tbody')[0].rows].map((row) => row.cells[{}].textContent)"
CLICK = "document.querySelectorAll('thead')[0].rows[0].cells[{}].querySelector('button').click()"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports by name: one of each kind of trial, and one of several runs."""
    folder = tmp_path_factory.mktemp("pages")
    found, runs = {}, []
    for name, view in TRIALS.items():
        rows = 60 if name == "course" else 1  # one page with all figures is enough
        run = write_run(folder / name, rows=rows, baselines=BANDIT_BASELINES, bounds={"Bayes optimum": 6.65999})
        recording = TrialRecording("a task", returns=[1.0, 2.0, 3.0], view=view)
        (run / "trial.json").write_text(to_json(recording))
        found[name] = write_report([run], folder / f"{name}.html")
    for index, model in enumerate(("gru", "lstm", "mingru", "transformer", "snail", "amrl", "splagger")):
        runs.append(write_run(folder / model, model=model, final=6 + index / 10, rows=60 if index % 2 else 10))
    found["several"] = write_report(runs, folder / "several.html")
    return found


@pytest.mark.parametrize("width", [400, 800, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_their_window_and_stand_out_from_their_paper(browser, pages, width, scheme):
    for name, page in pages.items():
        browser.open(page, width, scheme)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, name
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 28)"}[scheme]
        parts, contrast, part = browser.evaluate(NEAREST)
        assert parts > 50 and contrast >= 3, f"{name}: {part}"


def test_texts_of_figures_are_legible_in_a_narrow_window(browser, pages):
    browser.open(pages["course"], 400, "light")
    sizes = "[...document.querySelectorAll('figure svg text')].map((text) => text.getBoundingClientRect().height)"
    assert min(browser.evaluate(sizes)) >= 8


def test_pages_ask_for_nothing_but_themselves(browser, pages):
    for page in pages.values():
        browser.requests.clear()
        browser.open(page, 800, "light")
        assert [url for url in browser.requests if not url.startswith("data:")] == [page.resolve().as_uri()]


def test_the_policy_of_a_page_refuses_other_scripts_and_addresses(browser, pages, tmp_path):
    page, policy = pages["several"].read_text(), re.compile("<meta http-equiv[^>]*>")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        image = f"<img src='http://127.0.0.1:{server.getsockname()[1]}/a.png'>"
        changed = page.replace("</body>", f"<script>document.title = 'changed'</script>{image}</body>")
        (tmp_path / "kept.html").write_text(changed)
        (tmp_path / "removed.html").write_text(policy.sub("", changed))
        browser.open(tmp_path / "kept.html", 800, "light")
        assert browser.evaluate("document.title") != "changed"
        with pytest.raises(BlockingIOError):
            server.accept()
        browser.open(tmp_path / "removed.html", 800, "light", wait=False)
        assert select.select([server], [], [], 20)[0], "without the policy it asks"


def test_tables_sort_by_numbers_and_texts(browser, pages):
    browser.open(pages["several"], 800, "light")
    heads = browser.evaluate("[...document.querySelectorAll('thead')[0].rows[0].cells].map((cell) => cell.textContent)")
    iqm, method = heads.index("IQM"), heads.index("method")
    for column, key in ((iqm, float), (method, str)):
        browser.evaluate(CLICK.format(column))
        first = browser.evaluate(COLUMN.format(column))
        browser.evaluate(CLICK.format(column))
        second = browser.evaluate(COLUMN.format(column))
        assert first == second[::-1] and len(set(first)) == 7
        assert first == sorted(first, key=key, reverse=key is float)
        marks = browser.evaluate("[...document.querySelectorAll('[aria-sort]')].map((cell) => cell.cellIndex)")
        assert marks == [column]


def test_rows_without_a_value_come_last(browser, pages):
    browser.open(pages["course"], 800, "light")
    heads = browser.evaluate("[...document.querySelectorAll('thead')[0].rows[0].cells].map((cell) => cell.textContent)")
    column = heads.index("standard error")
    for _ in range(2):
        browser.evaluate(CLICK.format(column))
        assert browser.evaluate(COLUMN.format(column))[-1] == "-"


def test_without_scripts_everything_is_there(browser, pages):
    browser.open(pages["several"], 800, "light", script=False)
    counts = browser.call("DOM.getDocument", depth=-1)
    text = json.dumps(counts)
    assert '"BUTTON"' not in text and '"TABLE"' in text and '"circle"' in text and "gru/rl2" in text


def test_values_are_shown_at_the_points_of_lines(browser, pages):
    """The circle under the pointer is where its line is, and has the value of it as its title."""
    browser.open(pages["course"], 1400, "light")
    found = browser.evaluate("""
      (() => {
        const tips = [...document.querySelectorAll(".tips circle")];
        return tips.filter((tip) => tip.textContent.startsWith("episode 2")).map((tip) => {
          tip.scrollIntoView({block: "center"});
          const box = tip.getBoundingClientRect();
          const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
          const strokes = [...tip.ownerSVGElement.querySelectorAll("path")].filter((path) => {
            const point = new DOMPoint(x, y).matrixTransform(path.getScreenCTM().inverse());
            return path.style.stroke === "var(--vermilion)" && path.isPointInStroke(point);
          });
          return [tip.textContent, document.elementFromPoint(x, y) === tip, strokes.length > 0];
        });
      })()
    """)
    assert [text.split("\n")[2] for text, *_ in found] == [f"forward velocity (m/s): {v}" for v in ("1", "1.5", "1.4")]
    assert found[0][0].split("\n")[1] == "time in the episode (s): 0.05"
    assert all(on_top and on_line for _, on_top, on_line in found)
