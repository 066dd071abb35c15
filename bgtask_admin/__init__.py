"""The dashboard to operate the queue: pages of the admin, and endpoints for monitoring."""
