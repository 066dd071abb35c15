import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Member",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.CharField(max_length=10, unique=True)),
                (
                    "plan",
                    models.CharField(
                        choices=[
                            ("regular", "Regular"),
                            ("family", "Family"),
                            ("youth", "Youth"),
                            ("honorary", "Honorary"),
                        ],
                        default="regular",
                        max_length=10,
                    ),
                ),
                ("joined", models.DateField()),
                ("renews_on", models.DateField()),
                ("mandate_until", models.DateField(verbose_name="direct debit mandate until")),
                ("photo", models.FileField(blank=True, upload_to="photos")),
                (
                    "card",
                    models.FileField(blank=True, upload_to="cards", verbose_name="membership card"),
                ),
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={
                "ordering": ["number"],
            },
        ),
        migrations.CreateModel(
            name="PaymentReport",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("year", models.PositiveIntegerField()),
                ("month", models.PositiveIntegerField()),
                ("payments", models.PositiveIntegerField()),
                ("refunds", models.PositiveIntegerField()),
                ("total_cents", models.BigIntegerField()),
            ],
            options={
                "ordering": ["year", "month"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("year"), models.F("month"), name="members_report_of_a_month"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Registration",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("calls", models.PositiveIntegerField(default=0)),
                ("confirmed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "member",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, to="members.member"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Debit",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("year", models.PositiveIntegerField()),
                ("cents", models.PositiveIntegerField()),
                (
                    "member",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="members.member"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        models.F("member"), models.F("year"), name="members_debit_once_a_year"
                    )
                ],
            },
        ),
    ]
