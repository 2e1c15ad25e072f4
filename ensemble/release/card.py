"""A run and its test → the model card of its ensemble, in Markdown for people who did not train it.

What it says is computed from `run.json`, `ensemble.json`, `evaluation/metrics.json` and the members
alone, so the same run gives the same card. It tells what Mitchell et al. 2019
(https://arxiv.org/abs/1810.03993) ask of one: use, data, figures by group, limits, provenance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ensemble.base.errors import escape
from ensemble.base.wording import capitalize_first, format_number, percent, plural
from ensemble.data.augmentation import NUM_TURNS
from ensemble.data.classes import SDNET_SURFACES
from ensemble.data.prepare import is_drawn
from ensemble.evaluation.presentation import describe_method, trivial_sentences
from ensemble.release.usage import write_use
from ensemble.report.sentences import seed_caveat, warnings_about
from ensemble.selection.choice import EnsembleRecord
from ensemble.training.checkpoint import Member
from ensemble.training.initial_weights import find_licence

COLUMNS = {  # figures of the card's tables, with their form
    "f1": ("F1", ".3f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "average_precision": ("AP", ".3f"),
    "false_alarms_per_photograph": ("false alarms a photograph", ".1f"),
}
NONE = "–"
MARKS = "&\\`*[]<>|#~"  # of Markdown and HTML
KNOWN_DATA = {  # part of a path in small letters → the data set, its licence and its source
    "sdnet": (
        "SDNET2018",
        "CC BY 4.0: Maguire, Dorafshan and Thomas 2018, https://doi.org/10.15142/T3TD19",
    ),
    "metu": ("METU", "CC BY 4.0: Özgenel 2019, https://doi.org/10.17632/5y9wdsg2zt.2"),
    "5y9wdsg2zt": ("METU", "CC BY 4.0: Özgenel 2019, https://doi.org/10.17632/5y9wdsg2zt.2"),
}
KNOWN_BY = ": finds cracks in photographs of concrete"  # what the title of each card ends with

WAYS = """Tile alone: nothing but the tile is seen. With context: also what lies around it in its
photograph, where a network was trained with that. With neighbours: also the scores of the tiles
around it, where validation gained by that. `predict` judges a photograph of several tiles with
neighbours, and a picture that is a single tile as a tile alone. AP is the average precision, which
needs no threshold."""


@dataclass(frozen=True)
class Described:
    """What a card is made from.

    Attributes:
        name: Name of the run.
        about: What `run.json` holds.
        choice: What `ensemble.json` holds.
        metrics: What `evaluation/metrics.json` holds.
        members: Members of the ensemble, in the order of `choice.members`.
        weight_bytes: Size of their weights.
        openings: How often the test part was opened, as a sentence.
        tried: What a refit tried and what it gained, as a sentence; "" for nothing.
        judged: What it reached on other data sets, a sentence each.
    """

    name: str
    about: dict[str, Any]
    choice: EnsembleRecord
    metrics: dict[str, Any]
    members: Sequence[Member]
    weight_bytes: int
    openings: str
    tried: str
    judged: Sequence[str]

    @property
    def ways(self) -> dict[str, Any]:
        """The ways of judging that differ; the last is that of `predict`."""
        return {n: way for n, way in self.metrics["ways"].items() if "same_as" not in way}

    @property
    def final(self) -> dict[str, Any]:
        """How `predict` judges: its figures, and those of each surface."""
        return list(self.ways.values())[-1]

    @property
    def num_passes(self) -> int:
        """Forward passes that a tile takes."""
        return self.choice.num_passes

    @property
    def surface_names(self) -> dict[str, str]:
        """Name for people of each surface, as a cell of a table takes it."""
        surfaces = self.metrics["surfaces"]
        known = SDNET_SURFACES if {*surfaces} <= {*SDNET_SURFACES} else {}
        return {name: known.get(name, _plain(name)) for name in surfaces}


def write_card(described: Described, form: str = "zip") -> str:
    """The card as Markdown.

    Args:
        described: What it tells.
        form: Form of the file that it is the card of, one of `FORMS`.
    """
    sections = (
        _what_it_is(described),
        write_use(form),
        *([_describe_graph(described)] * (form != "zip")),
        _training(described),
        _test(described),
        _limits(described),
        _make(described),
        _licence(described),
    )
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _what_it_is(described: Described) -> str:
    counts = described.final["figures"]["confusion_matrix"]
    hits, alarms = counts["true_positive"], counts["false_positive"]
    cracked = plural(hits + counts["false_negative"], "cracked tile")
    height, width = described.about["tile_size_px"]
    lines = [
        f"# {_plain(described.name)}{KNOWN_BY}",
        "",
        *(
            f"**{warning}**\n"
            for warning in warnings_about(described.about, described.metrics, None)
        ),
        f"It cuts a photograph into tiles of {width} × {height} px and gives each tile a "
        "calibrated probability that it shows a crack, and a verdict. It says nothing about how "
        "wide, how deep or how dangerous a crack is.",
        "",
        f"On {_photographs_of(described)}, it found {hits:,} of {cracked} and raised "
        f"{plural(alarms, 'false alarm')}.",
    ]
    return "\n".join(lines)


def _describe_graph(described: Described) -> str:
    """What a graph does not do as the run does it."""
    choice = described.choice
    lines = [
        "## What the graph does",
        "",
        "It reduces and cuts windows for each network, scales their pixels, runs the networks"
        f"{f' on {NUM_TURNS} flips and turns' * choice.tta}, takes the mean of their probabilities "
        "and calibrates it. It computes in float32.",
    ]
    others = [
        f"trial {member.trial}"
        for member in described.members
        if member.record.precision != "float32"
    ]
    if others:
        lines[-1] += (
            f" {capitalize_first(', '.join(others))} was validated in bfloat16, so a tile close to "
            "the threshold may get another verdict than the figures below count."
        )
    if choice.neighbours is not None:
        lines += [
            "",
            "The second stage, which reads the scores of the tiles around a tile, is no part of "
            "the graph, because it is no function of one window. `crack-ensemble predict` applies "
            "it; others find its coefficients in `graph.json`. Without it, the figures are those "
            "of a row above the last one below.",
        ]
    return "\n".join(lines)


def _photographs_of(described: Described) -> str:
    """What was tested, in words."""
    tiles = plural(described.metrics["num_test_tiles"], "tile")
    photographs = described.metrics["num_test_photographs"]
    if not photographs:
        return f"{tiles} held out for the test"
    unseen = " that nothing was trained or chosen on"
    is_unseen = described.metrics["split_by"] == "photograph"
    return f"{tiles} of {plural(photographs, 'photograph')}{unseen * is_unseen}"


def _training(described: Described) -> str:
    about = described.about
    data = about.get("data_summary") or {}
    rows = []
    for split, title in (("train", "training"), ("val", "validation"), ("test", "test")):
        if split in (data.get("num_tiles") or {}):
            photographs = (data.get("num_photographs") or {}).get(split)
            counts = (photographs or None, data["num_tiles"][split], data["num_cracked"][split])
            rows.append([title, *(NONE if n is None else f"{n:,}" for n in counts)])
    unit = "the folders of the data" if data.get("keeps_split") else data.get("split_by", "")
    seed = f", seed {data['split_seed']}" if "split_seed" in data else ""
    lines = [
        "## What it was trained on",
        "",
        f"Data: {_name_data(about)}. It was split{f' by {unit}' if unit else ''} (digest of the "
        f"split {_code(described.choice.split_digest)}{seed}).",
        "",
        *_table(["part", "photographs", "tiles", "of these cracked"], rows),
        "",
        f"{_use_of_parts(about)} No network was trained on the test part, and nothing was chosen "
        "on it.",
        *(["", described.tried] if described.tried else []),
    ]
    if data.get("num_relabelled"):
        lines += ["", f"{plural(data['num_relabelled'], 'label')} of the data were corrected."]
    return "\n".join(lines)


def _use_of_parts(about: dict[str, Any]) -> str:
    """What the parts for training and validation were used for, in words."""
    if "refit_of" not in about:
        return (
            "Networks were trained on the training part. Which of them are used, with which "
            "weights and threshold, was chosen on the validation part."
        )
    return (
        "The training and validation parts together were divided by photograph into "
        f"{plural(int(about.get('folds', 1)), 'fold')}, and each network was trained on all folds "
        "but one. Which networks are used, with which weights and threshold, was chosen on scores "
        "of networks that had not been trained on the tile's fold."
    )


def _name_data(about: dict[str, Any]) -> str:
    """Name the data by the last part of its path, and the data set that the path tells it to be."""
    path = PurePath(str(about.get("data", "")))
    name = _code(path.name) if path.name else "not recorded"
    if is_drawn(str(path)):
        return f"{name}, which is drawn concrete, no photographs"
    known = _find_known(about)
    return name if known is None else f"{name}, by its path {known[0]} ({known[1]})"


def _find_known(about: dict[str, Any]) -> tuple[str, str] | None:
    """The name and the licence of the data, where its path tells which data set it is."""
    where = str(about.get("data", "")).casefold()
    return next((known for part, known in KNOWN_DATA.items() if part in where), None)


def _test(described: Described) -> str:
    metrics = described.metrics
    rows = [
        [name, f"as {way['same_as']}", *[""] * (len(COLUMNS) - 1)]
        if "same_as" in way
        else [name, *_measure(way["figures"], metrics)]
        for name, way in metrics["ways"].items()
    ]
    rows.append(["every tile called cracked", *_all_cracked(described.final["figures"], metrics)])
    surfaces = [
        [
            described.surface_names[name],
            f"{counts['num_photographs']:,}" if metrics["num_test_photographs"] else NONE,
            f"{counts['num_tiles']:,}",
            *_measure(part["figures"], metrics),
            format_number(part["figures"]["trivial_f1"], missing=NONE),
        ]
        for name, part in described.final["surfaces"].items()
        for counts in [metrics["surfaces"][name]]
    ]
    titles = [title for title, _ in COLUMNS.values()]
    header = ["surface", "photographs", "tiles", *titles, "F1 of calling every tile cracked"]
    has_interval = described.final["figures"]["intervals"]["f1"]["low"] is not None
    seeds = f"{seed_caveat(metrics['choice'])} " if has_interval else ""
    lines = [
        "## How good it is",
        "",
        f"Tested on {_photographs_of(described)}"
        f"{', with 95 % intervals in brackets' if has_interval else ''}:",
        "",
        *_table(["judged", *titles], rows),
        "",
        WAYS,
        *(["", "Each surface, judged as `predict` does:", ""] if surfaces else []),
        *(_table(header, surfaces) if surfaces else []),
        "",
        f"{capitalize_first(metrics['intervals'])}. {seeds}{described.openings}",
        *(line for sentence in described.judged for line in ("", sentence)),
    ]
    return "\n".join(lines)


def _measure(figures: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    """Cells of the figures with their intervals."""
    cells = []
    for name, (_, form) in COLUMNS.items():
        bounds = figures["intervals"][name]
        cell = format_number(figures[name], form, missing=NONE)
        if bounds["low"] is not None:
            short = ".1f" if form == ".1f" else ".2f"
            cell += f" [{bounds['low']:{short}}, {bounds['high']:{short}}]"
        is_known = name != "false_alarms_per_photograph" or metrics["num_test_photographs"]
        cells.append(cell if is_known else NONE)
    return cells


def _all_cracked(figures: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    """Cells of what calling every tile cracked would reach."""
    counts = figures["confusion_matrix"]
    uncracked = counts["false_positive"] + counts["true_negative"]
    share = 1 - uncracked / max(sum(counts.values()), 1)
    photographs = metrics["num_test_photographs"]
    cells = [format_number(value) for value in (figures["trivial_f1"], share, 1.0, share)]
    return [*cells, f"{uncracked / photographs:.1f}" if photographs else NONE]


def _limits(described: Described) -> str:
    return "\n".join(["## Where it fails", "", *(f"- {line}" for line in _list_limits(described))])


def _list_limits(described: Described) -> Iterator[str]:
    """Yield a sentence for each thing that a person must know before trusting a verdict."""
    metrics, figures = described.metrics, described.final["figures"]
    counts = figures["confusion_matrix"]
    yield from trivial_sentences(metrics)
    missed, cracked = counts["false_negative"], counts["false_negative"] + counts["true_positive"]
    yield (
        f"It misses cracks: {missed:,} of {plural(cracked, 'cracked tile')} of the test "
        f"({percent(missed / max(cracked, 1))}). No alarm does not mean no crack."
    )
    if metrics["num_test_photographs"]:
        tiles = metrics["num_test_tiles"] / metrics["num_test_photographs"]
        alarms = format_number(figures["false_alarms_per_photograph"], ".1f", missing=NONE)
        yield (
            f"False alarms: {alarms} a photograph of {tiles:.0f} tiles on average. A photograph of "
            "more tiles has more chances of one, so look at the overlay before you call it cracked."
        )
    scored = {
        name: part["figures"]
        for name, part in described.final["surfaces"].items()
        if part["figures"]["f1"] is not None
    }
    if len(scored) > 1:
        worst = min(scored, key=lambda name: (scored[name]["f1"], name))
        recall = format_number(scored[worst]["recall"], missing=NONE)
        alarms = format_number(scored[worst]["false_alarms_per_photograph"], ".1f", missing=NONE)
        yield (
            f"It is weakest on surface {described.surface_names[worst]}: F1 "
            f"{format_number(scored[worst]['f1'])}, recall {recall}"
            + (f", {alarms} false alarms a photograph." if metrics["num_test_photographs"] else ".")
        )
    height, width = described.about["tile_size_px"]
    yield (
        "It knows cracks at one scale. Photographs are not reduced, so take them such that a tile "
        f"of {width} × {height} px shows as much concrete as a tile of its training data did."
    )
    yield "Other materials, cameras and light than those of its data were not tested."
    yield (
        "A crack on the border of two tiles may be missed in both: `--overlap 0.5` looks between "
        "them, at 4 times the time and with more chances of a false alarm."
    )


def _make(described: Described) -> str:
    choice, about = described.choice, described.about
    rows = []
    for chosen, member in zip(choice.members, described.members, strict=True):
        config = member.record.config
        rows.append(
            [
                f"trial {member.trial}",
                _code(config.model.backbone),
                f"{config.data.image_size_px}",
                f"{config.data.context_px}",
                f"{chosen.num_networks}",
                f"{chosen.weight:.3f}",
                _begins_from(about, config.model.backbone),
            ]
        )
    header = ["member", "network", "tile seen at (px)", "margin (px of the photograph)", "networks"]
    stage = "none" if choice.neighbours is None else "yes, on the scores of the tiles around a tile"
    turned = f", each tile in its {NUM_TURNS} flips and turns" if choice.tta else ""
    return "\n".join(
        [
            "## What it is made of",
            "",
            *_table([*header, "weight", "began from"], rows),
            "",
            f"Forward passes a tile: {described.num_passes}{turned}. Size of all weights: "
            f"{described.weight_bytes / 1e6:.1f} MB.",
            f"Combined by: {describe_method(choice.model_dump(mode='json'))}. "
            f"Second stage: {stage}. Threshold rule: {choice.threshold_rule}. On the calibrated "
            f"scale a tile is called cracked from {_final_threshold(choice):.4g} on"
            f"{_alone_threshold(choice)}.",
            "",
            *_provenance(described),
        ]
    )


def _final_threshold(choice: EnsembleRecord) -> float:
    """The lowest calibrated probability that is called cracked, of a tile of a photograph."""
    second = choice.neighbours
    return choice.calibrated_threshold if second is None else second.threshold


def _alone_threshold(choice: EnsembleRecord) -> str:
    """What follows on a card's threshold where tiles without neighbours have one of their own."""
    if choice.alone is None:
        return ""
    return f", a picture that is a single tile from {choice.alone.calibrated_threshold:.4g} on"


