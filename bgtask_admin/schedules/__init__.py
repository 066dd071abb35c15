"""The pages of schedules: the list, each one with its history, the form, what is to come."""
