"""A caller that has no request at the moment while enough of its requests are in flight. It checks no answers."""

from collections.abc import Iterator, Sized

from pipeline.engines import Request


def sparing(asked: list[Request], answered: Sized, limit: int) -> Iterator[Request | None]:
    """The requests, with None in between while `limit` of them are not yet among `answered`.

    Fails where it is asked again after None without another answer, which would be waiting in a loop.
    """
    for number, request in enumerate(asked):
        while number - len(answered) >= limit:
            before = len(answered)
            yield None
            assert len(answered) > before, "asked again before another completion"
        yield request
