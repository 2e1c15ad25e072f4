"""The page in a real browser: nothing fails, nothing is asked for, everything is seen."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import FIGURES, make_evaluated, make_searched

from ensemble.report.page import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium to look at pages with")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CONTRAST = """() => {
  const channel = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4 };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const found = [];
  const all = 'p, li, td, th, a, caption, figcaption, dt, dd, text';
  for (const node of document.querySelectorAll(all)) {
    const style = getComputedStyle(node);
    const ink = light(parse(node.tagName === 'text' ? style.fill : style.color));
    const paper = light(behind(node));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) found.push([node.tagName, node.textContent.trim().slice(0, 40), ratio]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("browser") / "run"
    make_searched(run)
    make_evaluated(run)
    return write_report(run)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(
    scope="module",
    params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")],
    ids=lambda view: f"{view[0]}px-{view[1]}",
)
def view(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[dict[str, Any]]:
    """The page at a width and in a colour scheme, and what happened while it was opened."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => (each.open = true))")
    yield {"page": page, "width": width, "complaints": complaints, "requests": requests}
    page.close()


def test_the_console_is_silent_and_no_request_leaves_the_page(
    view: dict[str, Any], report: Path
) -> None:
    assert view["complaints"] == []
    outside = [url for url in view["requests"] if not url.startswith("data:")]
    assert outside == [report.as_uri()]


def test_the_page_is_as_wide_as_the_window(view: dict[str, Any]) -> None:
    widths = view["page"].evaluate(
        "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    )
    assert max(widths) <= view["width"]


def test_every_figure_is_seen(view: dict[str, Any]) -> None:
    seen = view["page"].evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('figure')].map(figure => {
          const shown = figure.querySelector('svg, img'), box = shown.getBoundingClientRect();
          const marks = [...shown.querySelectorAll('path, use, rect')].filter(
            mark => mark.getBoundingClientRect().width + mark.getBoundingClientRect().height > 0);
          const texts = [...shown.querySelectorAll('text')].filter(
            text => text.getBoundingClientRect().width > 0);
          return [figure.id, {width: box.width, height: box.height, pixels: shown.naturalWidth,
                              marks: marks.length, texts: texts.length}];
        }))"""
    )
    assert set(seen) == FIGURES
    for name, figure in seen.items():
        assert figure["width"] > 250, name
        assert figure["height"] > 80, name
        assert figure["pixels"] or (figure["marks"] > 3 and figure["texts"] > 3), name


def test_the_drawings_follow_the_colour_scheme_with_enough_contrast(view: dict[str, Any]) -> None:
    assert view["page"].evaluate(CONTRAST) == []


def test_text_in_drawings_stays_inside_of_them(view: dict[str, Any]) -> None:
    outside = view["page"].evaluate(
        """() => [...document.querySelectorAll('figure svg text')].filter(text => {
          const box = text.getBoundingClientRect();
          const whole = text.closest('figure').getBoundingClientRect();
          return box.left < whole.left || box.right > whole.right;
        }).map(text => text.textContent)"""
    )
    assert outside == []


PICTURES = """() => [...document.querySelectorAll('figure img')].map(img => {
  const box = img.getBoundingClientRect(), whole = img.closest('figure').getBoundingClientRect();
  return [img.closest('figure').id, box.right <= whole.right + 1, box.width / img.naturalWidth];
})"""


def test_no_picture_of_an_error_is_cut_or_blown_up(view: dict[str, Any]) -> None:
    pictures = view["page"].evaluate(PICTURES)
    shown = [row for row in pictures if view["width"] > 640 or row[0] == "figure-misses"]
    assert len(shown) >= 3  # on a telephone a whole sheet scrolls sideways in its frame
    for name, is_inside, scale in shown:
        assert is_inside, name
        assert scale < 1.4, name


def test_paper_cuts_no_table_and_no_picture(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 700, "height": 1000})  # A4 within its margins
    page.emulate_media(media="print")
    page.goto(report.as_uri())
    wide = """() => [...document.querySelectorAll('table, img, svg')].filter(
      node => node.getBoundingClientRect().right > innerWidth + 1).map(
      node => node.id || node.closest('figure').id)"""
    assert page.evaluate(wide) == []
    page.close()
