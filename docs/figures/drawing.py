"""What the pictures of the documentation share: a canvas measured in pixels, boxes and arrows."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Outline

IMAGES = Path(__file__).resolve().parent.parent / "images"
INK, GREY, PAPER = "#222222", "#6b6b6b", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE = "#2563a8", "#c2570c", "#2f7d3b", "#7a4fa3"
LIGHT = {BLUE: "#e8f0fa", ORANGE: "#fdefe3", GREEN: "#e8f4ea", PURPLE: "#f1eaf7", GREY: "#f3f3f3"}
MONO = "DejaVu Sans Mono"


def canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """Return a figure and axes whose unit is a pixel of a picture shown at `width`, with y downwards."""
    figure = Figure(figsize=(width / 100, height / 100), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def save(figure: Figure, name: str) -> None:
    """Write a picture at twice its size, for screens that show more pixels."""
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / name, dpi=200, metadata={"Software": None})


def panel(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """Draw a lane: a pale area behind everything."""
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=10", fc=LIGHT[colour], ec="none")
    axes.add_patch(shape).set_zorder(0)


def box(
    axes: Axes, x: float, y: float, width: float, height: float, colour: str, title: str, lines: Sequence[str] = ()
) -> None:
    """Draw a box with a heading and lines below it; a line in backquotes is set as code."""
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=6", fc=PAPER, ec=colour, linewidth=1.2
    )
    axes.add_patch(shape).set_zorder(2)
    axes.text(x + 12, y + 16, title, color=INK, fontsize=9, fontweight="bold", va="center")
    for index, line in enumerate(lines):
        code = line.startswith("`")
        axes.text(
            x + 12, y + 35 + 16 * index, line.strip("`"), color=INK if code else GREY, va="center",
            fontsize=8, family=MONO if code else "DejaVu Sans",
        )  # fmt: skip


def arrow(axes: Axes, points: Sequence[tuple[float, float]], colour: str = INK, dashed: bool = False) -> None:
    """Draw a line through points, with a head at its end."""
    codes = [Outline.MOVETO, *[Outline.LINETO] * (len(points) - 1)]
    axes.add_patch(
        FancyArrowPatch(
            path=Outline(points, codes), arrowstyle="-|>,head_length=5,head_width=2.6", color=colour, linewidth=1.4,
            linestyle=(0, (4, 2)) if dashed else "solid", shrinkA=0, shrinkB=0, joinstyle="round", capstyle="butt",
        )
    )  # fmt: skip


def label(axes: Axes, x: float, y: float, text: str, colour: str = INK, **settings: object) -> None:
    """Write a small text; code where it is in backquotes."""
    code = text.startswith("`")
    settings = {"fontsize": 8, "family": MONO if code else "DejaVu Sans", "va": "center", **settings}
    axes.text(x, y, text.strip("`"), color=colour, **settings)


def disc(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Draw a network as a letter in a circle."""
    axes.add_patch(Circle((x, y), 14, fc=colour, ec="none", zorder=5))
    axes.text(x, y, text, color=PAPER, fontsize=10, fontweight="bold", ha="center", va="center_baseline", zorder=6)
