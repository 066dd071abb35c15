from __future__ import annotations

import email
from email import policy
from typing import Any

import django
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage

from example_project.mail import EmlBackend, mailer_from_url


@pytest.fixture
def backend(site):
    alias: dict[str, Any] = {"alias": "default"} if django.VERSION >= (6, 1) else {}
    return EmlBackend(file_path=str(site / "outbox"), **alias)


def test_each_mail_is_a_file_that_can_be_opened(backend, site):
    first, second = (
        EmailMessage(f"Grüße {n}", "Text", "club@example.org", ["a@example.org"]) for n in (1, 2)
    )

    assert backend.send_messages([first, second]) == 2

    files = list((site / "outbox").glob("*.eml"))
    subjects = {
        email.message_from_bytes(file.read_bytes(), policy=policy.default)["Subject"]
        for file in files
    }
    assert subjects == {"Grüße 1", "Grüße 2"}


def test_an_address_cannot_leave_the_outbox(backend, site):
    backend.send_messages([EmailMessage("s", "b", "c@example.org", ["../../x/y@example.org"])])

    assert len(list((site / "outbox").glob("*.eml"))) == 1


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("smtp://mail.example.org", {"port": 25, "use_tls": False, "use_ssl": False}),
        ("smtp://u:p%40ss@localhost:2525", {"port": 2525, "username": "u", "password": "p@ss"}),
        ("smtp+tls://u:p@mail.example.org", {"port": 587, "use_tls": True}),
        ("smtps://u:p@mail.example.org", {"port": 465, "use_ssl": True}),
    ],
)
def test_reads_a_server_from_a_url(url, options):
    mailer = mailer_from_url(url)

    assert mailer["BACKEND"].endswith("smtp.EmailBackend")
    assert mailer["OPTIONS"].items() >= options.items()


@pytest.mark.parametrize(
    "url", ["http://u:s3cret@localhost", "smtp://", "nonsense", "smtp://u:s3cret@localhost:port"]
)
def test_refuses_other_urls_without_repeating_them(url):
    with pytest.raises(ImproperlyConfigured, match="EMAIL_URL") as refusal:
        mailer_from_url(url)

    assert "s3cret" not in str(refusal.value)
