"""`learned.json`: what went into a data set of corrections; the next call goes on from it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ensemble.base.errors import InputError
from ensemble.base.files import read_object, write_json
from ensemble.training.config import explain_validation

LEARNED_FILE = "learned.json"
FORMAT: Literal[1] = 1
STRICT = ConfigDict(frozen=True, extra="forbid")


class LearnedPhotograph(BaseModel):
    """A photograph whose tiles are in the data set."""

    model_config = STRICT
    sha256: str  # of its file
    picture: str  # name, as a person gave it
    photograph: str  # name, as the table of photographs has it


class LearnedTile(BaseModel):
    """A tile that was corrected."""

    model_config = STRICT
    sha256: str  # of its photograph's file
    tile: str  # name in the photograph, as on the pages
    label: int = Field(ge=0, le=1)
    file: str  # path in the data set


class Record(BaseModel):
    """What `learned.json` holds."""

    model_config = STRICT
    format: Literal[1] = FORMAT
    run: str  # name of the run
    split_digest: str  # empty for an exported ensemble
    tile_size_px: tuple[int, int]  # height, width
    photographs: list[LearnedPhotograph]
    tiles: list[LearnedTile]

    def save(self, folder: Path) -> None:
        """Write it into the folder of the data set."""
        write_json(folder / LEARNED_FILE, self.model_dump(mode="json"))


def read_record(folder: Path) -> Record:
    """Read the record in the folder of a data set.

    Raises:
        InputError: It is missing, damaged, or of another version.
    """
    path = folder / LEARNED_FILE
    try:
        return Record.model_validate(read_object(path))
    except ValidationError as error:
        raise InputError(f"{path}: damaged ({explain_validation(error)})") from None
