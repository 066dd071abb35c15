"""A traceback as text → the project's frames to be shown, those of libraries to be folded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

from bgtask_admin.ui.formatting import visible

_FRAME = re.compile(r'^\s+File "([^"\n]+)", line \d+, in ')
# By their paths alone, for the worker that wrote them may live on another machine.
_LIBRARY = re.compile(
    r"site-packages|dist-packages|[/\\]lib(?:64)?[/\\]python\d|[/\\]bgtask[/\\](?:runner|background)"
    r"|^<|[/\\]Lib[/\\]"
)


@dataclass(frozen=True)
class Section:
    """Lines that belong together."""

    text: str
    frames: int
    is_library: bool


def sections(traceback: str) -> list[Section]:
    """In their order, chained exceptions too; nothing is left out."""
    parts: list[tuple[str, bool, bool]] = []  # Text, is it a frame, is it a library's.
    for line in visible(traceback, lines=True).split("\n"):
        if match := _FRAME.match(line):
            parts.append((line, True, bool(_LIBRARY.search(match[1]))))
        elif parts and parts[-1][1] and line.startswith("    "):
            text, is_frame, is_library = parts[-1]
            parts[-1] = (f"{text}\n{line}", is_frame, is_library)
        else:
            parts.append((line, False, False))
    found = []
    for is_library, group in groupby(parts, key=lambda part: part[2]):
        lines = list(group)
        text = "\n".join(part[0] for part in lines)
        found.append(Section(text, sum(part[1] for part in lines), is_library))
    return found


def last_line(text: str) -> str:
    """Of a traceback, the line that names the error."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
