"""List all mutants. Those of a new area get a module of their own here."""

from __future__ import annotations

from tests.mutants.catalogue import (
    actions,
    backend,
    dashboard,
    database,
    health,
    lifecycle,
    pages,
    permissions,
    public,
    reports,
    schedules,
    unique,
    values,
    worker,
)
from tests.mutants.catalogue.equivalent import EQUIVALENT

__all__ = ["EQUIVALENT", "MUTANTS"]

MUTANTS = (
    *lifecycle.MUTANTS,
    *database.MUTANTS,
    *unique.MUTANTS,
    *schedules.MUTANTS,
    *worker.MUTANTS,
    *public.MUTANTS,
    *backend.MUTANTS,
    *values.MUTANTS,
    *reports.MUTANTS,
    *health.MUTANTS,
    *dashboard.MUTANTS,
    *permissions.MUTANTS,
    *actions.MUTANTS,
    *pages.MUTANTS,
)
