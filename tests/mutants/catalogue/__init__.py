"""All mutants. Those of a new area get a module of their own here."""

from __future__ import annotations

from tests.mutants.catalogue import dashboard, database, lifecycle, public, worker
from tests.mutants.catalogue.equivalent import EQUIVALENT

__all__ = ["EQUIVALENT", "MUTANTS"]

MUTANTS = (
    *lifecycle.MUTANTS,
    *database.MUTANTS,
    *worker.MUTANTS,
    *public.MUTANTS,
    *dashboard.MUTANTS,
)
