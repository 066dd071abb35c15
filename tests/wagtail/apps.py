from django.apps import AppConfig


class WagtailTestsConfig(AppConfig):
    name = "tests.wagtail"
    label = "wagtail_tests"
    default_auto_field = "django.db.models.BigAutoField"
