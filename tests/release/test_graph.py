"""Facts about an ensemble as one graph: that it judges as the run does, and what is refused."""

import io
import json
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from runs import make_choice, make_evaluated, make_searched

from ensemble import export, look, predict
from ensemble.api import load_ensemble, open_run
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, write_json
from ensemble.cli import parse
from ensemble.data.batches import place_tiles
from ensemble.release import graph_file
from ensemble.release.archive import export_run
from ensemble.release.graph import WholeEnsemble
from ensemble.run.exported import check_exported
from ensemble.selection import ensemble as selection
from ensemble.serving.photographs import Photograph, judge_photographs, open_ensemble
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member
from ensemble.training.config import TrialConfig
from ensemble.training.fold_networks import FoldNetworks
from ensemble.training.loop import predict_margins
from ensemble.training.metrics import margins_to_probabilities

TILE, STORED = 32, 24
CLOSE = 1e-4
GAIN = {
    **{"log_loss": 0.1, "log_loss_without": 0.2, "standard_error": 0.01},
    **{"score": 0.8, "score_without": 0.7},
}
NEIGHBOURS = {
    "intercept": -0.1,
    "coefficients": {"own": 0.9, "highest_beside": 0.3, "mean_beside": 0.2, "ahead": 0.1},
    "threshold": 0.5,
    "val_metrics": {"f1": 0.8},
    "gain": GAIN,
}
ALONE = {"temperature": 1.7, "threshold": 0.4, "calibrated_threshold": 0.41, "val_metrics": {}}


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    write_member: Callable[..., Member],
    make_trial_config: Callable[..., TrialConfig],
) -> Path:
    """An evaluated run of two members of different sight, with all that an ensemble can have."""
    run = tmp_path_factory.mktemp("results") / "wall"
    make_searched(run)
    metrics = make_evaluated(run)
    digests = {}
    for trial, data in ((2, {"image_size_px": 16, "context_px": 8}), (0, {"image_size_px": 24})):
        torch.manual_seed(trial)
        network: Any = build_model("small_cnn")
        if trial == 2:
            network = FoldNetworks([network, build_model("small_cnn")])
        for name, tensor in network.state_dict().items():
            if name.endswith("classifier.1.weight"):
                tensor.mul_(20)  # probabilities from 0 to 1
        member = write_member(
            run / "members" / f"{trial:04}",
            trial=trial,
            model=network,
            config=make_trial_config(data={"augmentation": 0.0, **data}),
        )
        digests[trial] = str(member.record.weights_sha256)
    record = run / "members" / "0002" / "member.json"
    changes = {"num_folds": 2, "precision": "bfloat16", "interpolation": "bicubic"}
    write_json(record, read_object(record) | changes)
    choice = make_choice(
        digests, method="greedy", tta=True, alone=ALONE, neighbours=NEIGHBOURS, threshold=0.5
    )
    for judged in (choice["members"][0], choice["best_single"]):
        judged |= {"num_networks": 2, "num_folds": 2}
    choice["members"][0]["weight"] = 0.7
    choice["members"][1]["weight"] = 0.3
    write_json(run / "ensemble.json", choice)
    write_json(run / "evaluation" / "metrics.json", metrics | {"choice": choice})
    sizes = {"tile_size_px": [TILE, TILE], "stored_size_px": [STORED, STORED]}
    about = {"data": "/home/lee/SDNET2018.zip", **sizes}
    write_json(run / "run.json", read_object(run / "run.json") | about)
    return run


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run as wall.onnx and wall.pt2."""
    folder = tmp_path_factory.mktemp("exported")
    for form in ("onnx", "pt2"):
        export_run(run, folder / f"wall.{form}", form)
    return folder


@pytest.fixture(params=["onnx", "pt2"])
def file(request: pytest.FixtureRequest, exported: Path) -> Path:
    return exported / f"wall.{request.param}"


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "results" / "wall"))


def draw(name: str = "photograph.png", rows: int = 3, columns: int = 4) -> np.ndarray:
    shape = (rows * TILE, columns * TILE, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels[: len(pixels) // 2] //= 3  # not all tiles alike
    Image.fromarray(pixels).save(name)
    return pixels


def in_float32(run: Path) -> selection.Ensemble:
    """The run's ensemble, all of whose members score in float32."""
    loaded = selection.load_ensemble(run, torch.device("cpu"))
    for member in loaded.members:
        object.__setattr__(
            member, "record", member.record.model_copy(update={"precision": "float32"})
        )
    return loaded


def use_of(card: Path) -> str:
    """The lines of Python that the card gives to people without the program."""
    (lines,) = re.findall(
        r"(?ms)^    import json.*?\.reshape\(rows, columns\)$", card.read_text(encoding="utf-8")
    )
    return textwrap.dedent(lines)


