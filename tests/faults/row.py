"""A row of the table: what broke, and what was seen, lost and measured."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = (
    "fault",
    "what the user sees",
    "lost",
    "noticed after",
    "trains again after that",
    "losses",
    "time told, and Slurm's",
)


@dataclass(frozen=True)
class Way:
    """Seconds from a fault until it is noticed, None where nobody has to, and what the way back to training took."""

    noticed: float | None = None
    parts: tuple[tuple[str, float], ...] = ()

    @property
    def words(self) -> tuple[str, str]:
        noticed = "" if self.noticed is None else f"{self.noticed:.1f} s"
        each = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.parts)
        return noticed, f"{sum(s for _, s in self.parts):.1f} s: {each}" if self.parts else ""


@dataclass(frozen=True)
class Told:
    """Seconds of the allocation: as the run's own files have them, and as sacct has, of so many attempts."""

    own: float
    slurm: float
    attempts: int

    @property
    def holds(self) -> bool:
        """Within 1%, or what sacct rounds: each attempt's start and end to a second."""
        return abs(self.own - self.slurm) <= max(0.01 * self.slurm, float(self.attempts))

    def __str__(self) -> str:
        return f"{self.own:.1f} s, {self.slurm:.0f} s"


@dataclass(frozen=True)
class Row:
    """`seen` is quoted from the command line; all else is measured."""

    fault: str
    seen: str
    lost: str
    way: Way = Way()
    losses: str = ""
    told: Told | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.fault, self.seen, self.lost, *self.way.words, self.losses, str(self.told or ""))


def table(rows: list[Row]) -> str:
    """In Markdown."""
    lines = [" | ".join(HEAD), "|".join(["---"] * len(HEAD)).join("||")]
    body = [" | ".join(cell.replace("|", "\\|") for cell in row.cells) for row in rows]
    return "\n".join([f"| {lines[0]} |", lines[1], *(f"| {line} |" for line in body)])
