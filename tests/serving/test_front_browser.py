"""The page to drop photographs on, in a real browser: what it shows is read with one scroll bar."""

import shutil

import pytest

from ensemble.serving.pages import make_front

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
URL = "http://server.test/"
ANSWER = """<!DOCTYPE html><title>wall.png: 1 of 2 tiles</title>
<style>.stage { height: 9999px; max-height: var(--most-stage, 72vh); }</style>
<div class="stage"></div><div id="rest" style="height: 1500px">the rest</div>"""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium to look at pages with")


def test_the_frame_is_as_high_as_its_page_and_follows_it():
    sync_api = pytest.importorskip("playwright.sync_api")

    def answer(route):
        is_front = route.request.method == "GET"
        front = make_front("wall", needs_token=False)
        route.fulfill(body=front if is_front else ANSWER, content_type="text/html; charset=utf-8")

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.route(f"{URL}**", answer)
        page.goto(URL)
        page.set_input_files(
            "#files", {"name": "wall.png", "mimeType": "image/png", "buffer": b"any"}
        )
        page.wait_for_function("document.getElementById('page').clientHeight > 2000")
        frame = page.locator("#page").element_handle().content_frame()
        hidden = "document.documentElement.scrollHeight - document.documentElement.clientHeight"
        assert frame.evaluate(hidden) == 0
        stage = frame.locator(".stage").bounding_box()
        assert stage is not None
        assert stage["height"] == pytest.approx(0.72 * 800)
        frame.evaluate("document.getElementById('rest').style.height = '100px'")
        page.wait_for_function("document.getElementById('page').clientHeight < 900")
        assert frame.evaluate(hidden) == 0
        browser.close()
