"""A blind test for one person, in a terminal."""

import contextlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from .completions import one_line
from .trial import REAL, Trial
from .verdicts import wilson_interval
from .votes import VOTES_FILE, Votes, name_of_judge

_KEYS = {"r": True, "g": False}


def take_test(trial: Trial, folder: str | Path, keys: TextIO | None = None) -> str:
    """
    Let a person judge the items of a trial, one key each: `r` for real, `g` for generated, `q` to end.

    Args:
        trial (`Trial`): What is judged.
        folder (`str` or `Path`): Where `votes.sqlite` is; each vote is there before the next item is shown.
        keys (`TextIO`, *optional*): Where the keys come from; stdin by default, and from a terminal without Enter.

    Returns:
        `str`: the score. After `q`, the end of the input or Ctrl-C it is that of what was judged.
    """
    judge = name_of_judge(secrets.token_urlsafe(32))
    order = trial.order_for(judge)
    said: dict[str, bool] = {}
    print(f"{len(order)} texts, some real and some generated: press r (real) or g (generated); q ends.")
    with Votes(Path(folder) / VOTES_FILE) as votes, _single_keys(keys or sys.stdin) as pressed:
        try:
            for number, id in enumerate(order, start=1):
                item = trial.items[id]
                # A text is shown and not obeyed: a model may write escape sequences.
                lines = [one_line(line) for line in f"{item.prompt}\n{item.text}".strip().split("\n")]
                print(f"\n{number} of {len(order)}\n\n  " + "\n  ".join(lines) + "\n\nr / g / q: ", end="", flush=True)
                answer = next((key for key in pressed if key in "rgq"), "q")
                print(answer)
                if answer == "q":
                    break
                said = votes.cast(judge, id, _KEYS[answer]).result()
        except KeyboardInterrupt:
            print("\nEnded by Ctrl-C.")
    return score_of(trial, said)


def score_of(trial: Trial, said: dict[str, bool]) -> str:
    """
    Say how often a judge was right.

    Args:
        trial (`Trial`): With its sources.
        said (`dict[str, bool]`): By item, whether it was judged real.

    Returns:
        `str`: sentences, and a line a text.
    """
    if not said:
        return "\nNothing was judged."
    right = {id: judged_real == (trial.items[id].source == REAL) for id, judged_real in said.items()}
    low, high = wilson_interval(sum(right.values()), len(right))
    lines = [
        f"\nYou were right on {sum(right.values())} of {len(right)}, {sum(right.values()) / len(right):.0%} (95 % "
        f"interval {low:.0%} to {high:.0%}; a coin: 50%)."
    ]
    for id, is_right in right.items():
        item = trial.items[id]
        verdicts = "".join(f", D of {judge}: P(real) {score:.2f}" for judge, score in item.scores.items())
        lines.append(f"  {'right' if is_right else 'wrong'}  {item.source}{verdicts}: {one_line(item.text)[:60]}")
    return "\n".join(lines)


@contextlib.contextmanager
def _single_keys(stream: TextIO) -> Iterator[Iterator[str]]:
    """Give the keys that are pressed, in lower case; of a terminal each as it is pressed, where the system can."""
    keys = iter(lambda: stream.read(1).lower(), "")
    if not stream.isatty():
        yield keys
        return
    try:
        import termios
        import tty
    except ImportError:  # Windows: Enter sends what was pressed
        yield (key for line in stream for key in line.lower())
        return
    before = termios.tcgetattr(stream)
    tty.setcbreak(stream)
    try:
        yield keys
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)
