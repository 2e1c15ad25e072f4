"""One figure of the benchmark."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A figure, and what it is to be compared with.

    Attributes:
        part: Part of the benchmark.
        what: What was measured, in words.
        value: What was measured.
        unit: Unit of `value`, or "ratio".
        target: Such as ">= 0.92" or "<= 0.5"; empty where the figure is only reported.
        binds: Whether this machine is of the kind for which the target is meant.
    """

    part: str
    what: str
    value: float
    unit: str
    target: str = ""
    binds: bool = True

    @property
    def verdict(self) -> str:
        """met, missed, or empty where nothing is asked of this machine."""
        if not self.target or not self.binds:
            return ""
        sign, bound = self.target.split()
        is_met = self.value >= float(bound) if sign == ">=" else self.value <= float(bound)
        return "met" if is_met else "missed"