def _begins_from(about: dict[str, Any], backbone: str) -> str:
    """What a network's training began from, without the folders of a file, and its licence."""
    origin = str(((about.get("weights") or {}).get(backbone) or {}).get("origin", "not recorded"))
    before, of_file, path = origin.partition("weights of ")
    if not before and of_file:
        return f"the weights {_code(PurePath(path).name)}"
    licence = find_licence(backbone) if origin != "random weights" else ""
    return _plain(origin) + (f", licence {_plain(licence)}" if licence else "")


def _provenance(described: Described) -> Iterator[str]:
    """Yield which code made it, and with which versions."""
    trained, tested = map(_describe_code, (described.about, described.metrics))
    at = _plain(described.metrics["evaluated_at"])
    if trained == tested:
        yield f"- Trained, and tested at {at}, with {tested}."
    else:
        yield f"- Trained with {trained}."
        yield f"- Tested at {at} with {tested}."


def _describe_code(source: dict[str, Any]) -> str:
    """The commit and the versions that a record names."""
    commit = source.get("commit")
    known = source.get("versions") or {}
    versions = ", ".join(f"{name} {version}" for name, version in known.items())
    code = f"commit {_code(str(commit))}" if commit else "code of no recorded commit"
    return f"{code}; {_plain(versions)}"


def describe_data(described: Described) -> tuple[str, str]:
    """The name of the data, by the last part of its path, and its licence or that none is known."""
    known = _find_known(described.about)
    name = PurePath(str(described.about.get("data", ""))).name
    return (name, "not recorded") if known is None else (f"{name} ({known[0]})", known[1])


def _licence(described: Described) -> str:
    known = _find_known(described.about)
    of_data = "The run does not record the licence of its data."
    if known is not None:
        of_data = f"Its data, by its path {known[0]}, is under {known[1]}."
    return "\n".join(
        [
            "## Licence",
            "",
            "The program crack-ensemble is under Apache-2.0. The weights were made from the data "
            "and the initial weights above, so name their authors and keep to their licences when "
            f"you give this file away. {of_data}",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown; the first column is text and the others are numbers."""
    bars = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (header, bars, *rows)]


def _code(text: str) -> str:
    """Foreign text as code in a line or in a cell of a table."""
    shown = escape(text).replace("`", "'").replace("|", "/")
    return f"`{shown}`"


def _plain(text: str) -> str:
    """Foreign text as Markdown shows it, in one line and without marks of its own."""
    return "".join(f"&#{ord(c)};" if c in MARKS else c for c in escape(text))
