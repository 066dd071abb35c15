"""What the tests of monitoring share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

DOCS = Path(__file__).parents[2] / "docs" / "monitoring"
TOKEN = "t" * 40
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def assert_conforms(document: Any, schema: str) -> None:
    """To one of the documented schemas, dates included."""
    rules = json.loads((DOCS / schema).read_text())
    jsonschema.Draft202012Validator.check_schema(rules)
    jsonschema.Draft202012Validator(rules, format_checker=jsonschema.FormatChecker()).validate(
        document
    )
