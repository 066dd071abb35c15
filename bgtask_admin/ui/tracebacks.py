"""Split the text of a traceback, so that a page shows the project's frames and folds others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

from bgtask_admin.ui.formatting import visible

_FRAME = re.compile(r'^\s+File "([^"\n]+)", line \d+, in ')
# Match the path only, because the worker that wrote the traceback may run on another machine.
_LIBRARY = re.compile(
    r"site-packages|dist-packages|[/\\]lib(?:64)?[/\\]python\d|[/\\]bgtask[/\\](?:backend|calling|decorators|worker)"
    r"|^<|[/\\]Lib[/\\]"
)


@dataclass(frozen=True)
class Section:
    """Neighbouring lines that are all from libraries, or all from the project."""

    text: str
    frames: int
    is_library: bool


def sections(traceback: str) -> list[Section]:
    """Return all lines of the traceback in order, including those of chained exceptions."""
    parts: list[tuple[str, bool, bool]] = []  # (text, is a frame, is from a library)
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
