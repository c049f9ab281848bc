"""The checkpoint that a training begins with in place of the student's own weights: found, compared, digested.

It loads no weights (`model.py` does).
"""

import json
from pathlib import Path

from pipeline.digests import remembered
from pipeline.records import content_id
from pipeline.templates import read_tokenizer

SIZES = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")  # of config.json; they tell two models apart


def place(start: str, root: Path) -> Path:
    """The folder that a recipe means, from `root` where it is relative."""
    return root / Path(start).expanduser()


def existing(start: str, root: Path) -> Path:
    """The folder that a recipe means. Raises ValueError where no model is there."""
    folder = place(start, root)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"sft.start is {start}, and {folder} holds no config.json; expected the folder of a checkpoint, for "
            f"example data/runs/RUN/sft/checkpoint."
        )
    return folder


def checked(start: str, own: Path, root: Path) -> Path:
    """The folder to begin with. Raises ValueError where it holds no checkpoint of the student in `own`."""
    folder = existing(start, root)
    mine, theirs = _sizes(own), _sizes(folder)
    if mine != theirs:
        raise ValueError(
            f"sft.start is {start}, a model of {theirs}, and the student is one of {mine} ({', '.join(SIZES)}). Name a "
            f"checkpoint of the same student, or change student.model."
        )
    if (folder / "tokenizer.json").is_file():
        words, known = (read_tokenizer(each).get_vocab() for each in (own, folder))
        other = sorted(word for word, number in words.items() if known.get(word) != number)
        if other:
            raise ValueError(
                f"sft.start is {start}, whose tokenizer lacks {len(other)} of the student's tokens ({other[0]}, say): "
                f"they would begin with rows that nobody trained. Name a checkpoint of the same student, or set "
                f"student.think_tokens as it was there."
            )
    return folder


def _sizes(folder: Path) -> list[object]:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return [values.get(key) for key in SIZES]


def digest(start: str | None, root: Path) -> dict[str, str]:
    """What a stage's identity says of it: a digest of its weights, "missing" where there are none yet."""
    if start is None:
        return {}
    known = remembered(root)
    files = sorted(place(start, root).glob("*.safetensors"))
    return {"start": content_id([(file.name, known.of(file)) for file in files]) if files else "missing"}
