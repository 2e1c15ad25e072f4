"""Photographs as bytes are judged as `predict` judges their files."""

import base64
import io
import json
import re
import struct
from http import HTTPStatus

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from served import TILE, draw_photograph, make_run

from ensemble.api import load_ensemble
from ensemble.serving.photographs import Answer, Photograph, judge_photographs

LIMIT = 20 * TILE * TILE
STRIP_OFFSETS = 273  # a tag of TIFF


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory, write_member):
    run = make_run(tmp_path_factory.mktemp("results") / "wall", write_member)
    return load_ensemble(run, gpus=0)


def judge(ensemble, *photographs: Photograph) -> list[Answer]:
    return judge_photographs(ensemble, photographs, max_pixels=LIMIT, run_name="wall")


def test_photographs_that_come_together_are_judged_as_their_files_are(ensemble, tmp_path):
    file = tmp_path / "one.png"
    sent = [Photograph("same", draw_photograph(2 + n % 3, n), (0.0, 0.5)[n % 2]) for n in range(5)]
    for each, answer in zip(sent, judge(ensemble, *sent), strict=True):
        file.write_bytes(each.content)
        wanted = ensemble.predict([file], overlap=each.overlap)
        tiles = pd.DataFrame(answer.figures["tiles"])
        for name in ("tile", "left_px", "top_px", "width_px", "height_px", "verdict"):
            assert tiles[name].tolist() == wanted[name].tolist()
        np.testing.assert_allclose(tiles["probability"], wanted["refined"], rtol=1e-5)
        first = ~wanted["tile"].str.contains(".", regex=False)
        cracked = wanted["verdict"] == "cracked"
        assert answer.figures["photograph"] == "same"
        assert answer.figures["num_tiles"] == first.sum()
        assert answer.figures["num_cracked"] == (first & cracked).sum()
        assert answer.figures["num_cracked_overlapping_tiles"] == (~first & cracked).sum()
        assert answer.document == b""


def test_one_that_cannot_be_judged_harms_no_other(ensemble):
    sound, file = draw_photograph(2, 1), io.BytesIO()
    Image.open(io.BytesIO(sound)).save(file, "TIFF")
    tiff = bytearray(file.getvalue())
    place = tiff.index(struct.pack("<HHI", STRIP_OFFSETS, 4, 1))
    tiff[place + 2] = 12  # a place in the file that is a fraction
    answers = judge(
        ensemble,
        Photograph("text", b"abc"),
        Photograph("sound", sound),
        Photograph("cut off", sound[: len(sound) // 2]),
        Photograph("large", draw_photograph(7, 1)),
        Photograph("empty", b""),
        Photograph("fraction", bytes(tiff)),
    )
    assert [each.status for each in answers] == [422, 200, 422, 413, 422, 422]
    assert answers[1] == judge(ensemble, Photograph("sound", sound))[0]
    assert "cannot be read: no JPEG" in answers[0].reason
    assert answers[2].reason.startswith("cannot be read: ")
    assert "224 × 96 px is more than the 0.02048 megapixels" in answers[3].reason
    assert all(each.figures == {} for each in answers if each.status != HTTPStatus.OK)


def test_none_that_can_be_read_is_no_fault(ensemble):
    assert [each.status for each in judge(ensemble, Photograph("text", b"abc"))] == [422]
    assert judge(ensemble) == []


def test_a_drawn_answer_is_an_overlay(ensemble):
    (answer,) = judge(ensemble, Photograph("wall", draw_photograph(4, 2), form="png"))
    with Image.open(io.BytesIO(answer.document)) as overlay:
        assert overlay.format == "PNG"
        assert overlay.height > 3 * TILE  # with its legend


def test_a_page_shows_the_photograph_and_its_tiles_and_needs_nothing_else(ensemble):
    sent = Photograph("<b>pier</b>.png", draw_photograph(4, 2), form="html")
    (answer,) = judge(ensemble, sent)
    page = answer.document.decode()
    assert "<b>pier" not in page
    assert "&lt;b&gt;pier&lt;/b&gt;.png" in page
    found = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    shown = json.loads(found[1])
    (content,) = re.findall(r"data:image/png;base64,([^\"]*)", page)
    assert base64.b64decode(content) == sent.content
    assert shown["tiles"]["tile"] == [tile["tile"] for tile in answer.figures["tiles"]]
    assert sum(shown["tiles"]["called"]) == answer.figures["num_cracked"]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
