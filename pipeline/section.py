"""What every part of a recipe is made of: a frozen, typed section that forbids unknown keys.

It does not read recipes (`recipe.py`) and knows no stage.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

EXEC_KEY = "exec"


class Section(BaseModel):
    """Values of a recipe. A key named `exec` says where or how fast, never what, and is not hashed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def declared(value: Any) -> Any:
    """The JSON form of a section (or of any JSON value) without its `exec` keys: what identity hashes."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: declared(item) for key, item in value.items() if key != EXEC_KEY}
    if isinstance(value, list | tuple):
        return [declared(item) for item in value]
    return value
