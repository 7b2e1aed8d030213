"""An explanation as one self-contained HTML page: no script, nothing from the network, formulas as MathML."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from html import escape
from pathlib import Path

from ..answers.config_names import Powers, groups
from ..answers.explanation import EXCHANGED, Part
from ..answers.explanation_view import Line, Section, View, mixed, numbers_of, shape_of, why_of
from ..ledger import Size
from ..text import human, printable


def write_page(view: View, about: str, path: Path) -> None:
    """Write the page. ``about`` says what was asked. Raises ``OSError`` where the file cannot be written."""
    path.write_text(page(view, about), encoding="utf-8")


def page(view: View, about: str) -> str:
    """The page's text."""
    what = "What a step saves for backward" + (f": {' and '.join(view.labels)}" if len(view.labels) > 1 else "")
    body = "".join(_section(view, number, section) for number, section in enumerate(view.sections))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(f'{view.plan.model}: {what}')}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{_text(what)}</h1><p>{_text(about)}</p>"
        f"{_totals(view)}</header><main>{_contents(view)}{body}{_exchanges(view)}{_names(view)}</main></body></html>\n"
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _totals(view: View) -> str:
    return "".join(
        f'<p class="total"><strong>{human(saved)}</strong> {_text(f"by {name}" if len(view.labels) > 1 else "")} '
        f"({saved:,} bytes, {mixed(per_token)} per {view.per})</p>"
        for name, saved, per_token in zip(view.labels, view.saved, view.total_per_token, strict=True)
    )


def _contents(view: View) -> str:
    """A table of all sections, with their share of all bytes."""
    heads = "".join(f'<th class="n">{_text(name)}</th>' for name in _amounts(view))
    rows = "".join(
        f'<tr><td data-label=""><a href="#part{number}">{_text(section.heading)}</a></td>'
        + "".join(
            f'<td class="n" data-label="{_text(name)}">{human(nbytes * section.count)}'
            f" <small>{100 * nbytes * section.count / max(saved, 1):.1f} %</small></td>"
            for name, nbytes, saved in zip(_amounts(view), section.nbytes, view.saved, strict=True)
        )
        + "</tr>"
        for number, section in enumerate(view.sections)
    )
    return f"<table><thead><tr><th>part of the model</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _amounts(view: View) -> tuple[str, ...]:
    return view.labels if len(view.labels) > 1 else ("saved",)


def _section(view: View, number: int, section: Section) -> str:
    largest = max(line.row.per_token for line in section.lines)
    two = len(view.labels) > 1
    each = " each" if section.count > 1 else ""
    sums = f"{' and '.join(map(mixed, section.per_token))} bytes per {view.per}{each}"
    if two:
        sums += f". {view.labels[1]} drops {mixed(section.only(0))} and adds {mixed(section.only(1))}"
    names = view.labels if two else (f"bytes per {view.per}",)
    heads = "".join(f'<th class="n">{_text(name)}</th>' for name in names)
    rows = "".join(_row(line, names, largest) for line in section.lines)
    total = "".join(
        f'<td class="n" data-label="{_text(name)}">{mixed(value)}</td>'
        for name, value in zip(names, section.per_token, strict=True)
    )
    return (
        f'<section id="part{number}"><h2>{_text(section.heading)}</h2><p>{_text(sums)}.</p>'
        f"{''.join(_formula(view, name, part, each) for name, part in zip(view.labels, section.parts, strict=True))}"
        f"<table><thead><tr><th>module</th><th>operator</th><th>tensor</th>{heads}<th>why it is kept</th></tr></thead>"
        f'<tbody>{rows}<tr class="sum"><td data-label="">sum</td><td></td><td></td>{total}<td></td></tr></tbody>'
        "</table></section>"
    )


def _row(line: Line, names: Iterable[str], largest: Fraction) -> str:
    row = line.row
    width = float(100 * row.per_token / largest)
    kind = "" if all(line.kept) else ' class="dropped"' if line.kept[0] else ' class="added"'
    amounts = "".join(
        f'<td class="n" data-label="{_text(name)}">{mixed(row.per_token)}<i style="width:{width:.2f}%"></i></td>'
        if kept
        else f'<td class="n none" data-label="{_text(name)}">–</td>'
        for name, kept in zip(names, line.kept, strict=True)
    )
    numbers = f"<br><small>{_text(numbers_of(row))}</small>" if numbers_of(row) else ""
    return (
        f'<tr{kind}><td data-label="module"><code>{_broken(row.module)}</code></td>'
        f'<td data-label="operator"><code>{_broken(row.operator)}</code></td>'
        f'<td data-label="tensor"><code>{_broken(shape_of(row))}</code> {_text(row.dtype)}{numbers}</td>{amounts}'
        f'<td data-label="why">{_text(why_of(row))}</td></tr>'
    )


def _broken(name: str) -> str:
    """A name that may be broken behind its dots and underscores, and before its capitals."""
    return "".join(f"<wbr>{_text(c)}" if c.isupper() else f"{_text(c)}<wbr>" if c in "._*" else _text(c) for c in name)


