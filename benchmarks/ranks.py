"""
Scaling on paper: what a rank computes and moves in a round, on 1 to 64 GPUs, and where more of them stop helping.

    python benchmarks/ranks.py --page docs/scaling.md

Nothing is measured here. Work and bytes are counted; seconds are what an assumed GPU needs for them (`Hardware`), and
the tables say which of its limits binds. With GPUs at hand, compare with the log's `seconds/...` before you believe them.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from performance import insert_tables, markdown_table

RANKS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Hardware:
    """
    What is assumed of each GPU: an H100 SXM of NVIDIA's data sheet, in bfloat16, and what is reached of it in practice.

    Args:
        flops (`float`): Operations a second in large products: 40 % of 989e12.
        memory (`float`): Bytes a second read: 80 % of 3.35e12.
        near, far (`float`): Bytes a second out of a GPU to those of its machine, of which there are 8 (80 % of NVLink's
            450e9), and to other machines (80 % of 400 Gbit).
        layer_seconds (`float`): Before a layer of transformers has been launched, whatever the batch.
        latency (`float`): Seconds before the first byte of a collective arrives, for each doubling of ranks.
    """

    flops: float = 0.4 * 989e12
    memory: float = 0.8 * 3.35e12
    near: float = 0.8 * 450e9
    far: float = 0.8 * 50e9
    layer_seconds: float = 0.3e-3
    latency: float = 10e-6


@dataclass(frozen=True)
class Network:
    """
    One of the pair.

    Args:
        parameters, trained (`float`): All, and those with a gradient.
        layers, width (`int`): Of a transformer.
    """

    parameters: float
    trained: float
    layers: int
    width: int


@dataclass(frozen=True)
class Game:
    """
    A round of all ranks together, by the names of the settings.

    Args:
        generator, discriminator (`Network`): The pair.
        batch, length, num_rollouts, stride, rows (`int`): B, T, N, k and `rollout_batch_size` R of each rank.
        samples, epochs, discriminator_batch (`int`): Of D's single set.
        shards (`bool`): What learns of G is in shards (FSDP2), beside the whole of it.
    """

    generator: Network
    discriminator: Network
    batch: int = 64
    length: int = 64
    num_rollouts: int = 4
    stride: int = 8
    rows: int = 512
    samples: int = 256
    epochs: int = 1
    discriminator_batch: int = 64
    shards: bool = False


GAMES = {
    "124M": Game(Network(124e6, 124e6, 12, 768), Network(82e6, 82e6, 6, 768)),
    "7B": Game(Network(7e9, 40e6, 32, 4096), Network(355e6, 355e6, 24, 1024)),
    "7B whole": Game(Network(7e9, 7e9, 32, 4096), Network(355e6, 355e6, 24, 1024), shards=True),
}


def bytes_moved(trained: float, ranks: int) -> float:
    """
    Bytes that a rank sends for one sum of float32 gradients over all: a ring takes `2 (W - 1) / W` times their size.

    Args:
        trained (`float`): Weights with a gradient.
        ranks (`int`): W, at least 1.
    """
    return 2 * (ranks - 1) / ranks * 4 * trained


def seconds_moving(trained: float, ranks: int, hardware: Hardware) -> float:
    """Time of one such sum. Between machines, the 8 GPUs of each first sum among themselves and send an eighth."""
    if ranks == 1:
        return 0.0
    inside, machines = min(ranks, 8), math.ceil(ranks / 8)
    seconds = bytes_moved(trained, inside) / hardware.near + bytes_moved(trained / inside, machines) / hardware.far
    return seconds + hardware.latency * math.ceil(math.log2(ranks))


def bytes_of_shards(trained: float, ranks: int) -> float:
    """
    Bytes that a rank sends for an update of shards: weights gathered in bfloat16 for the forward and for the backward
    pass, gradients scattered in bfloat16, and the new weights gathered in float32 for the whole model.

    Args:
        trained (`float`): Weights with a gradient.
        ranks (`int`): W, at least 1.
    """
    return (ranks - 1) / ranks * (2 + 2 + 2 + 4) * trained


def seconds_of_generator(game: Game, ranks: int, hardware: Hardware) -> float:
    """Time in which G's gradients and weights move; those of shards at the pace of the slowest link."""
    if not game.shards:
        return seconds_moving(game.generator.trained, ranks, hardware)
    link = hardware.near if ranks <= 8 else hardware.far
    return bytes_of_shards(game.generator.trained, ranks) / link


def bytes_kept(game: Game, ranks: int) -> float:
    """Bytes of a rank for both networks' float32 weights, gradients and moments, G's shared out in shards."""
    pair = game.generator, game.discriminator
    learning = game.generator.trained * (16 / ranks if game.shards else 12) + game.discriminator.trained * 12
    return 4 * sum(network.parameters for network in pair) + learning


def seconds_writing(network: Network, rows: int, at_once: int, length: float, hardware: Hardware) -> float:
    """
    Time in which a rank writes tokens, a forward pass a position for each chunk of rows.

    Args:
        network (`Network`): G.
        rows (`int`): Texts to write.
        at_once (`int`): Of them in a chunk.
        length (`float`): Positions of each chunk; a row lives through half of them on average.
        hardware (`Hardware`): Which.
    """
    if rows == 0:
        return 0.0
    chunks = math.ceil(rows / at_once)
    per_pass = rows / chunks / 2
    cache = per_pass * length / 2 * 4 * network.layers * network.width
    products = 2 * network.parameters * per_pass / hardware.flops
    reading = (2 * network.parameters + cache) / hardware.memory
    return chunks * length * max(products, reading, network.layers * hardware.layer_seconds)


