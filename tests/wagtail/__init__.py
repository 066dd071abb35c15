"""Wagtail's own tasks with bgtask as the backend. ``.ci/run`` runs this with Wagtail installed."""
