"""An app that switches the log of Django's tasks off, so that nobody receives their signals."""

import logging

logging.getLogger("django.tasks").setLevel(logging.CRITICAL)
