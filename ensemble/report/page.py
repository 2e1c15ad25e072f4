"""A run's folder → `report.html` in it, one page without other files.

Only files of the run's folder are read, no tile and no network; every number is taken from them or
counted in them. A run that was not evaluated yet gets the page of its search.
"""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ensemble.base.door import printing_result, spell_command
from ensemble.base.files import write_text
from ensemble.base.options import DEFAULT_OUT
from ensemble.base.wording import capitalize_first, format_number, percent, plural
from ensemble.data.classes import SDNET_SURFACES
from ensemble.report import sections
from ensemble.report import sentences as summary
from ensemble.report.data_urls import embed_picture, embed_sheet
from ensemble.report.run_files import Run, read_run
from ensemble.report.search_plots import short_name
from ensemble.run.folder import display_path
from ensemble.run.members import find_run

PAGE = Path(__file__).parent
GALLERIES = ("misses", "false_alarms")


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Write the page, say where it is and return that."""
    page = write_report(find_run(options.run, under=options.out))
    with printing_result():
        print(f"written: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    return {"run": str(page.parent), "report": str(page)}


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder and return its path.

    Raises:
        InputError: The folder is no run, or a file of it is damaged.
    """
    write_text(folder / "report.html", render(read_run(folder)))
    return folder / "report.html"


def render(run: Run) -> str:
    """Render the page of a run."""
    loader = jinja2.FileSystemLoader(PAGE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    filters = {"number": _number, "capitalize_first": capitalize_first, "share": percent}
    environment.filters |= filters
    parts = (run.choice["ingredients"] or run.choice["members"]) if run.choice else []
    members, galleries = [member["trial"] for member in parts], run.folder / "evaluation"
    return environment.get_template("page.html.jinja").render(
        style=Markup((PAGE / "page.css").read_text(encoding="utf-8")),
        run=run,
        name=run.folder.name,
        leak=summary.LEAK if summary.is_leaky(run.about, run.metrics) else "",
        warnings=summary.warnings_about(run.about, run.metrics, run.predictions),
        data=run.about.get("data_summary") or {},
        surface_names=SDNET_SURFACES if sections.is_sdnet(run) else {},
        samples=embed_picture(run.folder / "samples.png"),
        pictures={name: embed_picture(galleries / f"{name}.png") for name in GALLERIES},
        sheets={name: embed_sheet(galleries / f"{name}.png") for name in GALLERIES},
        sections=sections,
        search=sections.search_section(run, members),
        learning=sections.learning_section(run, members),
        members=members,
        ensemble=sections.ensemble_section(run),
        test=sections.result_section(run),
        summary=summary,
        plural=plural,
        short_name=short_name,
        provenance=list(_provenance(run)),
        command=_name_for_commands(run.folder),
        spell_command=spell_command,
    )


def _name_for_commands(folder: Path) -> str:
    """How commands find a run: by its name where `--out` is not needed for that, else its path."""
    folder = folder.resolve()
    if folder.parent == DEFAULT_OUT.resolve():
        return shlex.quote(folder.name)
    return display_path(folder)


def _provenance(run: Run) -> Iterator[tuple[str, str]]:
    """Name and value of everything that the figures came from."""
    about, metrics = run.about, run.metrics or {}
    yield "seed of the study", str(about.get("seed", "–"))
    yield "split digest", str(about.get("split_digest", "–"))
    for backbone, weights in (about.get("weights") or {}).items():
        yield f"{backbone} starts from", f"{weights['origin']} (digest {weights['digest']})"
    for member in (run.choice or {}).get("members", []):
        name = f"{run.describe_trial(member['trial'])}, weights"
        yield name, f"SHA-256 {member['weights_sha256']}"
    for key in ("commit", "versions", "hardware"):
        for when, source in (("", about), (" of the evaluation", metrics)):
            if source.get(key) and (not when or source[key] != about.get(key)):
                yield key + when, _words(source[key])
    began = "search began" if run.kind == "search" else "training began"
    yield began, str(about.get("started_at", "–"))
    if metrics:
        yield "evaluated", metrics["evaluated_at"]
    yield "tiles were packed in", str(about.get("pack_folder", "–"))


def _words(values: str | dict[str, Any]) -> str:
    if isinstance(values, str):
        return values
    return ", ".join(
        f"{name} {', '.join(map(str, value)) or 'none' if isinstance(value, list) else value}"
        for name, value in values.items()
    )


def _number(value: Any, form: str = ".3f") -> str:
    """A number as it is read, a dash where there is none."""
    return format_number(None if isinstance(value, jinja2.Undefined) else value, form, missing="–")
