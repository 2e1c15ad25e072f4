"""Facts about an ensemble in one file: what is in it, that it judges alike, what is refused."""

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image
from runs import make_choice, make_evaluated, make_searched

from ensemble import evaluate, export, look, predict
from ensemble.api import load_ensemble, open_run
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, write_json
from ensemble.cli import parse
from ensemble.inspection.command import main as inspect
from ensemble.release.archive import describe, export_run
from ensemble.release.card import COLUMNS, write_card
from ensemble.run.exported import check_exported, is_exported
from ensemble.run.members import find_run
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member, drop_weights
from ensemble.training.fold_networks import FoldNetworks
from ensemble.training.weights_file import read_tensors

TILE = 32
DATA = {
    "num_tiles": {"train": 700, "val": 150, "test": 80},
    "num_cracked": {"train": 170, "val": 40, "test": 20},
    "num_photographs": {"train": 70, "val": 15, "test": 16},
    "split_by": "photograph",
    "split_seed": 3,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, write_member: Callable[..., Member]) -> Path:
    """An evaluated run of two members, of which one has a network for each of two folds."""
    run = tmp_path_factory.mktemp("results") / "wall"
    make_searched(run)
    metrics = make_evaluated(run)
    digests = {}
    for trial in (2, 0):
        torch.manual_seed(trial)
        network: Any = build_model("small_cnn")
        if trial == 2:
            network = FoldNetworks([network, build_model("small_cnn")])
        member = write_member(
            run / "members" / f"{trial:04}", trial=trial, model=network, val_f1=0.5 + trial / 10
        )
        digests[trial] = str(member.record.weights_sha256)
    record = run / "members" / "0002" / "member.json"
    write_json(record, read_object(record) | {"num_folds": 2})
    choice = make_choice(digests, method="greedy")
    for judged in (choice["members"][0], choice["best_single"]):
        judged |= {"num_networks": 2, "num_folds": 2}
    write_json(run / "ensemble.json", choice)
    write_json(run / "evaluation" / "metrics.json", metrics | {"choice": choice})
    about = {"data": "/home/lee/SDNET2018.zip", "tile_size_px": [TILE, TILE], "data_summary": DATA}
    write_json(run / "run.json", read_object(run / "run.json") | about)
    return run


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(run: Path) -> Path:
    return export_run(run, Path("wall.zip")).file


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "results" / "wall"))


