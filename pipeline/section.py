"""What every part of a recipe is made of: a frozen, typed section that forbids unknown keys.

It does not read recipes (`recipe.py`) and knows no stage.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python

EXEC_KEY = "exec"


class Section(BaseModel):
    """Values of a recipe. A key named `exec` says where or how fast, never what, and is not hashed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    # Fields that only say where something lies. They are not hashed; what lies there is (`Stage.contents`, `weights`).
    locations: ClassVar[frozenset[str]] = frozenset()


def declared(value: Any) -> Any:
    """The JSON form of a section (or of any value) without its `exec` keys and locations: what identity hashes."""
    if isinstance(value, BaseModel):
        hidden = value.locations if isinstance(value, Section) else frozenset()
        return {name: declared(item) for name, item in value if name != EXEC_KEY and name not in hidden}
    if isinstance(value, dict):
        return {key: declared(item) for key, item in value.items() if key != EXEC_KEY}
    if isinstance(value, list | tuple):
        return [declared(item) for item in value]
    return to_jsonable_python(value)
