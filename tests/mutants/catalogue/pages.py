"""Mutants of what pages show and understand: times, ids, searches and unknown values."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

FILTERS = "tests/bgtask_admin/tasks/test_filters.py::"
LIST = "tests/bgtask_admin/tasks/test_list.py::"
SEARCH = "tests/bgtask_admin/tasks/test_search.py::"
SEPARATORS = "tests/bgtask_admin/test_thousand_separator.py::"
UNKNOWN = "tests/bgtask_admin/test_unknown_values.py::"
WORDS = f"{SEARCH}test_search_parses_valid_input {SEARCH}test_search_refuses_invalid_input"

MUTANTS = (
    Mutant(
        "ids-with-separators",
        "bgtask_admin/templates/bgtask_admin/base.html",
        "{% localize off %}",
        "{% localize on %}",
        f"{SEPARATORS}test_ids_have_no_separators_on_any_page",
    ),
    Mutant(
        "time-that-is-skipped",
        "bgtask_admin/tasks/filters.py",
        "    if not readings:\n",
        "    if False:\n",
        f"{FILTERS}test_a_time_that_clocks_skip_is_refused_with_its_field",
    ),
    Mutant(
        "time-that-comes-twice",
        "bgtask_admin/tasks/filters.py",
        "    if len(readings) > 1:\n",
        "    if False:\n",
        f"{FILTERS}test_a_time_that_comes_twice_is_refused_with_both_readings",
    ),
    Mutant(
        "time-of-one-reading",
        "bgtask_admin/tasks/parsing.py",
        "for fold in (0, 1)]",
        "for fold in (0,)]",
        f"{FILTERS}test_a_time_that_comes_twice_is_refused_with_both_readings",
    ),
    Mutant(
        "time-of-an-unreal-reading",
        "bgtask_admin/tasks/parsing.py",
        "if timezone.localtime(one).replace(tzinfo=None) == wall]",
        "]",
        f"{FILTERS}test_a_time_that_clocks_skip_is_refused_with_its_field",
    ),
    Mutant(
        "time-of-a-day-without-midnight",
        "bgtask_admin/tasks/parsing.py",
        "if not settings.USE_TZ or _is_date(text) or",
        "if not settings.USE_TZ or",
        f"{FILTERS}test_a_day_begins_even_if_clocks_skip_midnight",
    ),
    Mutant(
        "time-with-an-offset-that-comes-twice",
        "bgtask_admin/tasks/parsing.py",
        "or _is_date(text) or _has_offset(text):",
        "or _is_date(text):",
        f"{FILTERS}test_a_time_that_comes_twice_is_refused_with_both_readings",
    ),
    Mutant(
        "times-compared-by-the-wall",
        "bgtask_admin/tasks/filters.py",
        "if since and until and _in_utc(since) >= _in_utc(until):",
        "if since and until and since >= until:",
        f"{FILTERS}test_the_ends_of_a_period_are_compared_as_points_in_time",
    ),
    Mutant(
        "search-url-as-word",
        "bgtask_admin/tasks/search.py",
        'plain.startswith(("//", "\'"))',
        'plain.startswith(("\'",))',
        f"{SEARCH}test_a_pasted_error_is_searched_as_it_was_typed",
    ),
    Mutant(
        "search-key-error-as-word",
        "bgtask_admin/tasks/search.py",
        'plain.startswith(("//", "\'"))',
        'plain.startswith(("//",))',
        f"{SEARCH}test_a_pasted_error_is_searched_as_it_was_typed",
    ),
    Mutant(
        "search-prose-as-words",
        "bgtask_admin/tasks/search.py",
        "if not any(part.is_field for part in parts) and _is_prose(parts):",
        "if False:",
        f"{SEARCH}test_a_pasted_error_is_searched_as_it_was_typed",
    ),
    Mutant(
        "search-mistyped-word-as-prose",
        "bgtask_admin/tasks/search.py",
        "return len(others) < len(parts) and any(not part.named()[0] for part in others)",
        "return len(others) < len(parts)",
        f"{SEARCH}test_search_refuses_invalid_input",
    ),
    Mutant(
        "search-retyped",
        "bgtask_admin/tasks/search.py",
        "_text(text, parts, free)]",
        '" ".join(part.value for part in free)]',
        f"{SEARCH}test_a_pasted_error_is_searched_as_it_was_typed",
    ),
    Mutant(
        "search-word-twice",
        "bgtask_admin/tasks/search.py",
        "        if key in found:\n",
        "        if False:\n",
        WORDS,
    ),
    Mutant(
        "search-too-long",
        "bgtask_admin/tasks/search.py",
        "    if len(text) > MAX_LENGTH:",
        "    if False:",
        WORDS,
    ),
    Mutant(
        "search-argument-without-value",
        "bgtask_admin/tasks/search.py",
        'if value.startswith("args.") and value.endswith(":"):',
        "if False:",
        WORDS,
    ),
    Mutant(
        "search-quoted-id",
        "bgtask_admin/tasks/search.py",
        '        if self.is_quoted:\n            return "", value\n',
        "",
        WORDS,
    ),
    Mutant(
        "search-quoted-number",
        "bgtask_admin/tasks/search.py",
        "if is_plain or isinstance(read, list | dict):",
        "if True:",
        WORDS,
    ),
    Mutant(
        "search-quoted-list",
        "bgtask_admin/tasks/search.py",
        "if is_plain or isinstance(read, list | dict):",
        "if is_plain:",
        WORDS,
    ),
    Mutant(
        "search-escaped-quotes",
        "bgtask_admin/tasks/search.py",
        '_ESCAPED.sub(r"\\1", quoted)',
        "quoted",
        WORDS,
    ),
    Mutant(
        "search-of-any-time",
        "bgtask_admin/tasks/search.py",
        '        found.setdefault("since", "24h")\n',
        "",
        WORDS,
    ),
    Mutant(
        "search-id-with-its-sign",
        "bgtask_admin/tasks/search.py",
        '_ID = re.compile(r"\\A#?',
        '_ID = re.compile(r"\\A',
        WORDS,
    ),
    Mutant(
        "list-without-message",
        "bgtask_admin/tasks/tables.py",
        "(self._details.tracebacks and record.error_message)",
        "()",
        f"{LIST}test_the_list_shows_the_beginning_of_the_error_message",
    ),
    Mutant(
        "list-of-all-for-an-invalid-filter",
        "bgtask_admin/tasks/list.py",
        "    if not problems:\n",
        "    if True:\n",
        f"{LIST}test_invalid_filter_is_reported_and_no_task_is_shown",
    ),
    Mutant(
        "unknown-status-in-a-list",
        "bgtask_admin/tasks/tables.py",
        "is_known = record.status in Status.values",
        "is_known = True",
        f"{UNKNOWN}test_every_page_shows_the_value_as_it_is",
    ),
    Mutant(
        "unknown-status-in-a-badge",
        "bgtask_admin/templatetags/bgtask_admin.py",
        "Status(value).label if value in Status.values else value",
        "Status(value).label",
        f"{UNKNOWN}test_every_page_shows_the_value_as_it_is",
    ),
)
