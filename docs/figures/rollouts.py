"""Draw docs/images/rollouts.png: the forward passes of naive rollouts, and of those in lockstep."""

from drawing import BLUE, GREY, INK, LIGHT, PAPER, canvas, label, save
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch

LENGTH, NUM_ROLLOUTS = 5, 2
WIDTH, HEIGHT, STEP, PITCH = 54, 27, 60, 34
# One shade for each prefix length, so that a rollout is known by the place it was forked at.
SHADES = {1: "#fbd9b5", 2: "#f6b26b", 3: "#e6823a", 4: "#b8530f"}


def cell(axes: Axes, x: float, y: float, fill: str, text: str, colour: str = INK) -> None:
    """Draw one token of one row."""
    shape = FancyBboxPatch((x, y), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=4", fc=fill, ec="none")
    axes.add_patch(shape).set_zorder(3)
    axes.text(x + WIDTH / 2, y + HEIGHT / 2, text, color=colour, fontsize=8.5, ha="center", va="center", zorder=4)


def token(axes: Axes, x: float, y: float, position: int, prefix_length: int) -> None:
    """Draw the token at a position (0: the prompt) of a rollout, forced or sampled."""
    name = "prompt" if position == 0 else f"$y_{position}$"
    if position <= prefix_length:
        cell(axes, x, y, LIGHT[BLUE], name, BLUE)
    else:
        cell(axes, x, y, SHADES[prefix_length], name, PAPER if prefix_length > 2 else INK)


def forward_pass(axes: Axes, x: float, y: float, columns: int, rows: int, number: int | str) -> None:
    """Outline what one forward pass reads, and number it below."""
    width, height = columns * STEP, rows * PITCH + 3
    shape = FancyBboxPatch(
        (x - 3, y - 5), width, height, boxstyle="round,pad=0,rounding_size=6", fc="none", ec=INK, linewidth=1
    )
    axes.add_patch(shape).set_zorder(5)
    middle, bottom = x - 3 + width / 2, y + height + 2
    axes.add_patch(Circle((middle, bottom), 8, fc=INK, ec=PAPER, linewidth=1, zorder=6))
    label(axes, middle, bottom, str(number), PAPER, fontsize=7, ha="center", zorder=7)


def naive(axes: Axes, left: float, top: float) -> None:
    """Draw a call of `generate` for each prefix."""
    number = 0
    for prefix_length in range(1, LENGTH):
        for row in range(NUM_ROLLOUTS):
            for position in range(LENGTH + 1):
                token(axes, left + position * STEP, top + row * PITCH, position, prefix_length)
        for first, columns in [(0, prefix_length + 1), *((column, 1) for column in range(prefix_length + 1, LENGTH))]:
            number += 1
            forward_pass(axes, left + first * STEP, top, columns, NUM_ROLLOUTS, number)
        top += NUM_ROLLOUTS * PITCH + 28


def lockstep(axes: Axes, left: float, top: float) -> None:
    """Draw one walk along the positions, in which rollouts fork from the completion."""
    for position in range(LENGTH):
        token(axes, left + position * STEP, top, position, LENGTH)
    forks = [prefix for prefix in range(1, LENGTH) for _ in range(NUM_ROLLOUTS)]
    for row, prefix_length in enumerate(forks, start=1):
        for position in range(prefix_length + 1, LENGTH + 1):
            token(axes, left + position * STEP, top + row * PITCH, position, prefix_length)
        if row % NUM_ROLLOUTS == 1:
            x, y = left + (prefix_length + 1) * STEP - 14, top + (row + NUM_ROLLOUTS / 2) * PITCH + 1
            label(axes, x, y, f"forked after $y_{prefix_length}$", GREY, ha="right")
    for number in range(1, LENGTH):
        first, columns = (0, 2) if number == 1 else (number, 1)
        forward_pass(axes, left + first * STEP, top, columns, 1 + NUM_ROLLOUTS * (number - 1), number)


figure, axes = canvas(900, 528)
for left, title, counts in (
    (27, "Naive: one call of generate for each prefix", "10 forward passes, 40 tokens read, 20 sampled"),
    (487, "Lockstep: one walk for all prefixes", "4 forward passes, 17 tokens read, 20 sampled"),
):
    label(axes, left, 22, title, INK, fontsize=10.5, fontweight="bold")
    label(axes, left, 44, counts, GREY, fontsize=9)
naive(axes, 30, 74)
lockstep(axes, 490, 74)

cell(axes, 30, 474, LIGHT[BLUE], "$y$", BLUE)
label(axes, 94, 488, "token of the completion", GREY)
cell(axes, 270, 474, SHADES[2], "$y$")
label(axes, 334, 488, "sampled token", GREY)
forward_pass(axes, 490, 474, 1, 1, "n")
label(axes, 558, 488, "what the n-th forward pass reads", GREY)
save(figure, "rollouts.png")
