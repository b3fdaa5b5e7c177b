"""
Many judges at once on one page of a blind test: how long does an answer take, and is a vote lost?

    python benchmarks/judges.py --save benchmarks/results/judges.json

A server of its own (`seqgan-hf judge`) on 127.0.0.1 serves a trial of made-up texts. Each simulated judge opens the page,
keeps its cookie, and answers until all is judged or `--most_seconds` are over, first with pauses as people make them,
though shorter, then without any. Afterwards every vote that was answered must be in the exported CSV exactly once. The
table goes to docs/judging.md.
"""

import asyncio
import csv
import io
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from measuring import ROOT, finish, make_parser, progress
from performance import insert_tables, markdown_table, three_digits

from seqgan_hf.trial import REAL, Item, Trial
from seqgan_hf.votes import VOTES_FILE, Votes


def made_up_trial(items: int) -> Trial:
    """Return a trial of `items` texts of each of three sources."""
    made = {}
    for number, source in enumerate((REAL, "MLE", "SeqGAN")):
        for block in range(items):
            id = f"{(7919 * (3 * block + number)) % 1_000_003:016x}"
            made[id] = Item(id, block, f"{block} times nothing is nothing. " * 4, source=source)
    return Trial("text", 0, made, ("MLE", "SeqGAN"))


def start_server(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start `seqgan-hf judge` on a free port, and return the process and its address once it listens."""
    command = [sys.executable, "-m", "seqgan_hf.cli", "judge", "--output_dir", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdout is not None
    for line in server.stdout:
        found = re.match(r"Judge at (\S+)", line)
        if found:
            return server, found[1]
    raise RuntimeError(f"The server ended with code {server.wait()} before it listened.")


class Browser:
    """A connection that is kept, and the cookie of a judge: no more of a browser than costs time at the server."""

    async def open(self, address: str) -> "Browser":
        self.host = urlsplit(address).netloc
        name, _, port = self.host.partition(":")
        self.reader, self.writer = await asyncio.open_connection(name, int(port))
        self.cookie = ""
        head, _ = await self.ask("GET", "/")
        self.cookie = re.search(r"set-cookie: (judge=[^;]+)", head)[1]
        return self

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[str, bytes]:
        """Send a request, and return the head and the body of its answer, which must be 200."""
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nCookie: {self.cookie}\r\n{kind}\r\n"
        self.writer.write(head.encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = int(re.search(r"content-length: (\d+)", answer)[1])
        content = await self.reader.readexactly(length)
        if not answer.startswith("HTTP/1.1 200 "):
            raise RuntimeError(f"{method} {path}: {answer.splitlines()[0]}, {content!r}")
        return answer, content


async def judge(address: str, number: int, pause: float, until: float, votes: list[tuple[str, bool]]) -> list[float]:
    """Judge as one person, note each vote that was answered, and return the seconds that each answer took."""
    chance = random.Random(number)
    await asyncio.sleep(chance.random() * max(pause, 1))  # nobody comes at the same moment
    browser = await Browser().open(address)
    state = json.loads((await browser.ask("GET", "/item"))[1])
    seconds = []
    while state["item"] is not None and time.perf_counter() < until:
        await asyncio.sleep(pause * chance.uniform(0.5, 1.5))
        item, real = state["item"]["id"], chance.random() < 0.5
        vote = json.dumps({"item": item, "real": real}).encode()
        began = time.perf_counter()
        _, answer = await browser.ask("POST", "/vote", vote)
        seconds.append(time.perf_counter() - began)
        state = json.loads(answer)
        votes.append((item, real))
    browser.writer.close()
    return seconds


async def judge_at_once(address: str, judges: int, pause: float, most_seconds: float) -> dict[str, Any]:
    """Let judges work at the same time."""
    votes: list[tuple[str, bool]] = []
    began = time.perf_counter()
    work = (judge(address, number, pause, began + most_seconds, votes) for number in range(judges))
    seconds = [taken for of_judge in await asyncio.gather(*work) for taken in of_judge]
    wall = time.perf_counter() - began
    ordered = sorted(1000 * taken for taken in seconds)
    return {
        "pause_seconds": pause,
        "answered": votes,
        "votes": len(votes),
        "votes_per_second": len(votes) / wall,
        "median_ms": statistics.median(ordered),
        "p95_ms": ordered[round(0.95 * (len(ordered) - 1))],
        "max_ms": ordered[-1],
    }


def measure(args: Namespace, pause: float) -> dict[str, Any]:
    """Measure one kind of judge on a server of its own, and count what became of the votes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trial.json").write_text(made_up_trial(args.items).as_json(), encoding="utf-8")
        server, address = start_server(folder)
        try:
            found = asyncio.run(judge_at_once(address, args.judges, pause, args.most_seconds))
        finally:
            server.send_signal(signal.SIGKILL)  # nothing is finished in peace: what was answered must be on disk
            server.communicate()
        with Votes(folder / VOTES_FILE) as votes:
            rows = list(csv.DictReader(io.StringIO(votes.as_csv())))
    exported = Counter((row["item"], row["judged_real"] == "1") for row in rows)
    lost = Counter(found.pop("answered")) - exported
    once = Counter((row["judge"], row["item"]) for row in rows)
    found |= {"lost": sum(lost.values()), "counted_twice": sum(count - 1 for count in once.values())}
    found["not_answered"] = len(rows) - found["votes"]
    progress(json.dumps(found))
    return found


def table(results: Mapping[str, Any], judges: int) -> str:
    """Lay out the result for the page."""
    rows = [
        [
            f"{judges} judges, {found['pause_seconds']:g} s pause",
            f"{found['votes']:,}",
            *(three_digits(found[name]) for name in ("votes_per_second", "median_ms", "p95_ms", "max_ms")),
            str(found["lost"]),
            str(found["counted_twice"]),
        ]
        for found in results.values()
    ]
    columns = ["who", "votes", "a second", "median, ms", "95 %, ms", "longest, ms", "lost", "counted twice"]
    return markdown_table(columns, rows)


def main() -> None:
    parser = make_parser(__doc__, repeats=1)
    parser.add_argument("--judges", type=int, default=200, help="Judges at once.")
    parser.add_argument("--items", type=int, default=10, help="Items of each of three sources; a judge sees all.")
    parser.add_argument("--pause", type=float, default=1.0, help="Mean seconds between an answer and the next vote.")
    parser.add_argument("--most_seconds", type=float, default=90, help="No vote is begun after so long.")
    parser.add_argument("--page", type=Path, help="Also write the table into this page, such as docs/judging.md.")
    args = parser.parse_args()
    results = {"paused": measure(args, args.pause), "at_once": measure(args, 0.0)}
    if args.page is not None:
        page = args.page.read_text(encoding="utf-8")
        args.page.write_text(insert_tables(page, {"judges": table(results, args.judges)}), encoding="utf-8")
    settings = {"judges": args.judges, "items": 3 * args.items, "pause_seconds": args.pause, "device": "cpu"}
    finish("judges", args, settings, results)


if __name__ == "__main__":
    main()
