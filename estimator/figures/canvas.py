"""What all figures share: colours, matplotlib's settings, a new figure, its heading and its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from ..errors import InputError
from ..text import printable_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Asked = ParamSpec("Asked")

INK, GREY, FAINT = "#222222", "#666666", "#dddddd"
LIMIT = "#B22222"
"""The colour of what must not be exceeded."""
LINES = (
    *("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#8A6D00", "#5B3FA0"),
    *("#A04000", "#E69F00", "#7F7F7F", "#882255", "#44AA99", "#999933"),
)
"""The colours of lines (after Okabe, Ito and Tol, safe for colour-blind people); full fine-tuning has ``INK``."""
MARKERS = "sD^vPXo"
STYLE = {
    "font.size": 10.5,
    "font.family": "sans-serif",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.color": INK,
    "text.parse_math": False,  # a name may contain dollar signs
    "svg.fonttype": "none",
}


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib with its defaults and ``STYLE``, whatever a ``matplotlibrc`` says.

    Raises ``InputError`` where matplotlib does not start: it reads that file, and the name of a backend, on its import.
    """
    try:
        import matplotlib
    except ValueError as error:
        raise InputError(f"matplotlib does not start: {error}; look at MPLBACKEND and at matplotlibrc") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def drawn(draw: Callable[Asked, Figure]) -> Callable[Asked, Figure]:
    """What draws a figure does so in our style, and each text in it is ``printable``."""

    @wraps(draw)
    def styled(*args: Asked.args, **keys: Asked.kwargs) -> Figure:
        with _style():
            from matplotlib.text import Text

            figure = draw(*args, **keys)
            for text in figure.findobj(Text):
                assert isinstance(text, Text)
                text.set_text(printable_lines(text.get_text()))
            return figure

    return styled


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_heading(figure: Figure, title: str, subtitle: str) -> None:
    """Write the title, in lines that fit, and below it the subtitle."""
    import textwrap

    lines = textwrap.wrap(title, round(7.8 * figure.get_figwidth()))
    inch = 1 / figure.get_figheight()
    figure.text(0.012, 1 - 0.18 * inch, "\n".join(lines), fontsize=14, fontweight="bold", va="top", linespacing=1.3)
    figure.text(0.012, 1 - (0.28 + 0.27 * len(lines)) * inch, subtitle, fontsize=10, color=GREY, va="top")


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a file. A letter that the font lacks is drawn as a box. Raises ``OSError``."""
    import warnings

    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(path, dpi=125)


def short(label: str, length: int = 28) -> str:
    """A label's first letters."""
    return label if len(label) <= length else f"{label[: length - 1]}…"


def model_in_short(model: str) -> str:
    """A model's name; of a long path its end, which says which one it is."""
    return model if len(model) <= 40 else f"…{model[-39:]}"
