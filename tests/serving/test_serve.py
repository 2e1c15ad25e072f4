"""`serve` as a person starts it: over HTTP, with a replica killed, with a full queue, refused."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import requests
from person import type_here
from served import TILE, draw_photograph, make_run

from ensemble.base.errors import InputError
from ensemble.search.budget import Node
from ensemble.serving.server import Place, Share, choose_token, judged_on_cpu, share_machines

SERVE = [sys.executable, "-m", "ensemble", "serve", "results/wall", "--gpus", "0"]
NUM_CLIENTS, SECONDS = 10, 9.0
TOKEN = "a-token-of-these-tests"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DROP = """bytes => {
  const held = new DataTransfer();
  held.items.add(new File([new Uint8Array(bytes)], "deck.png", {type: "image/png"}));
  const event = new DragEvent("drop", {dataTransfer: held, bubbles: true, cancelable: true});
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def here(tmp_path_factory, write_member) -> Path:
    here = tmp_path_factory.mktemp("work")
    make_run(here / "results" / "wall", write_member)
    return here


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def serving(here: Path, *words: str, **variables: str) -> Iterator[tuple[str, psutil.Process]]:
    """Within, a server runs; at the end Ctrl-C ends it in good order."""
    port = free_port()
    with subprocess.Popen(
        [*SERVE, *words, "--port", str(port)],
        cwd=here,
        env={**os.environ, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        said = []
        for line in process.stdout or []:
            said.append(line)
            if line.startswith("listening on "):
                break
        assert f"listening on http://127.0.0.1:{port}" in said[-1], "".join(said)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=120)
        assert rest.endswith("ended\n")
        assert "Traceback" not in "".join(said) + rest
        assert process.returncode == 0


def replicas_of(server: psutil.Process) -> list[psutil.Process]:
    return [
        process
        for process in server.children(recursive=True)
        if any("ServeReplica:crack-ensemble:Judge" in word for word in process.cmdline())
    ]


@pytest.mark.long
def test_a_killed_replica_loses_no_photograph_and_makes_no_wrong_answer(here):
    photographs = [draw_photograph(3 + n, n) for n in range(4)]
    seen: Counter[object] = Counter()
    with serving(here, "--cpus", "2", "--replicas", "2") as (url, server):
        assert requests.get(f"{url}/health", timeout=60).json()["replicas"] == 2
        wanted = [ask(url, photograph).json()["tiles"] for photograph in photographs]
        end = time.monotonic() + SECONDS

        def send(number: int) -> None:
            while time.monotonic() < end:
                which = number % len(photographs)
                answer = ask(url, photographs[which])
                seen[answer.status_code] += 1
                if answer.status_code == 200 and not is_alike(
                    answer.json()["tiles"], wanted[which]
                ):
                    seen["wrong"] += 1
                number += 1

        clients = [threading.Thread(target=send, args=(n,)) for n in range(NUM_CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(SECONDS / 3)
        victim = replicas_of(server)[0]
        victim.kill()
        for client in clients:
            client.join()
        assert not victim.is_running()
        assert seen["wrong"] == 0
        assert seen[200] > NUM_CLIENTS
        assert set(seen) <= {200, 503, "wrong"}  # nothing is lost without saying so
        text = requests.get(f"{url}/metrics", timeout=60).text
        told = re.search(r'photographs_total{status="200"} (\d+)', text)
        assert told is not None
        assert int(told[1]) == seen[200] + len(photographs)


def ask(url: str, photograph: bytes, *, token: str | None = None) -> requests.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return requests.post(f"{url}/photographs", data=photograph, headers=headers, timeout=240)


def is_alike(tiles: list[dict[str, object]], others: list[dict[str, object]]) -> bool:
    """Whether tiles are judged alike; other tiles of a batch may move a probability's last bits."""
    return [{**each, "probability": None} for each in tiles] == [
        {**each, "probability": None} for each in others
    ] and all(
        each["probability"] == pytest.approx(other["probability"], rel=1e-4)
        for each, other in zip(tiles, others, strict=True)
    )


@pytest.fixture(scope="module")
def guarded(here) -> Iterator[str]:
    """URL of a server that wants `TOKEN`, and lets one photograph wait."""
    with serving(here, "--cpus", "1", "--queue", "1", CRACK_ENSEMBLE_TOKEN=TOKEN) as (url, _):
        yield url


@pytest.mark.long
def test_a_full_queue_says_so_and_a_token_is_asked_for(guarded):
    large = draw_photograph(200, 1)
    assert ask(guarded, large).status_code == 401
    codes: Counter[int] = Counter()

    def send() -> None:
        answer = ask(guarded, large, token=TOKEN)
        codes[answer.status_code] += 1
        if answer.status_code == 503:
            assert "the queue is full" in answer.text

    clients = [threading.Thread(target=send) for _ in range(40)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert codes[200] > 0
    assert codes[503] > 0
    assert codes.total() == codes[200] + codes[503] == 40


@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium to look at pages with")
def test_photographs_dropped_on_the_page_are_judged_shown_recounted_and_saved(guarded, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    photograph = draw_photograph(7, 1)
    tiles = ask(guarded, photograph, token=TOKEN).json()["tiles"]
    probabilities = sorted(tile["probability"] for tile in tiles)
    complaints, asked = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(guarded)
        files = page.locator("#files")
        files.set_input_files({"name": "wall.png", "mimeType": "image/png", "buffer": photograph})
        page.get_by_text("wall.png was not judged: the server wants its token").wait_for()
        page.locator("#token").fill(TOKEN)
        page.evaluate(DROP, list(photograph))  # as a person drags it there from another window
        files.set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"none"})
        page.get_by_text("notes.txt was not judged: ").wait_for()
        page.get_by_text(re.compile(r"deck\.png: \d+ of 21 tiles called cracked")).wait_for()
        frame = page.frame_locator("#page")
        slider = frame.locator('[data-set="threshold"]')
        for threshold in (0.0, (probabilities[9] + probabilities[10]) / 2, 1.0):
            slider.fill(str(threshold))
            called = sum(each >= float(slider.input_value()) for each in probabilities)
            told = frame.locator('[data-show="called"]').inner_text()
            assert told == f"{called} of {len(probabilities)}"
        with page.expect_download() as download:
            page.get_by_role("button", name="Save the page").click()
        assert download.value.suggested_filename == "deck.png.html"
        download.value.save_as(tmp_path / "deck.html")
        page.goto((tmp_path / "deck.html").as_uri())  # it needs no server
        assert page.evaluate("document.querySelector('.stage img').naturalWidth") == 7 * TILE
        browser.close()
    assert complaints == []
    outside = (guarded, "data:", "about:", "blob:", "file:")
    assert [url for url in asked if not url.startswith(outside)] == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--cpus", "1", "--replicas", "2"], "--replicas 2: there are 1 core"),
        (["--gpus", "999"], "--gpus 999: there are "),
        (["--host", "somewhere"], "must be an IP address"),
        (["--max-megapixels", "251"], "at most 250"),
        (["--address", "nowhere"], "expected HOST:PORT"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_served_is_refused_in_a_line(here, words, reason):
    said = type_here(here, *SERVE[3:], "--port", str(free_port()), *words, code=2)
    assert reason in said


@pytest.mark.slow
def test_a_port_that_is_taken_and_a_run_without_an_ensemble_are_refused(here):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = type_here(here, *SERVE[3:], "--port", str(taken.getsockname()[1]), code=2)
        assert "cannot be listened on (Address already in use)" in said
    (here / "results" / "other").mkdir()
    (here / "results" / "other" / "run.json").write_text("{}")
    said = type_here(here, "serve", "other", "--port", str(free_port()), code=2)
    assert "other" in said


def test_replicas_share_gpus_or_cores():
    def share(**asked: int) -> Share:
        options = dict.fromkeys(("gpus", "cpus", "replicas")) | asked
        place = Place(host="127.0.0.1", port=8000, address=None, **options)
        return share_machines(place, [Node("one", 16, 4)])

    assert share() == Share(4, 1, 1)
    assert share(gpus=2) == Share(2, 1, 1)
    assert share(gpus=0) == Share(1, 16, 0)
    assert share(gpus=0, replicas=3) == Share(3, 5, 0)
    assert share(gpus=0, cpus=4, replicas=4) == Share(4, 1, 0)
    with pytest.raises(InputError, match="--replicas 5: there are 4 GPUs"):
        share(replicas=5)


def test_no_replica_has_more_cores_than_a_machine():
    def share(*cores: int, **asked: int) -> Share:
        options = dict.fromkeys(("gpus", "cpus", "replicas")) | asked
        place = Place(host="127.0.0.1", port=8000, address="10.0.0.5:6379", **options)
        return share_machines(place, [Node(str(n), each, 0) for n, each in enumerate(cores)])

    assert share(2, 2) == Share(2, 2, 0)
    assert share(16, 4, 0) == Share(2, 8, 0)
    assert share(2, 2, replicas=1) == Share(1, 2, 0)
    assert share(3, 3, replicas=3) == Share(3, 1, 0)
    assert share(1, 1, 1, 1, cpus=2) == Share(2, 1, 0)


def test_a_graph_of_onnx_leaves_gpus_to_others():
    place = Place("127.0.0.1", 8000, None, gpus=None, cpus=None, replicas=None)
    assert share_machines(judged_on_cpu(place), [Node("one", 16, 4)]) == Share(1, 16, 0)
    with pytest.raises(InputError, match="--gpus 2: a graph of ONNX is judged on the CPU"):
        judged_on_cpu(replace(place, gpus=2))


def test_a_server_that_others_reach_asks_for_a_token():
    assert choose_token(None, is_loopback=True) is None
    made = choose_token(None, is_loopback=False)
    assert made is not None
    assert made != choose_token(None, is_loopback=False)
    assert choose_token("sixteen-letters!", is_loopback=True) == "sixteen-letters!"
    with pytest.raises(InputError, match="16 or more printable"):
        choose_token("short", is_loopback=False)


def test_a_place_knows_its_url_and_who_can_reach_it():
    def place(host: str) -> Place:
        return Place(host, 8000, None, None, None, None)

    assert place("localhost").is_loopback
    assert place("::1").is_loopback
    assert not place("0.0.0.0").is_loopback
    assert "127.0.0.2" in place("127.0.0.2").names
    assert place("0.0.0.0").names == ["*"]
    assert place("::1").url == "http://[::1]:8000"
    assert place("0.0.0.0").url == "http://127.0.0.1:8000"