def _formula(view: View, name: str, part: Part | None, each: str) -> str:
    if part is None or part.formula is None:
        return ""
    of = f" of {name}" if len(view.labels) > 1 else ""
    return (
        f'<p class="formula">{_text(f"bytes{of}{each} =")} {mathml(part.formula)} '
        f"<small>for {_text(part.condition)}</small></p>"
    )


def _exchanges(view: View) -> str:
    """What sharding takes and adds, of each plan that shares its model."""
    kinds = ("", *['class="n" '] * (len(EXCHANGED) - 1))
    heads = "".join(f"<th {kind}>{name}</th>" for kind, name in zip(kinds, EXCHANGED, strict=True))
    return "".join(
        f"<section><h2>{_text(f'What sharding takes and adds: {name}')}</h2><table><thead><tr>{heads}</tr></thead>"
        + "<tbody>"
        + "".join(
            "<tr>"
            + "".join(
                f'<td {kind}data-label="{name}">{_text(cell)}</td>'
                for kind, name, cell in zip(kinds, EXCHANGED, figure.cells, strict=True)
            )
            + "</tr>"
            for figure in one.sharding
        )
        + "</tbody></table></section>"
        for name, one in zip(view.labels, view.explanations, strict=True)
        if one.sharding
    )


def _names(view: View) -> str:
    if not view.values:
        return ""
    rows = "".join(f"<dt><code>{_text(name)}</code></dt><dd>{value:,}</dd>" for name, value in view.values)
    return f"<section><h2>In this plan</h2><dl>{rows}</dl></section>"


def mathml(size: Size) -> str:
    """A formula as a sum of terms in MathML, which browsers set themselves. Lines break between the terms."""
    found: list[tuple[int | Fraction, str]] = []
    for outer, inner in groups(size):
        if outer and len(inner) > 1:
            within = _sum((coefficient, _product(powers, abs(Fraction(coefficient)))) for coefficient, powers in inner)
            found.append((1, f"{_product(outer)} · ({within})"))
        else:
            for coefficient, powers in inner:
                found.append((coefficient, _product((*outer, *powers), abs(Fraction(coefficient)))))
    return _sum(found)


def _sum(terms: Iterable[tuple[int | Fraction, str]]) -> str:
    text = ""
    for coefficient, term in terms:
        text += f"{' − ' if text else '−'}{term}" if coefficient < 0 else f"{' + ' if text else ''}{term}"
    return text or _product((), Fraction(0))


def _product(powers: Powers, coefficient: Fraction = Fraction(1)) -> str:
    """One term in MathML, by sympy."""
    from sympy import Mul, Pow, Rational, Symbol
    from sympy.printing.mathml import MathMLPresentationPrinter

    class Printer(MathMLPresentationPrinter):  # type: ignore[misc]
        """Prints a symbol's name as it is. sympy would set what follows an underscore as an index."""

        def _print_Symbol(self, symbol: Symbol) -> object:
            item = self.dom.createElement("mi")
            item.appendChild(self.dom.createTextNode(symbol.name))
            return item

    factors = [Pow(Symbol(name, positive=True, integer=True), exponent) for name, exponent in powers]
    if coefficient != 1 or not factors:
        factors.insert(0, Rational(coefficient.numerator, coefficient.denominator))
    printer = Printer({"mul_symbol": "&#xB7;", "order": "none"})
    return f"<math>{printer.doprint(Mul(*factors, evaluate=False))}</math>"


_STYLE = """
:root{color-scheme:light dark;--ink:#1d232a;--soft:#5b6570;--line:#d9dee3;--paper:#fff;--card:#f5f7f9;--bar:#d55e0066;
--added:#0072b21f;--dropped:#d55e001f;--link:#005a9c}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a3adb7;--line:#3a424a;--paper:#15191d;--card:#1e2429;
--bar:#f3a46a80;--added:#56b4e933;--dropped:#e58a3c33;--link:#7cc4ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:86rem;padding:1rem;font:15px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--paper)}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .25rem}
p{margin:.35rem 0}a{color:var(--link)}small,.none{color:var(--soft)}
.total strong{font-size:1.25rem}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;margin:.75rem 0}
th,td{padding:.4rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:600;border-bottom-width:2px}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td i{display:block;height:.3rem;margin:.25rem 0 0 auto;background:var(--bar);border-radius:2px;min-width:1px}
.sum td{font-weight:700;border-bottom:0}
.added{background:var(--added)}.dropped{background:var(--dropped)}
.formula{overflow-wrap:anywhere;line-height:1.9;padding:.5rem .75rem;background:var(--card);border-radius:6px}
math{font-size:1.05rem}
dl{display:grid;grid-template-columns:max-content auto;gap:.15rem 1rem}dd{margin:0}
@media (max-width:52rem){thead{display:none}table,tbody,tr,td{display:block;width:100%}
tr{padding:.5rem 0;border-bottom:1px solid var(--line)}
td,.n{border:0;padding:.15rem .5rem;text-align:left;white-space:normal}td:empty{display:none}
td[data-label]:not([data-label=""])::before{content:attr(data-label) ": ";color:var(--soft)}
td i{margin-left:0}}
"""