def seconds_reading(network: Network, tokens: float, passes: float, calls: float, hardware: Hardware) -> float:
    """Time of passes over whole texts; `passes` is 1 forward and 3 with a gradient, and `calls` how many there are."""
    products = 2 * network.parameters * tokens * passes / hardware.flops
    return max(products, calls * passes * network.layers * hardware.layer_seconds)


def round_on(game: Game, ranks: int, hardware: Hardware) -> dict[str, float]:
    """
    Work out a round.

    Args:
        game (`Game`): Of all ranks together.
        ranks (`int`): That share it, at most `game.batch`.
        hardware (`Hardware`): Of each.

    Returns:
        `dict`: `rows` (rollouts a rank writes), `tokens` (that it samples for them), seconds of `write`, `judge`,
        `learn` (both networks' passes) and `move`, `generator_gb`, `discriminator_gb` and `other_gb` that it sends, and
        `kept_gb` of weights and what belongs to them.
    """
    completions = math.ceil(game.batch / ranks)
    prefixes = range(game.stride, game.length, game.stride)
    rows = game.num_rollouts * completions * len(prefixes)
    tokens = game.num_rollouts * completions * sum(game.length - prefix for prefix in prefixes)
    samples = math.ceil(game.samples / ranks)
    steps = game.epochs * math.ceil(2 * game.samples / game.discriminator_batch)
    texts = math.ceil(game.discriminator_batch / ranks)
    write = (
        seconds_writing(game.generator, completions, game.rows, game.length, hardware)
        + seconds_writing(game.generator, rows, game.rows, game.length - game.stride, hardware)
        + seconds_writing(game.generator, samples, game.rows, game.length, hardware)
    )
    judged = rows + completions + 2 * samples
    judge = seconds_reading(game.discriminator, judged * game.length, 1, math.ceil(judged / game.rows), hardware)
    passes = 3 if game.generator.trained == game.generator.parameters else 2  # frozen weights need no gradient
    learn = seconds_reading(game.generator, completions * game.length, passes, 1, hardware) + seconds_reading(
        game.discriminator, steps * texts * game.length, 3, steps, hardware
    )
    move = seconds_of_generator(game, ranks, hardware) + steps * seconds_moving(
        game.discriminator.trained, ranks, hardware
    )
    # Put together by sums: of a set the ids that G wrote, and ids and masks of both kinds of texts as D reads them; of an
    # update ids and rewards. An id and a mask have 8 bytes, a reward 4.
    other = bytes_moved((40 * game.samples + 12 * game.batch) * game.length / 4, ranks)
    return {
        "rows": rows,
        "tokens": tokens,
        "write": write,
        "judge": judge,
        "learn": learn,
        "move": move,
        "generator_gb": (bytes_of_shards if game.shards else bytes_moved)(game.generator.trained, ranks) / 1e9,
        "discriminator_gb": steps * bytes_moved(game.discriminator.trained, ranks) / 1e9,
        "other_gb": other / 1e9,
        "kept_gb": bytes_kept(game, ranks) / 1e9,
    }


def seconds_of_round(game: Game, ranks: int, hardware: Hardware) -> float:
    """Return how long a round takes, one part after the other."""
    found = round_on(game, ranks, hardware)
    return sum(found[part] for part in ("write", "judge", "learn", "move"))


def ranks_table(game: Game, ranks: Sequence[int] = RANKS, hardware: Hardware | None = None) -> str:
    """Lay out a game's round over numbers of ranks; the speed-up is against the first of them."""
    hardware = hardware or Hardware()
    first = seconds_of_round(game, ranks[0], hardware)
    rows = []
    for count in ranks:
        one = round_on(game, count, hardware)
        rows.append(
            [
                f"{count}",
                f"{one['kept_gb']:.0f}",
                f"{one['rows']:,.0f}",
                f"{one['tokens']:,.0f}",
                *(f"{one[part]:.2f}" for part in ("write", "judge", "learn", "move")),
                f"{one['generator_gb']:.2f}",
                f"{one['discriminator_gb']:.1f}",
                f"{one['other_gb'] * 1000:.2f}",
                f"{first / seconds_of_round(game, count, hardware):.1f}",
            ]
        )
    header = [
        "ranks", "kept, GB", "rollouts", "tokens", "write, s", "judge, s", "learn, s", "move, s", "G, GB sent",
        "D, GB sent", "texts, MB sent", "faster by",
    ]  # fmt: skip
    return markdown_table(header, rows)


def thorough_table(ranks: Sequence[int] = RANKS, hardware: Hardware | None = None) -> str:
    """Lay out the seconds of a round, and how much faster it is than on one rank, where N is 16 and k 1."""
    hardware = hardware or Hardware()
    games = {name: replace(game, num_rollouts=16, stride=1) for name, game in GAMES.items()}
    first = {name: seconds_of_round(game, ranks[0], hardware) for name, game in games.items()}
    rows = []
    for count in ranks:
        rows.append([str(count)])
        for name, game in games.items():
            seconds = seconds_of_round(game, count, hardware)
            rows[-1] += [f"{seconds:.1f}", f"{first[name] / seconds:.1f}"]
    header = ["ranks", *(f"{name}, {what}" for name in games for what in ("s", "faster by"))]
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="A page whose tables `ranks <size>` are replaced.")
    args = parser.parse_args()
    tables = {f"ranks {name}": ranks_table(game) for name, game in GAMES.items()}
    tables["ranks thorough"] = thorough_table()
    for name, table in tables.items():
        print(f"{name}\n{table}\n")
    if args.page:
        args.page.write_text(insert_tables(args.page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
