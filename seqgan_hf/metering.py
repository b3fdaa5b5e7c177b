"""`Meter`: what is measured between two logs, and how long each phase of a round took."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping


class Meter:
    """Collects values by name until they are averaged for a log, and seconds by phase."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._inner_seconds = [0.0]

    def add(self, values: Mapping[str, float], prefix: str = "") -> None:
        """Keep each value under its name, behind `prefix`."""
        for name, value in values.items():
            self._values[prefix + name].append(float(value))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """
        Measure the wall time of a phase as `seconds/<name>`. A phase inside another counts for itself alone.

        Args:
            name (`str`): Such as `rollout`.
        """
        start = time.perf_counter()
        self._inner_seconds.append(0.0)
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            own = seconds - self._inner_seconds.pop()
            self._inner_seconds[-1] += seconds
            self._values[f"seconds/{name}"].append(own)

    def read(self, per: int = 1) -> dict[str, float]:
        """
        Return the mean of each value, and the seconds of each phase, and start anew.

        Args:
            per (`int`): What seconds are divided by: updates of the generator since the last log.

        Returns:
            `dict`: by name.
        """
        means = {
            name: sum(values) / (per if name.startswith("seconds/") else len(values))
            for name, values in self._values.items()
        }
        self._values.clear()
        return means
