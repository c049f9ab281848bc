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

    # Fields that are not hashed: they only say where something lies (what lies there is hashed, by `Stage.contents` and
    # `weights`), or when to give up.
    unhashed: ClassVar[frozenset[str]] = frozenset()
    # Fields that runs were made without. They are hashed unless they hold their default, so that those runs stay fresh.
    later: ClassVar[frozenset[str]] = frozenset()

    def hashed(self, name: str) -> bool:
        """Whether a field is part of what identity hashes."""
        if name == EXEC_KEY or name in self.unhashed:
            return False
        return name not in self.later or getattr(self, name) != type(self).model_fields[name].get_default()


def declared(value: Any) -> Any:
    """The JSON form of a section (or of any value) without what `Section.hashed` leaves out: what identity hashes."""
    if isinstance(value, Section):
        return {name: declared(item) for name, item in value if value.hashed(name)}
    if isinstance(value, dict):
        return {key: declared(item) for key, item in value.items() if key != EXEC_KEY}
    if isinstance(value, list | tuple):
        return [declared(item) for item in value]
    return to_jsonable_python(value)