# that it judges as the run does


def test_predict_judges_by_it_as_by_the_run(run: Path, file: Path):
    draw()
    draw("one tile.png", 1, 1)
    tables = []
    for name in (run, file):
        words = [str(name), "photograph.png", "one tile.png", "--csv", "found.csv"]
        predict.main(parse("predict", words))
        tables.append(pd.read_csv("found.csv"))
    of_run, of_file = tables
    assert of_file["context"].tolist() == ["neighbours"] * 12 + ["tile"]
    assert set(of_file["verdict"]) == {"cracked", "uncracked"}
    assert (of_run["refined"] != of_run["calibrated"])[:12].all()  # the second stage is applied
    pd.testing.assert_frame_equal(of_run, of_file, rtol=0, atol=CLOSE)


def test_a_server_judges_by_its_bytes_as_predict_does_by_the_file(file: Path):
    draw()
    served = open_ensemble(file.read_bytes(), torch.device("cpu"))
    sent = Photograph("photograph.png", Path("photograph.png").read_bytes())
    (answer,) = judge_photographs(served, [sent], max_pixels=10**6, run_name="wall")
    wanted = load_ensemble(file, gpus=0).predict(["photograph.png"])
    tiles = pd.DataFrame(answer.figures["tiles"])
    assert tiles["probability"].tolist() == wanted["refined"].tolist()
    assert tiles["verdict"].tolist() == wanted["verdict"].tolist()


def test_the_lines_of_the_card_give_the_runs_probabilities_without_torch(run: Path, exported: Path):
    pixels = draw()
    for form in ("onnx", "pt2"):
        shutil.copy(exported / f"wall.{form}", f"FILE.{form}")
    lines = use_of(exported / "wall.onnx.README.md")
    assert len(lines.splitlines()) <= 13  # two of imports, one empty
    lines += "\nimport sys\nassert not {'torch', 'onnx', 'ensemble'} & set(sys.modules)"
    lines += "\nnp.save('said.npy', [probability, alone, *members.T])"
    subprocess.run([sys.executable, "-c", lines], check=True, timeout=120)
    of_onnx = np.load("said.npy")
    space: dict[str, Any] = {}
    exec(use_of(exported / "wall.pt2.README.md"), space)
    of_pt2 = np.stack([space["probability"], space["alone"], *space["members"].T])
    assert space["cracked"].shape == (3, 4)
    found = load_ensemble(run, gpus=0).predict("photograph.png")
    wanted = found[["calibrated", "trial_2", "trial_0"]].to_numpy().T
    for said in (of_onnx, of_pt2):
        np.testing.assert_allclose(said[[0, 2, 3]], wanted, rtol=0, atol=CLOSE)
    assert pixels.shape == (3 * TILE, 4 * TILE, 3)


