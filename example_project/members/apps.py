from django.apps import AppConfig


class MembersConfig(AppConfig):
    name = "example_project.members"
    label = "members"
    default_auto_field = "django.db.models.BigAutoField"
