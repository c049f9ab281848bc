"""What a judge said of each trace, joined to the traces by id: a small number a trace, so that millions fit.

It decides nothing by what was said (`choosing.py` and `stages/mix.py` do).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Kind = tuple[str, tuple[str, ...]]
"""An outcome and its reasons."""


@dataclass
class Verdicts:
    """The verdicts of one stage in the order of the traces."""

    kinds: list[Kind]  # the different ones
    codes: npt.NDArray[np.int32]  # [traces] the place in `kinds`; -1 for a trace without a verdict
    strange: int = 0  # verdicts of no trace
    details: dict[int, str] = field(default_factory=dict)  # place of a trace -> its verdict's detail, of those with one

    def missing(self) -> int | None:
        """The place of the first trace without a verdict; None where every trace has one."""
        lacking = np.flatnonzero(self.codes < 0)
        return int(lacking[0]) if len(lacking) else None


def joined(trace_ids: pa.ChunkedArray, tables: Iterable[pa.Table], with_details: bool = False) -> Verdicts:
    """The verdicts in some tables (id, outcome, reasons; and detail where it is asked for), whatever their order.

    `trace_ids` are the traces' ids in order, each once.
    """
    ids: list[pa.Array] = []
    kinds: dict[Kind, int] = {}
    codes: list[int] = []
    details: dict[int, str] = {}
    for table in tables:
        if with_details:
            said = table.column("detail").to_pylist()
            details |= {len(codes) + at: text for at, text in enumerate(said) if text not in (None, "{}")}
        ids += table.column("id").chunks
        codes += [
            kinds.setdefault((outcome, tuple(reasons or ())), len(kinds))
            for outcome, reasons in zip(
                table.column("outcome").to_pylist(), table.column("reasons").to_pylist(), strict=True
            )
        ]
    found = pc.index_in(pa.chunked_array(ids, pa.string()), value_set=trace_ids.combine_chunks())
    places = pc.fill_null(found, -1).to_numpy()
    known = places >= 0
    by_trace = np.full(len(trace_ids), -1, dtype=np.int32)
    by_trace[places[known]] = np.asarray(codes, dtype=np.int32)[known]
    named = {int(places[row]): text for row, text in details.items() if known[row]}
    return Verdicts(list(kinds), by_trace, int((~known).sum()), named)
