"""Endpoints for machines: /health, /stats and /metrics."""
