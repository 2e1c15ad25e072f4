"""The command `crack-ensemble`: what it lists, and that it works where it was installed alone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from person import ROOT, type_in
from PIL import Image

from ensemble import __version__
from ensemble.cli import COMMANDS, parse

SPACES = {path.stem: path for path in (ROOT / "search_spaces").rglob("*.toml")}
COMMAND = [sys.executable, "-m", "ensemble"]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def test_every_command_is_listed_with_a_line():
    said = type_in(ROOT, *COMMAND)
    for name, command in COMMANDS.items():
        assert f"\n  {name:12}{command.summary}\n" in said
        help_of = type_in(ROOT, *COMMAND, name, "--help")
        assert " ".join(command.summary.split()) in " ".join(help_of.split())


@pytest.mark.parametrize("words", [["serch"], ["spaces", "demmo"], ["look"], ["spaces", "--bad"]])
def test_what_is_mistyped_is_one_line_and_exit_code_2(words):
    said = type_in(ROOT, *COMMAND, *words, code=2)
    assert said.startswith("error: ")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["evaluat"], "evaluate"),
        (["evaluate", "--methd", "mean"], "--method"),
        (["evaluate", "--method=greedi"], "greedy"),
        (["search", "--data=x", "--trails=3", "--sapce=cpu"], "--trials --space"),
    ],
)
def test_what_is_spelt_alike_is_asked_for(words, meant):
    said = type_in(ROOT, *COMMAND, *words, code=2)
    assert f"; did you mean {meant}?; see " in said


def test_nothing_is_guessed_where_nothing_is_spelt_alike():
    assert "did you mean" not in type_in(ROOT, *COMMAND, "xyzzy", code=2)


@pytest.mark.parametrize("needed", [["search", "--data", "x"], ["train", "--recipe", "small-cnn"]])
def test_weights_of_several_networks_follow_one_option_or_an_option_each(needed):
    command, *words = needed
    assert parse(command, words).weights == []
    words += ["--weights", "a=1", "b=2", "--seed", "3", "--weights", "none"]
    assert parse(command, words).weights == ["a=1", "b=2", "none"]


@pytest.mark.parametrize("name", SPACES)
def test_a_space_or_recipe_is_printed_as_it_is(name):
    assert type_in(ROOT, *COMMAND, "spaces", name) == SPACES[name].read_text(encoding="utf-8")


def test_spaces_and_recipes_are_listed_with_what_they_are_for():
    words = [*COMMAND, "spaces", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    listed = json.loads(done.stdout)
    assert listed.keys() == {"search --space", "train --recipe"}
    assert {name for kind in listed.values() for name in kind} == SPACES.keys()
    for kind in listed.values():
        for name, line in kind.items():
            about = tomllib.loads(SPACES[name].read_text(encoding="utf-8"))
            assert line in (about.get("question"), about.get("what"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("ensemble", "search_spaces"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    words = ["pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "out"]
    subprocess.run([sys.executable, "-m", *words], cwd=copy, check=True, capture_output=True)
    (path,) = (copy / "out").glob("*.whl")
    return path


def test_the_wheel_holds_the_package_its_spaces_and_one_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.startswith("crack_ensemble-")}
        info = f"crack_ensemble-{__version__}.dist-info"
        points = archive.read(f"{info}/entry_points.txt").decode()
    expected = {
        path.relative_to(ROOT).as_posix()
        for suffix in ("*.py", "*.jinja", "*.css", "*.js", "py.typed")
        for path in (ROOT / "ensemble").rglob(suffix)
    }
    expected |= {f"ensemble/{path.relative_to(ROOT).as_posix()}" for path in SPACES.values()}
    assert held == expected
    assert "crack-ensemble = ensemble.cli:main" in points


# types commands in one process, as imports take seconds, and prints what each of them printed
TYPE_ALL = """
import contextlib, io, json, sys
from ensemble.cli import main
all_said = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["crack-ensemble", *words]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, (words, ended.code)
    all_said.append(said.getvalue())
print(json.dumps(all_said))
"""


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Python of an environment in which the wheel is installed, beside the packages from here."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder)
    python = folder / "bin" / "python"
    packages = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    words = ["pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    return python


@pytest.mark.slow
def test_the_notebook_and_then_the_commands_work_with_the_wheel_where_there_is_no_clone(
    installed, tmp_path
):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(str(installed), "-c", "import ensemble; print(ensemble.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parents[1])
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(each["source"]) for each in cells if each["cell_type"] == "code")
    assert "starting Ray on this machine" in run(str(installed), "-c", code)
    folder = tmp_path / "results" / "notebook"
    assert (folder / "report.html").is_file()
    epochs = (folder / "epochs.csv").read_bytes()
    command = str(installed.with_name("crack-ensemble"))
    (tmp_path / "mine.toml").write_text(run(command, "spaces", "demo"))
    words = ["--data", "synthetic", "--space", "mine.toml", "--trials", "2", "--name", "notebook"]
    said = run(command, "search", *words, "--gpus", "0", "--epochs", "1", "--image-size", "32")
    assert f"crack-ensemble {__version__} is loading" in said.splitlines()[0]
    assert said.splitlines()[-1] == "next: crack-ensemble evaluate results/notebook"
    assert "finished already: 2 trials; a larger --trials trains more" in said
    assert "starting Ray" not in said
    assert (folder / "epochs.csv").read_bytes() == epochs  # what is finished is not searched again
    Image.new("RGB", (32, 32), (99, 90, 80)).save(tmp_path / "wall.png")
    Image.effect_noise((32, 32), 60).save(tmp_path / "floor.png")
    typed = [
        ["evaluate", "--json"],
        ["predict", "notebook", "wall.png", "floor.png", "--json"],
        ["look", "floor.png", "--quiet"],
        ["report", "--quiet"],
        ["train", "--recipe", "small-cnn", "--summary", "--quiet"],
    ]
    evaluated, predicted, looked, reported, summary = json.loads(
        run(str(installed), "-c", TYPE_ALL, json.dumps(typed))
    )
    assert json.loads(evaluated) == json.loads((folder / "evaluation/metrics.json").read_text())
    judged = json.loads(predicted)
    assert (judged["num_pictures"], judged["num_tiles"]) == (2, 2)
    assert judged["tiles"][0]["verdict"] == "not judged"
    assert looked.startswith("floor.png: probability of a crack")
    assert looked.endswith("written: look.png\n")
    assert reported.startswith("written: ")
    assert "crack-ensemble evaluate notebook" in (folder / "report.html").read_text()
    assert "conv" in summary.lower()
