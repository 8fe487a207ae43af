"""How figures look: one style for all, as PNG for slides and as SVG for print and for the page."""

import io
from collections.abc import Callable
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from study.report.page.parts import Picture

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#000000")
INK: Final = "#24292f"
FAINT: Final = "#9aa3ad"
GRID: Final = "#e6e8eb"
NARROW: Final = (4.4, 3.3)  # inches: shown at about 400 px, so 10 pt stay readable on a phone
WIDE: Final = (9.2, 3.6)
DPI: Final = 200
_STYLE: Final[dict[str, Any]] = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "svg.hashsalt": "study",  # equal figures are equal files
    "svg.fonttype": "path",
}


def picture(
    name: str,
    draw: Callable[[Axes], None],
    *,
    caption: str,
    alt: str,
    size: tuple[float, float] = NARROW,
    grid: bool = True,
) -> Picture:
    """Draw one figure of one set of axes."""

    def draw_figure(figure: Figure) -> None:
        axes = figure.subplots()
        if grid:
            axes.grid(color=GRID, linewidth=0.8)
        draw(axes)

    return figure_picture(name, draw_figure, caption=caption, alt=alt, size=size)


def figure_picture(
    name: str, draw: Callable[[Figure], None], *, caption: str, alt: str, size: tuple[float, float] = NARROW
) -> Picture:
    """Draw a figure with axes of its own."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # names are checked when they are set
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        svg, png = saved(figure)
    return Picture(name=name, caption=caption, alt=alt, png=png, svg=svg, wide=size[0] >= WIDE[0])


def saved(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as SVG and as PNG; its layout is settled once for both."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": "study"})
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": "study"})
    return svg.getvalue(), png.getvalue()


def colour(place: int) -> str:
    """The colour of the n-th thing; after eight they begin again."""
    return COLOURS[place % len(COLOURS)]


def say(axes: Axes, text: str) -> None:
    """An empty figure that says why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT, wrap=True)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
