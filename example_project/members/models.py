from __future__ import annotations

from decimal import Decimal

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class Plan(models.TextChoices):
    REGULAR = "regular", _("Regular")
    FAMILY = "family", _("Family")
    YOUTH = "youth", _("Youth")
    HONORARY = "honorary", _("Honorary")


class Member(models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE)
    number = models.CharField(max_length=10, unique=True)
    plan = models.CharField(max_length=10, choices=Plan.choices, default=Plan.REGULAR)
    joined = models.DateField()
    renews_on = models.DateField()
    mandate_until = models.DateField(_("direct debit mandate until"))
    photo = models.FileField(upload_to="photos", blank=True)
    card = models.FileField(_("membership card"), upload_to="cards", blank=True)

    class Meta:
        ordering = ["number"]

    def __str__(self) -> str:
        return f"{self.number} {self.user.get_full_name()}"


class Registration(models.Model):
    """The calls that register a member with the federation, and its confirmation."""

    member = models.OneToOneField(Member, models.CASCADE)
    calls = models.PositiveIntegerField(default=0)
    confirmed_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.member.number}: {self.calls} calls"


class Debit(models.Model):
    """A year's fee, taken from the member's account."""

    member = models.ForeignKey(Member, models.CASCADE)
    year = models.PositiveIntegerField()
    cents = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint("member", "year", name="members_debit_once_a_year")]

    def __str__(self) -> str:
        return f"{self.member.number}: {self.cents / 100:.2f} for {self.year}"


class PaymentReport(models.Model):
    """The sums of one month in the bank's file."""

    year = models.PositiveIntegerField()
    month = models.PositiveIntegerField()
    payments = models.PositiveIntegerField()
    refunds = models.PositiveIntegerField()
    total_cents = models.BigIntegerField()

    class Meta:
        ordering = ["year", "month"]
        constraints = [models.UniqueConstraint("year", "month", name="members_report_of_a_month")]

    def __str__(self) -> str:
        return f"{self.year}-{self.month:02}: {self.total:,.2f}"

    @property
    def total(self) -> Decimal:
        return Decimal(self.total_cents) / 100
