"""What may go wrong, made to go wrong: docs/reliability.md says what is promised then."""
