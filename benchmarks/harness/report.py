"""Rows of results.

A row has the median of every side, its quartiles, and the value that the reach is
about: a ratio of medians, or a number.
"""

import statistics
from dataclasses import dataclass, field

from .sides import SIDES
from .timing import Timings


@dataclass
class Summary:
    """Median and quartiles of the rounds of one side."""

    median: float
    lower: float
    upper: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Summary":
        if len(values) < 2:
            return cls(values[0], values[0], values[0], 1)
        lower, median, upper = statistics.quantiles(values, method="inclusive")
        return cls(median, lower, upper, len(values))


@dataclass
class Row:
    """One thing that was measured.

    `ratio` is joblib / samemap, `value` what the reach is about; `met` is None where
    nothing was asked for. A side that did not get through is not in `sides`; `failed`
    says what happened.
    """

    measure: str
    unit: str
    sides: dict[str, Summary]
    ratio: float | None
    value: float | None
    value_unit: str
    reach: str
    met: bool | None
    note: str = ""
    failed: dict[str, str] = field(default_factory=dict)

    def value_text(self) -> str:
        return "" if self.value is None else quantity(self.value, self.value_unit)

    def met_text(self) -> str:
        return {True: "met", False: "NOT MET", None: ""}[self.met]


def quantity(value: float, unit: str) -> str:
    """A number with its unit, three digits."""
    if unit == "s":
        for name, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
            if value * factor >= 1 or name == "ns":
                return f"{digits(value * factor)} {name}"
    return f"{digits(value)}x" if unit == "x" else f"{digits(value)} {unit}".rstrip()


def digits(value: float) -> str:
    """Three digits, and no exponent."""
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


class Report:
    """Rows of one benchmark, printed as they come."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.rows: list[Row] = []

    def rounds(self, full: int, quick: int = 3) -> int:
        """How often to measure."""
        return quick if self.quick else full

    def add(
        self,
        measure: str,
        timings: Timings,
        unit: str = "s",
        *,
        value: float | None = None,
        value_unit: str = "x",
        at_least: float | None = None,
        at_most: float | None = None,
        note: str = "",
        failed: dict[str, str] | None = None,
    ) -> Row:
        """Add a row and print it.

        Parameters
        ----------
        measure : str
        timings : dict
            Rounds by side.
        unit : str
            Of the rounds.
        value : float, optional
            What the reach is about; by default the ratio joblib / samemap.
        value_unit : str
        at_least, at_most : float, optional
            The reach.
        note : str
            More about the value.
        failed : dict, optional
            What happened, by side, for those that have no timings.
        """
        sides = {name: Summary.of(values) for name, values in timings.items()}
        ratio = None
        if set(SIDES) <= set(sides) and sides["samemap"].median:
            ratio = sides["joblib"].median / sides["samemap"].median
        value = ratio if value is None else value
        reach, met = "", None
        if at_least is not None:
            reach = f"at least {quantity(at_least, value_unit)}"
            met = value is not None and value >= at_least
        elif at_most is not None:
            reach = f"at most {quantity(at_most, value_unit)}"
            met = value is not None and value <= at_most
        row = Row(
            measure,
            unit,
            sides,
            ratio,
            value,
            value_unit,
            reach,
            met,
            note,
            failed or {},
        )
        self.rows.append(row)
        print_row(row)
        return row


def print_row(row: Row) -> None:
    print(f"\n{row.measure}")
    for name, s in row.sides.items():
        spread = f"{quantity(s.lower, row.unit)} to {quantity(s.upper, row.unit)}"
        counted = f"quartiles {spread}, {s.rounds} rounds" if s.rounds > 1 else ""
        print(f"  {name:<12}{quantity(s.median, row.unit):>12}   {counted}".rstrip())
    for name, why in row.failed.items():
        print(f"  {name:<12}{'fails':>12}   {why}")
    reach = f"   reach: {row.reach}: {row.met_text()}" if row.reach else ""
    if row.ratio is not None:
        about = reach if row.value == row.ratio else ""
        print(f"  {'ratio':<12}{quantity(row.ratio, 'x'):>12}{about}")
    if row.value is not None and row.value != row.ratio:
        print(f"  {'value':<12}{row.value_text():>12}{reach}")
    if row.note:
        print(f"  {row.note}")
