"""What the server answers over HTTP, with somebody else in place of the ensemble."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import pytest
import requests
import uvicorn
from fastapi import HTTPException, Request

from ensemble.serving.application import BusyError, Limits, make_application, read_body
from ensemble.serving.photographs import Answer, Photograph

LIMITS = Limits(max_bytes=1000, max_pixels=10_000, max_queued=3)
TILES = [{"tile": "r1-c1", "verdict": "cracked"}, {"tile": "r1-c2", "verdict": "uncracked"}]
TOKEN = "a-secret-of-this-test"


async def judge(photograph: Photograph) -> Answer:
    """Answers by what was sent, so that a test can ask for everything that may happen."""
    match photograph.content:
        case b"busy":
            raise BusyError("the queue is full; try again")
        case b"damaged":
            return Answer(HTTPStatus.UNPROCESSABLE_ENTITY, {}, reason="cannot be read: damaged")
        case b"wrong":
            raise RuntimeError("a secret of the server")
    await asyncio.sleep(0)
    figures = {"photograph": photograph.name, "overlap": photograph.overlap, "tiles": TILES}
    return Answer(HTTPStatus.OK, figures, photograph.form.encode())


@contextmanager
def listening(*, token: str | None = None, running: int = 1) -> Iterator[str]:
    """Within, an application listens at the URL that is yielded."""

    async def count_replicas() -> tuple[int, int]:
        return running, 2

    app = make_application(
        judge,
        count_replicas,
        about={"run": "wall"},
        limits=LIMITS,
        token=token,
        hosts=["127.0.0.1"],
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening() as url:
        yield url


@pytest.fixture
def post(url: str) -> Callable[..., requests.Response]:
    def post(content: bytes, **how: Any) -> requests.Response:
        return requests.post(f"{url}/photographs", data=content, timeout=30, **how)

    return post


def test_a_photograph_is_answered_with_its_tiles(post):
    answer = post(b"photograph", params={"name": "pier 3", "overlap": "0.5"})
    assert answer.status_code == 200
    assert answer.json() == {"run": "wall", "photograph": "pier 3", "overlap": 0.5, "tiles": TILES}


@pytest.mark.parametrize(
    ("accepted", "kind", "content"),
    [
        ("image/png", "image/png", b"png"),
        ("text/html", "text/html; charset=utf-8", b"html"),
        ("text/html, application/json;q=0.9, */*;q=0.8", "text/html; charset=utf-8", b"html"),
        ("application/json, image/png", "application/json", None),
        ("*/*", "application/json", None),
    ],
)
def test_the_form_that_is_asked_for_is_answered(post, accepted, kind, content):
    answer = post(b"photograph", headers={"Accept": accepted})
    assert answer.headers["content-type"] == kind
    assert content is None or answer.content == content


def test_the_page_for_people_loads_nothing_and_asks_for_a_token_where_one_is_needed(url):
    answer = requests.get(url, timeout=30)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "Judged by wall" in answer.text
    assert not re.search(r"(src|href)=.?(https?:)?//", answer.text)
    assert 'id="token"' not in answer.text
    with listening(token=TOKEN) as guarded:
        page = requests.get(guarded, timeout=30).text
    assert 'id="token"' in page
    assert TOKEN not in page


@pytest.mark.parametrize(
    ("content", "query", "status", "reason"),
    [
        (b"", {}, 422, "the request has no body"),
        (b"damaged", {}, 422, "cannot be read: damaged"),
        (b"x", {"overlap": "0.3"}, 422, "overlap=0.3: must be 0, 0.5 or 0.75"),
        (b"x", {"overlap": "much"}, 422, "valid number"),
        (b"x", {"overlp": "0.5"}, 422, "overlp: no such parameter; there are name and overlap"),
        (b"x", {"name": "n" * 201}, 422, "at most 200"),
        (b"x" * 1001, {}, 413, "the file has more than"),
        (b"busy", {}, 503, "the queue is full; try again"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_its_reason(post, content, query, status, reason):
    answer = post(content, params=query)
    assert answer.status_code == status
    assert reason in answer.text
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_what_a_page_of_another_site_sends_is_refused(post):
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        assert post(b"photograph", headers={"Sec-Fetch-Site": site}).status_code == status


def test_a_form_in_place_of_the_bytes_is_told_what_is_wanted(url):
    answer = requests.post(f"{url}/photographs", files={"file": b"photograph"}, timeout=30)
    assert answer.status_code == 422
    assert "send the bytes of the picture alone" in answer.text


def test_a_body_without_a_length_is_taken_in_no_further_than_allowed():
    asked = []

    async def receive() -> dict[str, Any]:
        asked.append(1)
        return {"type": "http.request", "body": b"x" * 400, "more_body": True}

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(HTTPException, match="413"):
        asyncio.run(read_body(request, 1000))
    assert len(asked) == 3


def test_a_fault_of_the_server_tells_nothing_of_it(post):
    answer = post(b"wrong")
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_what_was_answered_is_counted(url, post):
    def count(line: str) -> float:
        lines = requests.get(f"{url}/metrics", timeout=30).text.splitlines()
        return next((float(each.rpartition(" ")[2]) for each in lines if each.startswith(line)), 0)

    names = [
        'crack_ensemble_photographs_total{status="200"}',
        'crack_ensemble_photographs_total{status="503"}',
        'crack_ensemble_tiles_total{verdict="cracked"}',
        "crack_ensemble_seconds_count",
    ]
    before = [count(name) for name in names]
    post(b"photograph")
    post(b"busy")
    more = [count(name) - there for name, there in zip(names, before, strict=True)]
    assert more == [1, 1, 1, 2]
    assert count("crack_ensemble_in_progress") == 0


def test_who_hangs_up_is_no_fault_of_the_server(url):
    def count(status: int) -> str | None:
        text = requests.get(f"{url}/metrics", timeout=30).text
        found = re.search(rf'photographs_total{{status="{status}"}} (\S+)', text)
        return found and found[1]

    faults = count(500)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as line:
        head = "POST /photographs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"
        line.sendall(head.encode() + b"half")
    deadline = time.monotonic() + 30
    while count(400) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (count(400), count(500)) == ("1.0", faults)


def test_health_says_whether_somebody_is_there():
    with listening(running=2) as url:
        answer = requests.get(f"{url}/health", timeout=30)
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok", "run": "wall", "replicas": 2, "wanted_replicas": 2}
    with listening(running=0) as url:
        assert requests.get(f"{url}/health", timeout=30).status_code == 503


def test_without_the_token_nothing_is_judged_or_told():
    with listening(token=TOKEN) as url:
        for given in (None, "Bearer another", f"Basic {TOKEN}", f"Bearer {TOKEN}é".encode()):
            headers = {} if given is None else {"Authorization": given}
            for method, path in (("POST", "photographs"), ("GET", "metrics")):
                answer = requests.request(method, f"{url}/{path}", headers=headers, timeout=30)
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = requests.post(f"{url}/photographs", data=b"x", headers=headers, timeout=30)
        assert answer.status_code == 200
        assert requests.get(f"{url}/health", timeout=30).status_code == 200


def test_a_page_of_another_name_cannot_reach_the_loopback(url):
    answer = requests.get(f"{url}/health", headers={"Host": "evil.example"}, timeout=30)
    assert answer.status_code == 400


def test_the_interface_is_described_without_another_host(url):
    page = requests.get(f"{url}/docs", timeout=30).text
    assert "://" not in page
    for path in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/swagger/{path}" in page
        assert requests.get(f"{url}/swagger/{path}", timeout=30).status_code == 200
    described = requests.get(f"{url}/openapi.json", timeout=30).json()
    assert described["openapi"].startswith("3.0.")  # the page shows none that is newer
    assert set(described["paths"]) == {"/photographs", "/health", "/metrics"}
    assert set(described["paths"]["/photographs"]["post"]["responses"]) >= {"200", "413", "503"}
