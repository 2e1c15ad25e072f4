"""Bytes of photographs → what the ensemble says of each; no server and no Ray.

Photographs that wait at the same time are cut into tiles together, so that batches are full where
each photograph is small.
"""

import io
import tempfile
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from PIL import Image

from ensemble.base.files import table_rows
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.pictures import Picture, read_picture, read_picture_size
from ensemble.prediction.overlays import OVERLAY_PX, PNG_LEVEL, draw_overlay
from ensemble.prediction.tiling import in_first_grid
from ensemble.prediction.verdicts import score_readable
from ensemble.selection.ensemble import Ensemble, load_ensemble
from ensemble.serving.pages import make_answer

Form = Literal["json", "png", "html"]
TILE_COLUMNS = ("tile", "left_px", "top_px", "width_px", "height_px", "threshold", "verdict")


class Photograph(NamedTuple):
    """A photograph that somebody sent.

    Attributes:
        name: Name that the answer gives it.
        content: Bytes of the file.
        overlap: Part of a tile's side by which it overlaps the next one, one of `OVERLAPS`.
        form: What is wanted: the numbers, a PNG of the overlay, or a page of HTML.
    """

    name: str
    content: bytes
    overlap: float = 0.0
    form: Form = "json"


class Answer(NamedTuple):
    """What is answered to a photograph.

    Attributes:
        status: HTTP status; what was judged is OK.
        figures: What the ensemble says; empty where it was not judged.
        document: The overlay or the page, where one is wanted.
        reason: Why it was not judged.
    """

    status: HTTPStatus
    figures: dict[str, Any]
    document: bytes = b""
    reason: str = ""


def open_ensemble(exported: bytes, device: torch.device) -> Ensemble:
    """Open the ensemble in the content of a file that `export` wrote, in any of its forms.

    Args:
        exported: Content of the file.
        device: Device that its networks judge on; a graph judges on the CPU.

    Raises:
        InputError: The file is damaged, or onnxruntime is not there for a graph of ONNX.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "exported"
        file.write_bytes(exported)
        ensemble = load_ensemble(file, device)
        if ensemble.graph is None:
            assert ensemble.models  # which are read now
    return ensemble


def judge_photographs(
    ensemble: Ensemble, photographs: Sequence[Photograph], *, max_pixels: int, run_name: str
) -> list[Answer]:
    """Judge photographs, in one go those with equal overlap.

    Args:
        ensemble: The ensemble that judges.
        photographs: Photographs; a name may come twice.
        max_pixels: Most pixels that a photograph may have; a larger one is not decoded.
        run_name: Name of the run, for pages.

    Returns:
        An answer for each photograph, in their order.
    """
    answers: dict[int, Answer] = {}
    sound: dict[int, Photograph] = {}
    for number, photograph in enumerate(photographs):
        refusal = _refuse(photograph, max_pixels)
        if refusal is None:
            sound[number] = photograph
        else:
            answers[number] = refusal
    for overlap in sorted({each.overlap for each in sound.values()}):
        group = {n: each for n, each in sound.items() if each.overlap == overlap}
        answers |= dict(_judge(ensemble, group, overlap, run_name))
    return [answers[number] for number in range(len(photographs))]


def _refuse(photograph: Photograph, max_pixels: int) -> Answer | None:
    """Look at the header of a photograph; None where it can be decoded."""
    try:
        width, height = read_picture_size(io.BytesIO(photograph.content))
    except UNREADABLE as error:
        return _unreadable(explain_unreadable(error))
    if width * height > max_pixels:
        reason = (
            f"{width} × {height} px is more than the {max_pixels / 1e6:g} megapixels that this "
            "server takes"
        )
        return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {}, reason=reason)
    return None


def _unreadable(reason: str) -> Answer:
    return Answer(HTTPStatus.UNPROCESSABLE_ENTITY, {}, reason=f"cannot be read: {reason}")


def _judge(
    ensemble: Ensemble, photographs: dict[int, Photograph], overlap: float, run_name: str
) -> Iterator[tuple[int, Answer]]:
    """Judge photographs of one overlap, which are called by their numbers meanwhile."""
    pictures = [Picture(str(n), each.name, content=each.content) for n, each in photographs.items()]
    tiles, unreadable = score_readable(ensemble, pictures, overlap)
    parts = {} if tiles is None else dict(list(tiles.groupby("picture", sort=False)))
    for number, photograph in photographs.items():
        if (reason := unreadable.get(str(number))) is not None:
            yield number, _unreadable(reason)
            continue
        part, document = parts[str(number)], b""
        if photograph.form == "png":
            document = _draw(ensemble, photograph, part)
        elif photograph.form == "html":
            picture = Picture(photograph.name, photograph.name, content=photograph.content)
            document = make_answer(picture, part, ensemble, run_name=run_name)
        yield number, Answer(HTTPStatus.OK, _describe(photograph.name, part), document)


def _describe(name: str, tiles: pd.DataFrame) -> dict[str, Any]:
    """The figures of a photograph, and a row for each of its tiles."""
    is_first = in_first_grid(tiles["tile"])
    counts = tiles["verdict"][is_first].value_counts()
    rows = tiles[[*TILE_COLUMNS]].assign(probability=tiles["refined"])
    return {
        "photograph": name,
        "num_tiles": int(is_first.sum()),
        "num_cracked": int(counts.get("cracked", 0)),
        "num_not_judged": int(counts.get("not judged", 0)),
        "num_overlapping_tiles": int((~is_first).sum()),
        "num_cracked_overlapping_tiles": int((tiles["verdict"][~is_first] == "cracked").sum()),
        "tiles": table_rows(rows),
    }


def _draw(ensemble: Ensemble, photograph: Photograph, tiles: pd.DataFrame) -> bytes:
    """PNG of the photograph with its cracked tiles outlined."""
    content = io.BytesIO(photograph.content)
    image: Image.Image = read_picture(content, ensemble.tile_size_px, reduced_px=OVERLAY_PX)
    file = io.BytesIO()
    draw_overlay(image, tiles).save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()
