from __future__ import annotations

from bgtask_admin.ui.tracebacks import sections

CHAINED = """Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 7, in send
    mail.send()
  File "/venv/lib/python3.12/site-packages/mail/api.py", line 20, in send
    self.connect()
  File "/usr/lib/python3.12/socket.py", line 800, in connect
    raise err
ConnectionRefusedError: [Errno 111]

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 9, in send
    raise Refused(host) from error
shop.Refused: smtp.example.org"""


def test_frames_of_libraries_are_folded_and_no_line_is_lost():
    found = sections(CHAINED)

    assert [section.is_library for section in found] == [False, True, False]
    assert found[1].frames == 2
    assert "\n".join(section.text for section in found) == CHAINED


def test_text_that_is_not_a_traceback_is_shown_whole():
    (section,) = sections("lost with its worker")

    assert (section.text, section.is_library) == ("lost with its worker", False)
