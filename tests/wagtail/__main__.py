"""
Create and publish pages with Wagtail, run its tasks, and look at what they filled.

    python -m tests.wagtail
"""

from __future__ import annotations

import os
import sys

import django


def main() -> int:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.wagtail.settings"
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    _publish()
    names = _run()
    _check_what_was_filled()
    sys.stdout.write(f"{len(names)} tasks: {', '.join(sorted(set(names)))}\n")
    return 0


def _publish() -> None:
    """Create two pages, let one refer to the other, and publish a revision of that one."""
    from wagtail.models import Page

    from tests.wagtail.models import LinkingPage

    home = Page.objects.get(depth=2)
    walruses = home.add_child(instance=Page(title="Walruses", slug="walruses"))
    page = home.add_child(instance=LinkingPage(title="Penguins", slug="penguins", other=walruses))
    page.title = "Emperor penguins"
    page.save_revision().publish()


def _run() -> list[str]:
    """Run the tasks that Wagtail has enqueued, and return their names."""
    from bgtask.models import Task
    from bgtask.testing import run_due

    stored = Task.objects.filter(backend="default").count()
    assert stored >= 3, f"Wagtail has stored only {stored} tasks."
    ran = run_due()
    assert {task.status for task in ran} == {"SUCCESSFUL"}, ran
    assert not Task.objects.waiting().exists()
    return [task.task_name for task in ran]


def _check_what_was_filled() -> None:
    from wagtail.models import Page, ReferenceIndex

    references = ReferenceIndex.objects.values_list("model_path", flat=True)
    assert list(references) == ["other"], f"The index has the references {list(references)}."
    found = [page.title for page in Page.objects.search("emperor")]
    assert found == ["Emperor penguins"], f"The search finds {found}."


if __name__ == "__main__":
    sys.exit(main())
