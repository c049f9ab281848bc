"""Problems from a dataset on the Hub, through the `datasets` library, at a named revision.

It runs no code of a dataset's repository, and keeps no copy beside the library's own cache.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from pipeline.digests import Digests
from pipeline.records import content_id
from pipeline.sources.candidate import Candidate, SourceError
from pipeline.sources.columns import RowSource, candidate, check_columns

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubSource(RowSource):
    """A dataset by name, a problem a row."""

    kind: Literal["hub"]
    name: str  # owner/name, or an absolute path to a copy of its folder
    subset: str | None = None  # the dataset's configuration, where it has several
    hub_split: str = "train"  # the dataset's own split; `split` says what the rows are here
    revision: str = ""  # a commit, 40 hex digits: what a branch points at changes unseen

    @property
    def label(self) -> str:
        """How reports call the source."""
        return self.name

    @model_validator(mode="after")
    def _names_a_revision(self) -> "HubSource":
        if not _COMMIT.fullmatch(self.revision):
            found = f"the revision {self.revision!r}, which is no commit" if self.revision else "no revision"
            raise ValueError(
                f"hub dataset {self.name!r} has {found}; give the commit that its page shows under 'Files' (40 hex "
                "digits), so that the same recipe gives the same problems"
            )
        return self


def digest(source: HubSource, root: Path, known: Digests) -> str | None:
    """What decides the rows of a set that is a folder on this machine: its files by path and content; "missing" where
    there are none, None for one of the Hub, whose commit decides them.
    """
    folder = Path(source.name)
    if not folder.is_absolute():
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return content_id([(path.relative_to(folder).as_posix(), known.of(path)) for path in files]) if files else "missing"


def candidates(source: HubSource, root: Path) -> Iterator[Candidate]:
    """A candidate a row, in the dataset's order. Raises SourceError where it cannot be loaded."""
    import datasets

    where = f"hub dataset {source.name} ({source.subset or 'default'}, {source.hub_split}) at {source.revision}"
    try:
        rows = datasets.load_dataset(source.name, source.subset, split=source.hub_split, revision=source.revision)
    # The library raises its own and other libraries' errors without a common class; each of them means this.
    except Exception as error:
        raise SourceError(
            f"{where} cannot be loaded: {type(error).__name__}: {error}. Check its name, subset, hub_split and "
            "revision, and the network; or download it elsewhere and use kind: file"
        ) from error
    check_columns(source, rows.column_names, rows, where)
    name = f"{source.name}@{source.revision[:12]}"
    for number, row in enumerate(rows, start=1):
        yield candidate(row, source, name, where, f"row {number}")
