"""The page to drop photographs on, and the page that answers one: each is one file.

The answer is the viewer of `inspect`, with the photograph, styles and scripts in it, so that it can
be saved and sent.
"""

import base64
import tempfile
from functools import cache
from mimetypes import guess_type
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from ensemble.base.wording import percent
from ensemble.data.reading.pictures import Picture
from ensemble.inspection.pages import ASSETS as PAGE_ASSETS
from ensemble.inspection.pages import describe_called, describe_chain
from ensemble.inspection.photograph import add_photograph
from ensemble.selection.ensemble import Ensemble
from ensemble.viewer.page import ASSETS, VIEWER, make_environment

SERVING = Path(__file__).parent
# for both pages: nothing is loaded from anywhere, and only this server is spoken to
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'"
)


def make_front(run_name: str, *, needs_token: bool) -> str:
    """The page that takes photographs and shows the answers.

    Args:
        run_name: Name of the run that judges.
        needs_token: Whether a token is asked for.
    """
    script = Markup((SERVING / "front.js").read_text(encoding="utf-8"))
    page = _environment().get_template("front.html.jinja")
    return page.render(run_name=run_name, needs_token=needs_token, script=script)


def make_answer(
    picture: Picture, tiles: pd.DataFrame, ensemble: Ensemble, *, run_name: str
) -> bytes:
    """The page of a judged photograph.

    Args:
        picture: The photograph, with the name that the page gives it.
        tiles: Rows of `predict_pictures` for it.
        ensemble: The ensemble that judged it.
        run_name: Name of the run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photographs").mkdir()
        judged = add_photograph(
            picture,
            "photograph",
            tiles,
            folder,
            tile_size_px=ensemble.tile_size_px,
            threshold=ensemble.calibrated_threshold,
            has_thumbnail=False,
        )
        kind, _ = guess_type(judged.shown)
        content = base64.b64encode((folder / "photographs" / judged.shown).read_bytes()).decode()
    shown = judged.for_viewer(f"data:{kind};base64,{content}")
    page = _environment().get_template("answer.html.jinja")
    return page.render(photograph=judged, shown=shown, run_name=run_name).encode()


@cache
def _environment() -> jinja2.Environment:
    """The templates, with what the viewer needs beside a page."""
    environment = make_environment(SERVING)
    files = [*(VIEWER / name for name in ASSETS), *PAGE_ASSETS]
    text = {path.name: path.read_text(encoding="utf-8") for path in files}
    environment.filters |= {"share": percent}
    environment.globals |= {
        "describe_called": describe_called,
        "describe_chain": describe_chain,
        "styles": Markup(text["viewer.css"] + text["pages.css"]),
        "scripts": Markup("\n".join(text[n] for n in ("figures.js", "labels.js", "viewer.js"))),
    }
    return environment
