"""What the processes that run tests side by side (`pytest -n`) have each for itself. It holds no fixtures."""

import os


def pytest_configure() -> None:
    """Give each of several processes its own part of the cores, where there are enough: so also all its tests start.

    torch and vLLM take a thread for every core they may use, and all of these wait for each other, many times a token:
    two engines on the same cores are slower than one after the other.
    """
    name = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not name:
        return
    number, count = int(name.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= count:
        os.sched_setaffinity(0, cores[number % count :: count])
