"""What machines read: /health, /stats and /metrics."""
