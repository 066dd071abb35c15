from django.db import models
from wagtail.models import Page


class LinkingPage(Page):
    """A page with a reference to another one."""

    other = models.ForeignKey(Page, models.SET_NULL, null=True, related_name="+")
