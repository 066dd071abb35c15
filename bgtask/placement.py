"""Check that another process can import the module of a background function."""

from __future__ import annotations

import sys

from bgtask.exceptions import InvalidFunction

_REMEDY = "Move it to a module that workers import, such as the tasks.py of an app"


def check_placement(module_name: str | None, filename: str, where: str) -> None:
    """
    Raise InvalidFunction if a worker could not import the function by the name of its module.

    ``filename`` is the file of the function's code. It is a word in brackets if the code was typed.
    """
    module = sys.modules.get(module_name or "")
    spec = getattr(module, "__spec__", None)
    if module_name in ("__main__", "__mp_main__"):
        raise InvalidFunction(_in_main(spec.name if spec else None, filename, where))
    if _is_typed(filename) or module is None or spec is None:
        raise InvalidFunction(
            f"{where} was typed into a shell or loaded without an import, so a worker can't import "
            f"it. {_REMEDY}, and import it here."
        )


def _in_main(own_name: str | None, filename: str, where: str) -> str:
    if _is_typed(filename) or "ipykernel" in filename:
        return (
            f"{where} was typed into a shell or a notebook, so a worker can't import it. "
            f"{_REMEDY}, and import it here."
        )
    if own_name is not None:
        return (
            f"{where} is in the module that python -m runs, so it is called __main__ here and "
            f"{own_name} in a worker. {_REMEDY}, and import it in {own_name}."
        )
    return (
        f"{where} is in the file that is being run (__main__), which a worker can't import. "
        f"{_REMEDY}. If the workers run this same file, give the function a name= instead."
    )


def _is_typed(filename: str) -> bool:
    return filename.startswith("<") and filename.endswith(">")
