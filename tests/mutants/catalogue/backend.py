"""Mutants of the backend for Django's tasks: what may be imported, stored, read and sent."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

ENQUEUE = "tests/bgtask/backend/test_enqueue.py::"
FINDER = "tests/bgtask/backend/test_finder.py::"
RESULTS = "tests/bgtask/backend/test_results.py::"
RUNNING = "tests/bgtask/backend/test_running.py::"

MUTANTS = (
    Mutant(
        "import-any-module",
        "bgtask/backend/finder.py",
        "or self._was_missed(name) or not may_import(module):",
        "or self._was_missed(name):",
        f"{FINDER}test_a_forged_row_is_held_and_nothing_is_called",
    ),
    Mutant(
        "import-by-prefix-of-text",
        "bgtask/backend/finder.py",
        'module.startswith(f"{name}.")',
        "module.startswith(name)",
        f"{FINDER}test_modules_of_apps_and_of_options_may_be_imported",
    ),
    Mutant(
        "import-without-identifiers",
        "bgtask/backend/finder.py",
        'if not all(part.isidentifier() for part in module.split(".")):',
        "if False:",
        f"{FINDER}test_text_that_is_no_path_of_a_module_is_not_imported",
    ),
    Mutant(
        "find-another-path",
        "bgtask/backend/finder.py",
        "if not api.is_task(task) or task.module_path != name:",
        "if not api.is_task(task):",
        f"{FINDER}test_another_path_of_a_task_is_unknown",
    ),
    Mutant(
        "find-anything-callable",
        "bgtask/backend/finder.py",
        "if not api.is_task(task) or task.module_path != name:",
        "if not hasattr(task, 'module_path') or task.module_path != name:",
        f"{FINDER}test_an_object_that_only_looks_like_a_task_is_unknown",
    ),
    Mutant(
        "find-by-getattr-of-module",
        "bgtask/backend/finder.py",
        "task = names.get(attribute)",
        "task = getattr(loaded, attribute, None)",
        f"{FINDER}test_a_module_with_a_getattr_is_not_asked",
    ),
    Mutant(
        "find-missed-again-at-once",
        "bgtask/backend/finder.py",
        "if now < self._missed.get(name, 0.0):",
        "if False:",
        f"{FINDER}test_a_name_is_not_looked_for_again_at_once",
    ),
    Mutant(
        "tasks-of-the-main-program",
        "bgtask/backend/finder.py",
        'if module in ("__main__", "__mp_main__"):',
        "if False:",
        f"{ENQUEUE}test_a_task_of_the_main_program_is_refused",
    ),
    Mutant(
        "tasks-of-modules-that-no-worker-imports",
        "bgtask/backend/finder.py",
        "    if not may_import(module):",
        "    if False:",
        f"{ENQUEUE}test_a_module_that_no_worker_imports_is_refused",
    ),
    Mutant(
        "tasks-of-another-function",
        "bgtask/backend/finder.py",
        "or function.task.func is not task.func:",
        "or False:",
        f"{ENQUEUE}test_a_task_whose_path_leads_to_a_later_one_is_refused",
    ),
    Mutant(
        "calls-are-not-bound",
        "bgtask/backend/base.py",
        "        call.function.bind(args, kwargs)\n        try:",
        "        try:",
        f"{ENQUEUE}test_arguments_that_do_not_fit_the_function_are_refused_at_the_call",
    ),
    Mutant(
        "context-given-by-the-caller",
        "bgtask/backend/options.py",
        "signature = signature.replace(parameters=others)",
        "pass",
        f"{ENQUEUE}test_the_context_is_no_argument_of_the_caller",
    ),
    Mutant(
        "keys-that-are-no-text",
        "bgtask/backend/values.py",
        "return _with_text_keys(api.normalize_json(value))",
        "return api.normalize_json(value)",
        f"{ENQUEUE}test_arguments_are_stored_as_other_backends_store_them",
    ),
    Mutant(
        "bgtask-attempts-by-default",
        "bgtask/backend/options.py",
        '"max_attempts": 1',
        '"max_attempts": 25',
        f"{RUNNING}test_a_failed_task_is_not_tried_again_by_default",
    ),
    Mutant(
        "return-value-lost-and-successful",
        "bgtask/backend/functions.py",
        "        return values.dump_value(value)",
        "        return super_dump(value)",
        f"{RUNNING}test_a_return_value_that_is_no_json_fails_the_task_and_is_not_repeated",
    ),
    Mutant(
        "errors-of-interruptions",
        "bgtask/backend/results.py",
        "if one.outcome != AttemptOutcome.INTERRUPTED",
        "if True",
        f"{RESULTS}test_the_result_says_what_happened",
    ),
    Mutant(
        "cancelled-without-error",
        "bgtask/backend/results.py",
        "if status == Status.CANCELLED and not (",
        "if False and not (",
        f"{RESULTS}test_the_result_says_what_happened",
    ),
    Mutant(
        "finished-before-the-last-attempt",
        "bgtask/backend/announcements.py",
        "if not outcome.task.backend or status not in FINISHED:",
        "if not outcome.task.backend:",
        f"{RUNNING}test_task_finished_is_sent_once_after_the_last_attempt",
    ),
    Mutant(
        "signals-of-rows-without-a-backend",
        "bgtask/backend/announcements.py",
        "tell = bool(row.backend) and is_wanted",
        "tell = is_wanted",
        f"{RUNNING}test_a_row_that_no_backend_stored_is_run_without_signals",
    ),
    Mutant(
        "finished-as-another-status",
        "bgtask/backend/announcements.py",
        "row.status = status  # An",
        "pass  # An",
        f"{RUNNING}test_task_finished_says_how_the_task_ended_even_if_it_was_requeued_since",
    ),
)
