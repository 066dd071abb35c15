"""A patch, and the tests that must fail because of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str  # Occurs exactly once in the file.
    new: str
    tests: str  # What pytest is given, separated by blanks.
    database: str = "sqlite"

    def patched(self, text: str) -> str:
        """Return the patched text. Raise PatchDoesNotApply unless ``old`` occurs once."""
        if (number := text.count(self.old)) != 1:
            raise PatchDoesNotApply(f"{self.file} has the old text of {self.name} {number} times")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Equivalent:
    """A patch that no test can notice. It is listed for its reason, and is not run."""

    name: str
    file: str
    old: str
    new: str
    why: str


class PatchDoesNotApply(Exception):
    """The code has changed since the mutant was written: correct or delete the mutant."""
