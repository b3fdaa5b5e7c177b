"""What is measured between two logs, how long each phase of a round took, and what a game has cost in all."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping


class Meter:
    """
    Collects values by name until they are averaged for a log, and seconds by phase.

    Attributes:
        listener (`Callable`, *optional*): Told the name of each phase that is entered, and of the outer one where it is
            left, also by an exception; `None`: no phase runs any more.
    """

    def __init__(self) -> None:
        self.listener: Callable[[str | None], None] | None = None
        self._values: dict[str, list[float]] = defaultdict(list)
        self._read_at = time.perf_counter()
        self._open: list[str | None] = [None]
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
        self._open.append(name)
        self._tell()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            own = seconds - self._inner_seconds.pop()
            self._inner_seconds[-1] += seconds
            self._values[f"seconds/{name}"].append(own)
            self._open.pop()
            self._tell()

    def _tell(self) -> None:
        if self.listener is not None:
            self.listener(self._open[-1])

    def read(self, per: int = 1) -> dict[str, float]:
        """
        Return the mean of each value, and the seconds of each phase, and start anew.

        What passed outside all phases (reading data, logging, saving) is `seconds/other`, so that the seconds add up to
        the time since the last call.

        Args:
            per (`int`): What seconds are divided by: updates of the generator since the last log.

        Returns:
            `dict`: by name.
        """
        now = time.perf_counter()
        in_phases = sum(sum(values) for name, values in self._values.items() if name.startswith("seconds/"))
        self._values["seconds/other"] = [max(now - self._read_at - in_phases, 0.0)]
        self._read_at = now
        means = {
            name: sum(values) / (per if name.startswith("seconds/") else len(values))
            for name, values in self._values.items()
        }
        self._values.clear()
        return means


class CpuClock:
    """
    Counts the CPU seconds of this process while something runs that may be interrupted and resumed.

    Attributes:
        before (`float`, *optional*): Of what ended or was resumed; `None`: of a part it is not known.
    """

    def __init__(self) -> None:
        self.before: float | None = 0.0
        self._since: float | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Begin anew, and stop at the end. Who resumes sets `before` meanwhile."""
        self.before, self._since = 0.0, time.process_time()
        try:
            yield
        finally:
            self.before, self._since = self.read(), None

    def read(self) -> float | None:
        """Return the seconds so far."""
        if self.before is None or self._since is None:
            return self.before
        return self.before + time.process_time() - self._since
