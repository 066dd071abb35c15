"""
Mutants of retries, of the texts of errors and of the list of secrets.

The module is long because it is a list.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "redact-urls",
        "bgtask/redaction.py",
        "    _URL,  # scheme://user:password@host\n",
        "",
        "tests/bgtask/test_failures.py::test_secrets_are_masked",
    ),
    Mutant(
        "redact-key-of-postgresql",
        "bgtask/redaction.py",
        "(?P<keep>\\bKey \\([^)\\n]{1,256}\\)=)",
        "(?P<keep>\\bNoKey \\([^)\\n]{1,256}\\)=)",
        "tests/bgtask/test_failures.py::test_secrets_are_masked",
    ),
    Mutant(
        "redact-bearer",
        "bgtask/redaction.py",
        "(?:(?:Bearer|Basic|Token)\\s)?",
        "",
        "tests/bgtask/test_failures.py::test_secrets_are_masked",
    ),
    Mutant(
        "secret-names",
        "bgtask/redaction.py",
        "card[_-]?number",
        "card[_-]?no",
        "tests/bgtask/test_redaction.py::test_a_value_of_a_secret_name_is_masked",
    ),
    Mutant(
        "secret-whole-words",
        "bgtask/redaction.py",
        '_WHOLE_WORDS = r"pin|cvv|iban"',
        '_WHOLE_WORDS = r"cvv|iban"',
        "tests/bgtask/test_redaction.py::test_a_value_of_a_secret_name_is_masked",
    ),
    Mutant(
        "errors-with-nul",
        "bgtask/failures.py",
        'text = text.replace("\\x00", "\\ufffd")',
        "pass",
        "tests/bgtask/test_failures.py::test_any_text_becomes_storable",
    ),
    Mutant(
        "errors-with-surrogates",
        "bgtask/failures.py",
        'text.encode("utf-8", "backslashreplace").decode("utf-8")',
        "text",
        "tests/bgtask/test_failures.py::test_any_text_becomes_storable",
    ),
    Mutant(
        "errors-with-secrets",
        "bgtask/failures.py",
        "return cut(redact(text), limit)",
        "return cut(text, limit)",
        "tests/bgtask/test_failures.py::test_secrets_are_masked",
    ),
    Mutant(
        "errors-without-limit",
        "bgtask/failures.py",
        "return cut(redact(text), limit)",
        "return redact(text)",
        "tests/bgtask/test_failures.py::test_long_text_keeps_its_head_and_more_of_its_tail tests/bgtask/test_failures.py::test_any_text_becomes_storable",
    ),
    Mutant(
        "backoff-default",
        "bgtask/retries.py",
        "attempts**4 + 5",
        "attempts**4 + 6",
        "tests/bgtask/test_retries.py::test_default_backoff_is_attempts_to_the_fourth_plus_five",
    ),
    Mutant(
        "backoff-jitter",
        "bgtask/retries.py",
        "random.uniform(0, jitter)",
        "random.uniform(-jitter, jitter)",
        "tests/bgtask/test_retries.py::test_jitter_only_adds_and_up_to_its_share",
    ),
    Mutant(
        "backoff-without-jitter",
        "bgtask/retries.py",
        "(1 + random.uniform(0, jitter))",
        "1",
        "tests/bgtask/test_retries.py::test_jitter_only_adds_and_up_to_its_share",
    ),
    Mutant(
        "backoff-without-bound",
        "bgtask/retries.py",
        "return min(wait * (1 + random.uniform(0, jitter)), MAX_DELAY_SECONDS)",
        "return wait * (1 + random.uniform(0, jitter))",
        "tests/bgtask/test_retries.py::test_backoff_is_at_most_what_every_database_can_add",
    ),
    Mutant(
        "backoff-negative",
        "bgtask/retries.py",
        "or seconds < 0:",
        ":",
        "tests/bgtask/test_retries.py::test_backoff_refuses_an_invalid_wait",
    ),
    Mutant(
        "backoff-error",
        "bgtask/retries.py",
        ("    except BaseException as error:\n        if is_ctrl_c"),
        ("    except () as error:\n        if is_ctrl_c"),
        "tests/bgtask/test_retry.py::test_invalid_retry_time_means_the_default_delay tests/bgtask/test_retry.py::test_backoff_of_the_function_decides",
    ),
)
