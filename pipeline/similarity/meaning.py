"""Which texts say the same in other words, by vectors of their meaning: alike ones with the same numbers.

It makes no vectors (`pipeline/embedding.py` does) and does not know what makes a text better (its caller ranks them).
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.similarity.figures import in_order
from pipeline.similarity.repeats import same

Vectors = npt.NDArray[np.float32]  # [texts, width], of length 1
Paraphrased = Callable[[Sequence[str], int, Callable[[int, int], bool]], dict[int, tuple[int, float]]]
"""Of texts, how many of them stand and who may repeat whom, what `same_meaning` finds."""
_DIGITS = 4  # of a cosine: beyond them the batch that a text was read in shows


def numbers_of(text: str) -> bytes:
    """The numbers of a text in order, as a key: texts with different ones never say the same."""
    return in_order(text).tobytes()


def same_meaning(
    vectors: Vectors,
    keys: Sequence[Hashable],
    threshold: float,
    standing: int = 0,
    may_repeat: Callable[[int, int], bool] = same,
) -> dict[int, tuple[int, float]]:
    """The texts that repeat a better one, by place: the place of the one most alike that is kept, and their cosine.

    The best come first. Only texts with equal keys are compared, which must tell groups and numbers apart
    (`numbers_of`). A text is kept unless it repeats one that was kept before, so no chain of small steps swallows its
    far end. The first `standing` texts are kept whatever they repeat; `may_repeat` is asked about two places, the
    better one first.
    """
    shelves: dict[Hashable, list[int]] = {}
    found: dict[int, tuple[int, float]] = {}
    for place, key in enumerate(keys):
        kept = shelves.setdefault(key, [])
        repeated = _most_alike(vectors, kept, place, threshold, may_repeat) if kept and place >= standing else None
        if repeated is None:
            kept.append(place)
        else:
            found[place] = repeated
    return found


def _most_alike(
    vectors: Vectors, kept: Sequence[int], place: int, threshold: float, may_repeat: Callable[[int, int], bool]
) -> tuple[int, float] | None:
    cosines = np.round((vectors[np.asarray(kept)] @ vectors[place]).astype(np.float64), _DIGITS)
    for at in np.argsort(-cosines, kind="stable").tolist():  # of equals the better one
        if cosines[at] < threshold:
            return None
        if may_repeat(kept[at], place):
            return kept[at], float(cosines[at])
    return None
