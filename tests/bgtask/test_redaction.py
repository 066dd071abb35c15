"""One list decides which names are secret, in texts and in arguments."""

from __future__ import annotations

import pytest

from bgtask.redaction import MASK, is_secret_name, redact

SECRET = (
    "password", "passwd", "DB_PASSWORD", "passphrase", "client_secret", "token", "access-token",
    "api_key", "apikey", "auth", "Authorization", "credentials", "signature", "private_key",
    "access_key", "sessionid", "cookie", "card_number", "pin", "cvv", "IBAN",
)  # fmt: skip
PLAIN = ("user", "spinner", "opinion", "card", "number", "key", "passenger")


@pytest.mark.parametrize("name", SECRET)
def test_a_value_of_a_secret_name_is_masked(name):
    assert is_secret_name(name)
    assert redact(f"{name}='4711'") == f"{name}={MASK}"


@pytest.mark.parametrize("name", PLAIN)
def test_a_value_of_another_name_is_shown(name):
    assert not is_secret_name(name)
    assert redact(f"{name}='4711'") == f"{name}='4711'"
