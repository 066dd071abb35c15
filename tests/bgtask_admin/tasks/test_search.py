from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from bgtask_admin.tasks.search import parse_search


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("42", {"id": "42"}),
        ("shop.tasks.send", {"task": "shop.tasks.send"}),
        ("failed", {"status": "FAILED"}),
        ("state:failed", {"status": "FAILED"}),
        ("queue:mail", {"queue": "mail"}),
        ("class:smtplib.SMTPException", {"error_class": "smtplib.SMTPException"}),
        ("attempts:3 worker:web-1:4121", {"attempts_min": "3", "worker": "web-1:4121"}),
        ("args.customer:42", {"argument": "customer:42"}),
        ('args.name:"Ada L"', {"argument": "name:Ada L"}),
        ('args.zip:"04109"', {"argument": "zip:04109"}),
        ('args.zip:"14109"', {"argument": 'zip:"14109"'}),
        ('args.ids:"[1, 2]" queue:mail', {"argument": "ids:[1, 2]", "queue": "mail"}),
        ('args.name:""', {"argument": 'name:""'}),
        ('args.name:"\\"Ada\\" \\\\ L"', {"argument": 'name:"Ada" \\ L'}),
        ("args.url:http://x/?a=1", {"argument": "url:http://x/?a=1"}),
        ("timed out", {"error": "timed out", "status": "FAILED", "since": "24h"}),
        ('"42"', {"error": "42", "status": "FAILED", "since": "24h"}),
        (
            "error:refused queue:mail since:7d",
            {"error": "refused", "queue": "mail", "since": "7d", "status": "FAILED"},
        ),
        ("", {}),
        ("x" * 500, {"error": "x" * 500, "status": "FAILED", "since": "24h"}),
        ("#42", {"id": "42"}),
        ("größe.ändern", {"task": "größe.ändern"}),
        ("failed shop.tasks.send", {"status": "FAILED", "task": "shop.tasks.send"}),
        (
            '"timed out" queue:mail',
            {"error": "timed out", "queue": "mail", "status": "FAILED", "since": "24h"},
        ),
    ],
)
def test_search_parses_valid_input(text: str, meaning: dict[str, str]) -> None:
    assert parse_search(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "connection to db:5432 refused",
        "KeyError:'x'",
        "KeyError: 'x'",
        'File "/srv/x.py", line 3',
        "line 3",
        "failed to connect",
        "http://x",
        "https://shop.example/pay?order=7&x=a:b timed out",
        "error: connection refused",
        'say "hi"  now',
    ],
)
def test_a_pasted_error_is_searched_as_it_was_typed(text: str) -> None:
    """Kind of fault: a part of a pasted text is taken for a field, an id or a status."""
    assert parse_search(text) == {"error": text, "status": "FAILED", "since": "24h"}


@pytest.mark.parametrize(
    "text",
    ["quere:mail", "queue:a queue:b", "1 2", "user_id:42 queue:mail", "args.name:", "x" * 501],
    ids=lambda text: text[:30],
)
def test_search_refuses_invalid_input(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_search(text)
