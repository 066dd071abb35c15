from __future__ import annotations

from importlib.util import find_spec

# Django 5.2 has no tasks without the package django-tasks.
if not (find_spec("django.tasks") or find_spec("django_tasks")):
    collect_ignore_glob = ["*.py"]