def draw(name: str = "photograph.png") -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (3 * TILE, 4 * TILE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(name)
    return name


def rewrite(file: Path, change: Callable[[dict[str, bytes]], None], *, relist: bool = True) -> None:
    """Write an exported file again with changed entries, and with their digests if `relist`."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    if relist:
        contents = json.loads(entries["contents.json"])
        contents["sha256"] = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in entries.items()
            if name != "contents.json"
        }
        entries["contents.json"] = json.dumps(contents).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


# what it is good for


def test_the_file_judges_as_the_run_does_bit_by_bit(run: Path, file: Path, tmp_path: Path):
    draw()
    predict.main(parse("predict", [str(run), "photograph.png", "--csv", "run.csv"]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    renamed = shutil.move(file, elsewhere / "given away.zip")
    done = predict.main(parse("predict", [str(renamed), "photograph.png"]))
    assert Path("predictions.csv").read_bytes() == Path("run.csv").read_bytes()
    assert done["run"] == str(renamed.resolve())
    assert not list(tmp_path.rglob("*.safetensors"))  # nothing is unpacked


def test_it_judges_as_the_run_does_from_python(run: Path):
    file = open_run(run).export("cracks.zip")
    draw()
    of_run, of_file = (load_ensemble(each, gpus=0).predict(draw()) for each in (run, file))
    pd.testing.assert_frame_equal(of_run, of_file, check_exact=True)
    assert find_run(str(file), under=Path(), takes_exported=True) == file.resolve()


@pytest.mark.parametrize("count", [1, 2])
def test_networks_that_the_choice_does_not_use_are_left_out(
    copy: Path, write_member: Callable[..., Member], count: int
):
    """As with --budget-members, which keeps the networks of the first folds."""
    networks = FoldNetworks([build_model("small_cnn") for _ in range(3)])
    member = write_member(copy / "members" / "0002", trial=2, model=networks)
    record = copy / "members" / "0002" / "member.json"
    write_json(record, read_object(record) | {"num_folds": 3})
    choice = read_object(copy / "ensemble.json")
    folds = {"num_networks": count, "num_folds": 3}
    digest = {"weights_sha256": member.record.weights_sha256}
    choice["members"][0] |= folds | digest
    write_json(copy / "ensemble.json", choice)
    metrics = read_object(copy / "evaluation" / "metrics.json")
    write_json(copy / "evaluation" / "metrics.json", metrics | {"choice": choice})
    done = export_run(copy, Path("budget.zip"))
    assert done.num_passes == count + 1
    with zipfile.ZipFile(done.file) as archive:
        (name,) = (name for name in archive.namelist() if "/0002/epoch-" in name)
        held = safetensors.torch.load(archive.read(name))
    assert len(held) == count * len(networks.state_dict()) / 3
    frames = [load_ensemble(each, gpus=0).predict(draw()) for each in (copy, done.file)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_inspect_finds_with_it_what_it_finds_with_the_run(run: Path, file: Path):
    for each, folder in ((run, "one"), (file, "other")):
        inspect(parse("inspect", [str(each), draw(), "--folder", folder]))
    for name in ("tiles.csv", "photographs.csv", "coco.json"):
        assert Path("one", name).read_bytes() == Path("other", name).read_bytes()


def test_unpacked_it_is_a_run_that_judges_alike(file: Path):
    with zipfile.ZipFile(file) as archive:
        archive.extractall("unpacked")
    frames = [load_ensemble(each, gpus=0).predict(draw()) for each in (file, "unpacked")]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


@pytest.mark.parametrize(("name", "trial"), [("wall.zip", 2), ("wall.zip/0", 0)])
def test_a_member_of_it_is_looked_into(file: Path, name: str, trial: int):
    done = look.main(parse("look", [draw(), "--member", name]))
    assert done["member"] == str(file.resolve() / f"members/{trial:04}")
    assert Path("look.png").is_file()


def test_a_member_that_it_lacks_is_named_with_those_there(file: Path):
    with pytest.raises(InputError, match=r"wall.zip: has no member of trial 7 \(there is 0, 2\)"):
        look.main(parse("look", [draw(), "--member", "wall.zip/7"]))


# what is in it


def test_it_holds_what_predict_needs_and_no_tile_score_or_path(run: Path, file: Path):
    with zipfile.ZipFile(file) as archive:
        contents = json.loads(archive.read("contents.json"))
        names = archive.namelist()
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        held = b"".join(archive.read(name) for name in names)
        sizes = json.loads(archive.read("run.json"))
    weights = sorted(path.relative_to(run).as_posix() for path in run.rglob("members/*/*.saf*"))
    records = [f"members/{trial:04}/member.json" for trial in (0, 2)]
    expected = {"README.md", "contents.json", "ensemble.json", "run.json", *records, *weights}
    assert sorted(names) == sorted(expected)
    assert contents["sha256"].keys() == expected - {"contents.json"}
    assert sizes == {"tile_size_px": [TILE, TILE], "stored_size_px": [TILE, TILE]}
    for told in (b"/home/lee", str(run.parent).encode(), b"/nowhere"):
        assert told not in held


def test_a_run_always_gives_the_same_bytes(run: Path, copy: Path):
    first, second = export_run(run, Path("a.zip")).file, export_run(copy, Path("b.zip")).file
    assert first.read_bytes() == second.read_bytes()
    export_run(copy, first)  # an older export is replaced
    assert first.read_bytes() == second.read_bytes()


def test_the_card_tells_the_figures_of_the_test_with_their_intervals(run: Path):
    card = write_card(describe(run))
    metrics = read_object(run / "evaluation" / "metrics.json")
    for title, figures in (
        ("tile alone", metrics["ways"]["tile alone"]["figures"]),
        ("with neighbours", metrics["ways"]["with neighbours"]["figures"]),
        ("W, wall", metrics["ways"]["with neighbours"]["surfaces"]["W"]["figures"]),
    ):
        (row,) = re.findall(rf"^\| {title} \|.*$", card, re.MULTILINE)
        for name, (_, form) in COLUMNS.items():
            bounds, cell = figures["intervals"][name], f"{figures[name]:{form}}"
            if bounds["low"] is not None:
                digits = 1 if form == ".1f" else 2
                cell += f" [{bounds['low']:.{digits}f}, {bounds['high']:.{digits}f}]"
            assert f"| {cell} |" in row
    assert "| with context | as tile alone |" in card
    (trivial,) = re.findall(r"^\| every tile called cracked \| ([\d.]+) ", card, re.MULTILINE)
    assert float(trivial) == pytest.approx(metrics["ensemble"]["trivial_f1"], abs=5e-4)
    assert "95 % intervals" in card


def test_the_card_tells_data_limits_cost_and_origin(run: Path):
    card = write_card(describe(run))
    for told in (
        "| training | 70 | 700 | 170 |",
        "| test | 16 | 80 | 20 |",
        "`SDNET2018.zip`, by its path SDNET2018 (CC BY 4.0",
        "digest of the split `split`, seed 3",
        "opened 1 time",
        "It is weakest on surface ",
        f"{TILE} × {TILE} px",
        "Forward passes a tile: 3.",
        "commit `abc+`",
        "commit `abd`",
        "| trial 2 | `small_cnn` | 16 | 0 | 2 | 0.500 | random weights |",
        "predict FILE.zip photographs/",
        'load_ensemble("FILE.zip")',
    ):
        assert told in card


def test_the_card_counts_openings_by_judge_after_the_last_evaluation(copy: Path):
    ledger = copy / "evaluation" / "ledger.csv"
    assert "of this run was opened 1 time." in write_card(describe(copy))
    ledger.write_text(ledger.read_text() + ledger.read_text().splitlines()[1] + "\n")
    card = write_card(describe(copy))
    assert "of this run was opened 2 times, 1 of them after this test." in card


def test_the_card_tells_what_a_refit_tried_and_what_it_gained(copy: Path):
    assert "of the refit changed it" not in write_card(describe(copy))
    row = {"trial": 0, "name": "wall/2", "f1": 0.5}
    gain = {"f1_difference": -0.012, "f1_low": -0.03, "f1_high": 0.01}
    tried = {"trial": 1, "name": "data.context_px = 0", "f1": 0.488, **gain, "f1_verdict": "worse"}
    pd.DataFrame([row, tried]).to_csv(copy / "tried.csv", index=False)
    card = write_card(describe(copy))
    assert (
        "On the folds, F1 of `wall/2` is 0.500, and 1 other configuration of the refit changed it "
        "by `data.context_px = 0` −0.012 [−0.03, 0.01] (worse)."
    ) in card
    pd.DataFrame([row, {**tried, "f1_low": None}]).to_csv(copy / "tried.csv", index=False)
    assert "`data.context_px = 0` −0.012 (worse)." in write_card(describe(copy))
    pd.DataFrame([row, row]).to_csv(copy / "tried.csv", index=False)
    with pytest.raises(InputError, match=r"tried\.csv: damaged"):
        describe(copy)


def test_the_card_tells_data_sets_that_this_ensemble_was_judged_on(copy: Path):
    metrics = read_object(copy / "evaluation" / "metrics.json")
    judged = {"ensemble": metrics["ensemble"], "num_tiles": 1200, "num_photographs": None}
    for name, choice in (
        ("METU", metrics["choice"]),
        ("earlier", metrics["choice"] | {"threshold": 0.1}),
    ):
        (copy / "judged" / name).mkdir(parents=True)
        write_json(copy / "judged" / name / "metrics.json", judged | {"choice": choice})
    card = write_card(describe(copy))
    f1, bounds = metrics["ensemble"]["f1"], metrics["ensemble"]["intervals"]["f1"]
    assert (
        f"On another data set, `METU`, 1,200 tiles, it reached F1 {f1:.3f} "
        f"[{bounds['low']:.2f}, {bounds['high']:.2f}], recall 0."
    ) in card
    assert "earlier" not in card
    del judged["num_tiles"]
    write_json(copy / "judged" / "METU" / "metrics.json", judged | {"choice": metrics["choice"]})
    with pytest.raises(InputError, match=r"METU/metrics\.json: damaged"):
        describe(copy)


def test_an_export_in_place_of_weights_is_refused_with_what_is_wanted(file: Path):
    wanted = r"is an exported ensemble, .* such as 'members/0000/epoch-1-\w+\.safetensors'"
    with pytest.raises(InputError, match=wanted):
        read_tensors(file)
    rewrite(file, drop("contents.json"), relist=False)
    with pytest.raises(InputError, match=r"is a \.zip, not a file of tensors"):
        read_tensors(file)


def test_the_card_of_other_data_claims_no_licence_of_it(copy: Path):
    write_json(copy / "run.json", read_object(copy / "run.json") | {"data": "/home/lee/mine"})
    card = write_card(describe(copy))
    assert "Data: `mine`. " in card
    assert "does not record the licence" in card
    assert "CC BY" not in card


def test_the_card_names_a_file_of_weights_without_its_folder(copy: Path):
    weights = {"small_cnn": {"origin": "weights of /home/lee/start.pth", "digest": "d"}}
    write_json(copy / "run.json", read_object(copy / "run.json") | {"weights": weights})
    card = write_card(describe(copy))
    assert "the weights `start.pth`" in card
    assert "/home" not in card


# what is refused, with nothing written


def test_the_command_writes_beside_where_one_is_and_says_how_to_go_on(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    done = export.main(parse("export", [str(run)]))
    assert done["file"] == "wall.zip"
    assert done["num_passes"] == 3
    said = capsys.readouterr().out
    assert re.search(r"^written: wall\.zip \(\d\.\d MB, 2 members, with its card\)$", said, re.M)
    assert re.search(r"^next: .*predict wall\.zip PHOTOS$", said, re.M)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("notes.txt", "must be a file called ….zip in an existing folder"),
        ("nowhere/a.zip", "must be a file called ….zip in an existing folder"),
        ("folder.zip", "must be a file called ….zip in an existing folder"),
        ("photographs.zip", "exists and is no exported ensemble; name another file"),
        ("text.zip", "exists and is no exported ensemble; name another file"),
    ],
)
def test_a_file_that_would_be_lost_is_refused(run: Path, file: str, message: str):
    Path("folder.zip").mkdir()
    Path("text.zip").write_text("not a .zip")
    with zipfile.ZipFile("photographs.zip", "w") as archive:
        archive.write(draw(), "1.png")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        export_run(run, Path(file))
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_without_a_test_of_this_choice_the_way_out_is_to_evaluate(copy: Path):
    record = read_object(copy / "ensemble.json")
    write_json(copy / "ensemble.json", record | {"threshold": 0.46})
    with pytest.raises(InputError, match=r"metrics.json: is of another choice .*evaluate "):
        export_run(copy, Path("a.zip"))
    shutil.rmtree(copy / "evaluation")
    with pytest.raises(InputError, match=r"wall: was not tested, .*evaluate "):
        export_run(copy, Path("a.zip"))
    (copy / "ensemble.json").unlink()
    with pytest.raises(
        InputError, match=r"wall has no ensemble yet; .*evaluate results/wall chooses one"
    ):
        export_run(copy, Path("a.zip"))
    assert not list(Path().glob("*.zip"))


def test_a_member_without_weights_leaves_the_older_file(copy: Path):
    file = export_run(copy, Path("a.zip")).file
    before = file.read_bytes()
    (weights,) = (copy / "members" / "0000").glob("*.safetensors")
    weights.write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged member"):
        export_run(copy, file)
    drop_weights(copy / "members" / "0000")
    with pytest.raises(InputError, match="not the member that was chosen"):
        export_run(copy, file)
    assert file.read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["a.zip", "results"]


@pytest.mark.parametrize("command", [evaluate, export])
def test_a_command_that_needs_the_run_says_so(file: Path, command: Any):
    name = command.__name__.rpartition(".")[2]
    with pytest.raises(InputError, match=r"wall\.zip: is an exported ensemble, .*needs the trials"):
        command.main(parse(name, ["wall.zip"]))


def test_the_file_is_no_picture(file: Path):
    with pytest.raises(InputError, match=r"^wall\.zip: is a run, not a picture: .* RUN PHOTOS"):
        predict.main(parse("predict", ["wall.zip", "wall.zip"]))


# what somebody sent


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda entries: entries.pop(name) and None


def put(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda entries: entries.update({name: content})


@pytest.mark.parametrize(
    ("change", "relist", "message"),
    [
        (put("README.md", b"better"), False, r"'README.md': its digest is not that of contents"),
        (put("run.json", b"{}"), False, r"'run.json': its digest is not that of contents"),
        (drop("ensemble.json"), False, r"'ensemble.json': missing"),
        (drop("ensemble.json"), True, r"lacks 'ensemble.json'"),
        (drop("members/0000/member.json"), True, r"lacks 'members/0000/member.json'"),
        (put("new.py", b"x"), False, r"'new.py': not among what was exported"),
        (put("ensemble.json", b"[1]"), True, r"expected an object, but got \[1\]"),
        (put("ensemble.json", b"{"), True, r"ensemble.json: damaged, as it is no JSON"),
        (put("ensemble.json", b'{"format": 2}'), True, r"by crack-ensemble .* does not read it"),
        (put("run.json", b"{}"), True, r"no 'tile_size_px'"),
        (put("contents.json", b"{}"), False, r"nor an ensemble that export wrote; name one"),
        (drop("contents.json"), False, r"nor an ensemble that export wrote; name one"),
        (
            put(
                "contents.json",
                b'{"kind": "crack-ensemble, exported", "format": 2, "version": "9"}',
            ),
            False,
            r"exported by crack-ensemble 9, and this is .*install that one",
        ),
        (
            put("contents.json", b'{"kind": "crack-ensemble, exported", "format": 1}'),
            False,
            r"'contents.json': .*sha256",
        ),
    ],
)
def test_a_changed_file_is_refused_in_one_line(
    file: Path, change: Callable[[dict[str, bytes]], None], relist: bool, message: str
):
    rewrite(file, change, relist=relist)
    with pytest.raises(InputError, match=message):
        load_ensemble(file, gpus=0)


def test_one_damaged_byte_anywhere_is_noticed(file: Path):
    """A sample of places; those of names, sizes, digests and contents are among them."""
    whole = file.read_bytes()
    harmless = 0
    for place in range(7, len(whole), len(whole) // 150):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        file.write_bytes(damaged)
        try:
            check_exported(file)
        except InputError:
            continue
        harmless += 1
    assert harmless <= 3  # a time, or an attribute of the .zip's own


def test_a_cut_file_and_a_text_are_refused(file: Path):
    file.write_bytes(file.read_bytes()[:-100])
    for path in (file, Path("text.zip")):
        Path("text.zip").write_text("not a .zip")
        assert not is_exported(path)
        with pytest.raises(InputError, match=r"nor an ensemble that export wrote \(no \.zip, "):
            load_ensemble(path, gpus=0)


def test_two_entries_of_one_name_are_refused(file: Path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("ensemble.json", b"{}")
    with pytest.raises(InputError, match=r"two members called 'ensemble\.json'"):
        load_ensemble(file, gpus=0)


def test_an_entry_that_unpacks_to_more_than_the_file_accounts_for_is_refused(file: Path):
    zeros = bytes(20 * 2**20)
    with zipfile.ZipFile(file) as archive:
        contents = json.loads(archive.read("contents.json"))
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["README.md"] = zeros
    contents["sha256"]["README.md"] = hashlib.sha256(zeros).hexdigest()
    entries["contents.json"] = json.dumps(contents).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match=r"'README.md' would unpack to 20,971,520 bytes"):
        load_ensemble(file, gpus=0)


def test_a_name_that_leads_out_of_the_file_is_refused(file: Path):
    rewrite(file, put("../out.json", b"{}"))
    with pytest.raises(InputError, match=r"unsafe name '\.\./out\.json'"):
        load_ensemble(file, gpus=0)


def test_packed_again_by_another_program_it_is_read(run: Path, file: Path):
    """Deflated, with entries for folders, in another order."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("members")
        for name, content in sorted(entries.items(), reverse=True):
            archive.writestr(name, content)
    draw()
    frames = [load_ensemble(each, gpus=0).predict("photograph.png") for each in (run, file)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_a_member_of_a_billion_networks_is_refused_and_not_built(file: Path):
    def change(entries: dict[str, bytes]) -> None:
        record = json.loads(entries["members/0002/member.json"])
        entries["members/0002/member.json"] = json.dumps(record | {"num_folds": 10**9}).encode()

    rewrite(file, change)
    with pytest.raises(InputError, match=r"member\.json: .*num_folds"):
        load_ensemble(file, gpus=0)