@pytest.mark.parametrize("tile", [(32, 32), (32, 48)])
@pytest.mark.parametrize("stored", [1, 2])
def test_the_network_says_what_the_ensemble_says_of_tiles_alone(
    run: Path, tile: tuple[int, int], stored: int
):
    """Also of tiles that are not square, stored as they come or reduced."""
    ensemble = in_float32(run)
    sizes = {"tile_size_px": tile, "stored_size_px": (tile[0] // stored, tile[1] // stored)}
    for name, value in sizes.items():
        object.__setattr__(ensemble, name, value)
    network = WholeEnsemble(ensemble)
    pixels = np.random.default_rng(1).integers(0, 256, (5, *tile, 3), dtype=np.uint8)
    down, right = network.margin_px
    around = ((0, 0), (down, down), (right, right), (0, 0))
    windows = torch.from_numpy(np.pad(pixels, around, mode="symmetric"))
    assert windows.shape[1:3] == network.window_px
    probability, members, alone = (said.numpy() for said in network(windows))
    small = [np.asarray(Image.fromarray(each)) for each in pixels]
    if stored > 1:
        from ensemble.data.tiles import resize_picture

        small = [resize_picture(Image.fromarray(each), ensemble.stored_size_px) for each in pixels]
    tiles = place_tiles(
        np.stack(small), np.arange(5), np.zeros(5), torch.device("cpu"), tile_size_px=tile
    )
    scores = ensemble.score(tiles, alone=True)
    mean = ensemble.weigh(scores)
    np.testing.assert_allclose(members.T, scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(alone, ensemble.calibrate(mean, lone=True), rtol=0, atol=1e-6)
    np.testing.assert_allclose(probability, ensemble.calibrate(mean), rtol=0, atol=1e-6)


def test_any_number_of_windows_is_taken_and_each_is_judged_by_itself(exported: Path):
    about = call_of(exported / "wall.onnx")
    shape = (7, *about["input"]["shape"][1:])
    windows = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    session = onnxruntime.InferenceSession(exported / "wall.onnx")
    program = torch.export.load(exported / "wall.pt2").module()
    for said in (
        lambda some: session.run(None, {"windows": some}),
        lambda some: [each.numpy() for each in program(torch.from_numpy(some))],
    ):
        together = said(windows)
        for number in range(7):
            for one, all_of_them in zip(said(windows[number : number + 1]), together, strict=True):
                assert one.dtype == np.float32
                np.testing.assert_allclose(one[0], all_of_them[number], rtol=0, atol=1e-6)


def test_a_member_of_bfloat16_is_computed_in_float32_and_differs_by_little(
    run: Path, exported: Path, capsys: pytest.CaptureFixture[str]
):
    draw()
    predict.main(parse("predict", [str(exported / "wall.onnx"), "photograph.png"]))
    said = capsys.readouterr().out
    assert "scored in float32, in which an exported graph computes: trial 2 and" in said
    card = (exported / "wall.onnx.README.md").read_text(encoding="utf-8")
    assert "Trial 2 was validated in bfloat16" in card
    member = selection.load_ensemble(run, torch.device("cpu")).members[0]
    pixels = np.random.default_rng(3).integers(0, 256, (9, STORED, STORED, 3), dtype=np.uint8)
    tiles = place_tiles(
        *(pixels, np.arange(9), np.zeros(9), torch.device("cpu")), tile_size_px=(TILE, TILE)
    )
    exact, rough = (
        margins_to_probabilities(
            predict_margins(member.load_model(), tiles, member.record.view, precision=precision)
        )
        for precision in (torch.float32, torch.bfloat16)
    )
    assert CLOSE < np.abs(exact - rough).max() < 0.1


# what is in it


def call_of(file: Path) -> dict[str, Any]:
    """What `graph.json` holds, read by the format's own tools."""
    if file.suffix == ".onnx":
        (text,) = (p.value for p in onnx.load(file).metadata_props if p.key == "graph.json")
        return json.loads(text)
    extra = {"graph.json": ""}
    torch.export.load(file, extra_files=extra)
    return json.loads(extra["graph.json"])


def test_the_metadata_tell_how_it_is_called_and_what_it_is_of(run: Path, file: Path):
    about = call_of(file)
    side = TILE + 2 * about["margin_px"][0]
    assert about["input"]["shape"] == ["N", side, side, 3]
    assert about["margin_px"][0] > 8  # a little more than the member's context, as it is reduced
    assert about["data_licence"].startswith("CC BY 4.0")
    assert about["split_digest"] == "split"
    assert about["second_stage"]["coefficients"] == NEIGHBOURS["coefficients"]
    assert about["pixels"][0]["mean"] == [0.485, 0.456, 0.406]
    assert about["alone_threshold"] == ALONE["calibrated_threshold"]
    ensemble = selection.load_ensemble(run, torch.device("cpu"))
    assert about["threshold"] == pytest.approx(ensemble.calibrated_threshold)


def test_onnx_takes_its_own_file_and_no_other_set_of_operators(exported: Path):
    model = onnx.load(exported / "wall.onnx")
    onnx.checker.check_model(model)
    assert {each.domain for each in model.opset_import} == {""}
    assert [p.key for p in model.metadata_props if p.key == "ensemble.json"] == ["ensemble.json"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_it_tells_no_path_and_no_line_of_the_program(run: Path, file: Path):
    held = file.read_bytes()
    if file.suffix == ".pt2":
        with zipfile.ZipFile(file) as archive:
            held = b"".join(archive.read(name) for name in archive.namelist())
            assert not any(archive.read(n) for n in archive.namelist() if "sample_inputs" in n)
    for told in (b"/home/lee", str(run.parent).encode(), b"site-packages", b".py", b"def forward"):
        assert told not in held.replace(b"neighbours.py", b"")


# what is refused, with nothing written


def test_the_command_writes_the_form_that_the_file_is_named_by_and_always_the_same_bytes(
    run: Path, exported: Path, capsys: pytest.CaptureFixture[str]
):
    done = export.main(parse("export", [str(run), "--file", "given.pt2"]))
    assert done["card"] == "given.pt2.README.md"
    assert "The second stage, which reads the scores" in Path(done["card"]).read_text("utf-8")
    assert Path("given.pt2").read_bytes() == (exported / "wall.pt2").read_bytes()
    assert re.search(r"^next: .*predict given\.pt2 PHOTOS$", capsys.readouterr().out, re.M)
    assert open_run(run).export("given.zip") == Path("given.zip")
    with pytest.raises(InputError, match=r"given\.pt2: must be a file called ….onnx"):
        open_run(run).export("given.pt2", format="onnx")
    with pytest.raises(InputError, match=r"--format: invalid choice: 'h5'"):
        open_run(run).export(format="h5")  # type: ignore[arg-type]


def test_without_the_extra_one_line_says_how_it_is_installed(
    run: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        InputError, match=r"onnxscript is not .*pip install 'crack-ensemble\[onnx\]"
    ):
        export_run(run, Path("a.onnx"), "onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        InputError, match=r"needs onnxruntime .*pip install 'crack-ensemble\[onnx\]"
    ):
        load_ensemble(exported / "wall.onnx")
    assert not [*Path().iterdir()]


@pytest.mark.parametrize(
    ("form", "setting", "value", "message"),
    [
        ("onnx", "MAX_ONNX_BYTES", 1000, "one file of ONNX holds 2 GB at most; --format pt2"),
        ("pt2", "TOLERANCE", -1.0, "says other probabilities than the ensemble"),
    ],
)
def test_a_graph_that_cannot_be_leaves_nothing_and_the_older_file(
    copy: Path, form: str, setting: str, value: float, message: str, monkeypatch: Any
):
    shutil.move(copy.parent, "../elsewhere")
    monkeypatch.setattr(graph_file, setting, value)
    with pytest.raises(InputError, match=message):
        export_run(Path("../elsewhere/wall"), Path(f"a.{form}"), form)
    assert not [*Path().iterdir()]


def test_a_note_of_ones_own_in_the_place_of_the_card_is_kept(run: Path):
    Path("a.pt2.README.md").write_text("mine")
    with pytest.raises(InputError, match=r"a\.pt2\.README\.md exists and is no card"):
        export_run(run, Path("a.pt2"), "pt2")
    assert [path.name for path in Path().iterdir()] == ["a.pt2.README.md"]


# what somebody sent


def test_one_damaged_byte_and_a_cut_are_noticed(file: Path):
    whole = file.read_bytes()
    damaged = Path(f"damaged{file.suffix}")
    places = [*range(100, len(whole) - 400, len(whole) // 23), len(whole) - 3]
    for place in places:
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            check_exported(damaged)
        except InputError:
            continue
        assert file.suffix == ".pt2"  # a place that holds nothing, between two entries
        with zipfile.ZipFile(damaged) as one, zipfile.ZipFile(file) as other:
            assert all(one.read(name) == other.read(name) for name in other.namelist())
    for length in (0, 1, 50, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:length])
        with pytest.raises(InputError):
            predict.main(parse("predict", [str(damaged), "a.png"]))


def rewrite_pt2(file: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy with changed entries and their digests."""
    import hashlib

    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    (listed,) = (name for name in entries if name.endswith("extra/contents.json"))
    contents = json.loads(entries[listed])
    contents["sha256"] = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in entries.items()
        if name != listed
    }
    entries[listed] = json.dumps(contents).encode()
    with zipfile.ZipFile("sent.pt2", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return Path("sent.pt2")


def name_of(entries: dict[str, bytes], end: str) -> str:
    (name,) = (name for name in entries if name.endswith(end))
    return name


def test_the_program_of_a_pt2_is_never_opened(run: Path, exported: Path):
    """It could call any function of torch's, and evaluate what it calls a formula."""

    def change(entries: dict[str, bytes]) -> None:
        entries[name_of(entries, "models/model.json")] = b"no program at all"

    draw()
    sent = rewrite_pt2(exported / "wall.pt2", change)
    frames = [load_ensemble(each, gpus=0).predict("photograph.png") for each in (run, sent)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_a_pickled_weight_is_refused_and_not_unpickled(exported: Path):
    def change(entries: dict[str, bytes]) -> None:
        name = name_of(entries, "model_weights_config.json")
        config = json.loads(entries[name])
        first = next(iter(config["config"].values()))
        first["use_pickle"] = True
        buffer = io.BytesIO()
        torch.save(torch.nn.Linear(1, 1), buffer)
        entries[name_of(entries, f"/{first['path_name']}")] = buffer.getvalue()
        entries[name] = json.dumps(config).encode()

    with pytest.raises(InputError, match=r"its weights: 'a tensor is pickled or not dense'"):
        load_ensemble(rewrite_pt2(exported / "wall.pt2", change)).models  # noqa: B018


def test_networks_are_looked_into_where_there_are_any(exported: Path):
    draw()
    look.main(parse("look", ["photograph.png", "--member", str(exported / "wall.pt2")]))
    assert Path("look.png").is_file()
    with pytest.raises(InputError, match=r"holds a graph of ONNX, and no networks"):
        look.main(parse("look", ["photograph.png", "--member", str(exported / "wall.onnx")]))
