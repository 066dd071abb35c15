"""The dashboard from which people operate the queue: pages of the admin, and monitoring."""
