from __future__ import annotations

from django.contrib import admin
from django.utils.html import format_html

from example_project.members.models import Debit, Member, PaymentReport, Registration


@admin.register(Member)
class MemberAdmin(admin.ModelAdmin):
    list_display = ["number", "user", "plan", "joined", "renews_on", "picture"]
    list_filter = ["plan"]
    list_select_related = ["user"]
    search_fields = ["number", "user__username", "user__email"]
    raw_id_fields = ["user"]

    @admin.display(description="card")
    def picture(self, member: Member) -> str:
        if not member.card:
            return "–"
        return format_html('<a href="{0}"><img src="{0}" alt="" height="48"></a>', member.card.url)


@admin.register(Registration)
class RegistrationAdmin(admin.ModelAdmin):
    list_display = ["member", "calls", "confirmed_at"]
    list_select_related = ["member__user"]


@admin.register(Debit)
class DebitAdmin(admin.ModelAdmin):
    list_display = ["member", "year", "cents"]
    list_select_related = ["member__user"]


@admin.register(PaymentReport)
class PaymentReportAdmin(admin.ModelAdmin):
    list_display = ["year", "month", "payments", "refunds", "total"]
