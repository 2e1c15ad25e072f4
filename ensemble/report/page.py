"""A run's folder → `report.html` in it, one page without other files.

Only files of the run's folder are read, no tile and no network; every number is taken from them or
counted in them. A run that was not evaluated yet gets the page of its search.
"""

import argparse
import base64
import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ensemble.base.door import printing_result
from ensemble.base.files import write_text
from ensemble.base.options import DEFAULT_OUT
from ensemble.base.wording import capitalize_first, format_number, percent, plural
from ensemble.data.classes import SDNET_SURFACES
from ensemble.evaluation.presentation import count_networks, trivial_sentences
from ensemble.report import sections
from ensemble.report import sentences as summary
from ensemble.report import training_sections as training
from ensemble.report.data_urls import embed_picture
from ensemble.report.run_files import Run, read_run
from ensemble.report.search_plots import short_name
from ensemble.run.folder import display_path
from ensemble.run.members import take_run

PAGE = Path(__file__).parent


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Write the page, say where it is and return that."""
    page = write_report(take_run(options.run, under=options.out))
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
    filters["name_alone"] = summary.name_alone
    environment.filters |= filters
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(
        style=Markup((PAGE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=_digest(f"\n{script}\n"),
        run=run,
        name=run.folder.name,
        leak=summary.LEAK if summary.is_leaky(run.about, run.metrics) else "",
        warnings=summary.warnings_about(run.about, run.metrics, run.predictions),
        surface_names=SDNET_SURFACES if sections.is_sdnet(run) else {},
        sections=sections,
        summary=summary,
        plural=plural,
        short_name=short_name,
        count_networks=count_networks,
        command=_name_for_commands(run.folder),
        spell_command=summary.spell_without_folders,
        **_open_parts(run),
        **_folded_parts(run),
    )


def _open_parts(run: Run) -> dict[str, Any]:
    """What stands open on the page: for everybody."""
    metrics, sheets = run.metrics, sections.embed_galleries(run)
    name = re.sub(r"[^\w.-]+", "-", run.folder.name, flags=re.ASCII).strip("-.") or "run"
    return {
        "sheets": sheets,
        "pictures": sections.first_pictures(sheets),
        "trivial": [] if metrics is None else trivial_sentences(metrics),
        "cracked_share": None if metrics is None else sections.cracked_share(metrics),
        "surfaces": sections.surface_rows(run),
        "photographs": sections.photograph_rows(run),
        "threshold": sections.threshold_section(run),
        "labels": sections.label_section(run, sheets),
        "labels_file": f"{name}-labels.csv",
        "judged": sections.judged_rows(run),
    }


def _folded_parts(run: Run) -> dict[str, Any]:
    """What is folded on the page: for those who train."""
    parts = (run.choice["ingredients"] or run.choice["members"]) if run.choice else []
    members = [member["trial"] for member in parts]
    return {
        "members": members,
        "test": training.result_section(run),
        "ensemble": training.ensemble_section(run),
        "learning": training.learning_section(run, members),
        "search": training.search_section(run, members),
        "data": run.about.get("data_summary") or {},
        "splits": training.split_rows(run),
        "split_surfaces": training.split_surface_rows(run),
        "samples": embed_picture(run.folder / "samples.png"),
        "provenance": list(training.provenance(run)),
    }


def _digest(script: str) -> str:
    """The digest by which the page's policy knows its own script, and lets no other one run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _name_for_commands(folder: Path) -> str:
    """How commands find a run: by its name, or by its path where it lies below the current folder.

    A path of this machine alone is not told.
    """
    folder = folder.resolve()
    if folder.parent != DEFAULT_OUT.resolve() and folder.is_relative_to(Path.cwd()):
        return display_path(folder)
    return shlex.quote(folder.name)


def _number(value: Any, form: str = ".3f") -> str:
    """A number as it is read, a dash where there is none."""
    return format_number(None if isinstance(value, jinja2.Undefined) else value, form, missing="–")
