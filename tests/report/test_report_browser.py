"""The page in a real browser: nothing fails, nothing is asked for, everything is seen."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import FIGURES, HOSTILE, make_evaluated, make_searched

from ensemble.evaluation.mistakes import read_labels
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
  const all = 'p, li, td, th, a, caption, figcaption, dt, dd, text, button, label, summary, output';
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
    shown = [row for row in pictures if view["width"] > 640 or row[0] != "figure-samples"]
    assert len(shown) >= 7  # on a telephone the sheet of samples scrolls sideways in its frame
    for name, is_inside, scale in shown:
        assert is_inside, name
        assert scale < 1.4, name


def test_no_table_is_wider_than_a_desktops_page(view: dict[str, Any]) -> None:
    if view["width"] < 640:
        pytest.skip("on a telephone a table may scroll sideways in its frame")
    wide = view["page"].evaluate(
        """() => [...document.querySelectorAll('.scroll')].filter(
          frame => frame.scrollWidth > frame.clientWidth + 1).map(frame => frame.ariaLabel)"""
    )
    assert wide == []


def test_the_slider_counts_anew_as_keys_move_it(view: dict[str, Any]) -> None:
    page = view["page"]

    def told() -> list[str]:
        return [page.text_content(f"#slider-{name}") for name in ("found", "missed", "alarms")]

    assert told() == ["1", "0", "0"]
    assert page.text_content("#slider-threshold") == "0.438, in use"
    page.focus("#threshold-slider")
    page.keyboard.press("ArrowLeft")
    assert told() == ["0", "1", "0"]
    page.keyboard.press("End")
    assert told() == ["1", "0", "1"]
    assert page.text_content("#slider-threshold") == "0.150"
    assert page.text_content("#slider-f1") == "0.667"
    spoken = page.get_attribute("#threshold-slider", "aria-valuetext")
    assert spoken == "threshold 0.150: found 1 of 1, missed 0, false alarms 1"
    assert page.text_content("#slider-command").endswith("--top-k 5 --min-recall 1")
    page.click("#slider-back")
    assert told() == ["1", "0", "0"]


def test_ticked_labels_are_downloaded_as_a_list_that_evaluate_reads(
    view: dict[str, Any], tmp_path: Path
) -> None:
    page = view["page"]
    assert page.is_disabled("#download")
    boxes = page.locator(".tick input")
    for number in range(boxes.count()):
        boxes.nth(number).focus()
        page.keyboard.press("Space")
    odd = '=cmd,"a"\n.jpg'
    page.evaluate("name => { document.querySelector('.tick input').dataset.tile = name }", odd)
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "labels.csv")
    read = read_labels(tmp_path / "labels.csv").tiles
    page.evaluate("name => { document.querySelector('.tick input').dataset.tile = name }", HOSTILE)
    for number in range(boxes.count()):
        boxes.nth(number).uncheck()
    assert len(read) == boxes.count()
    assert read[odd][1] == 0
    assert download.value.suggested_filename == "run-labels.csv"
    assert page.is_disabled("#download")


def test_paper_begins_with_one_page_of_summary(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 690, "height": 1000})
    page.emulate_media(media="print")
    page.goto(report.as_uri())
    box = page.evaluate("document.querySelector('.summary-page').getBoundingClientRect().toJSON()")
    assert box["bottom"] < 1000
    folded = "[...document.querySelectorAll('details')].map(each => each.offsetHeight)"
    assert set(page.evaluate(folded)) == {0}
    page.close()


def test_without_scripts_nothing_is_offered_that_needs_one(browser: Any, report: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    for part in ("#slider", "#download", ".tick"):
        assert not page.locator(part).first.is_visible(), part
    assert page.locator("#table-thresholds").is_visible()
    page.close()


def test_paper_cuts_no_table_and_no_picture(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 700, "height": 1000})  # A4 within its margins
    page.emulate_media(media="print")
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => (each.open = true))")
    wide = """() => [...document.querySelectorAll('table, img, svg')].filter(
      node => node.getBoundingClientRect().right > innerWidth + 1).map(
      node => node.id || node.closest('figure').id)"""
    assert page.evaluate(wide) == []
    page.close()
