"""
Break the code on purpose, one line at a time, and see that a test fails.

    python -m tests.mutants                          every mutant
    python -m tests.mutants --only release-token …   these mutants
    python -m tests.mutants --database postgresql    the mutants of one database

A mutant is a patch of one place that matters, with the tests that must fail because of it. Add a
mutant to the module of its area in ``catalogue`` when you add a check that nothing else protects.
"""
