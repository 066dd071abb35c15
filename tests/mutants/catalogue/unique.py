"""List the mutants of unique tasks: each part of the key, each move that clears it, each race."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

OPTIONS = "tests/bgtask/test_unique.py::"
KEYS = "tests/bgtask/lifecycle/test_unique_keys.py::"
MOVES = f"{KEYS}test_only_the_end_of_its_scope_clears_a_key_and_only_a_requeue_sets_it"
PAGES = "tests/bgtask_admin/tasks/test_unique.py::"

MUTANTS = (
    Mutant(
        "key-without-defaults",
        "bgtask/unique.py",
        "self._defaults | self._signature",
        "self._signature",
        f"{OPTIONS}test_calls_with_the_same_parameters_are_one_however_they_are_passed",
    ),
    Mutant(
        "key-of-all-parameters",
        "bgtask/unique.py",
        "for name, value in arguments.items() if name in names",
        "for name, value in arguments.items()",
        f"{OPTIONS}test_a_list_names_the_parameters_that_count",
    ),
    Mutant(
        "key-without-function",
        "bgtask/unique.py",
        "_json([self._task_name, arguments])",
        "_json(arguments)",
        f"{OPTIONS}test_two_functions_with_long_names_have_different_keys",
    ),
    Mutant(
        "key-that-is-cut",
        "bgtask/unique.py",
        "        if not 1 <= len(key) <= MAX_KEY_CHARACTERS:",
        "        if False:",
        f"{OPTIONS}test_a_key_that_can_not_be_stored_is_refused_at_the_call",
    ),
    Mutant(
        "two-keys-in-one",
        "bgtask/unique.py",
        "if previous is not None and not literal:",
        "if False:",
        f"{OPTIONS}test_options_that_mean_nothing_are_refused",
    ),
    Mutant(
        "key-with-a-secret",
        "bgtask/unique.py",
        "if is_secret_name(field):",
        "if False:",
        f"{OPTIONS}test_options_that_mean_nothing_are_refused",
    ),
    Mutant(
        "claim-keeps-key",
        "bgtask/db/operations.py",
        "unique_key = CASE WHEN unique_while = 'waiting' THEN NULL ELSE unique_key END,",
        "",
        MOVES,
    ),
    Mutant(
        "finish-keeps-key",
        "bgtask/db/operations.py",
        "OR t.unique_until > {clock} THEN t.unique_key END,",
        "OR t.id > 0 THEN t.unique_key END,",
        MOVES,
    ),
    Mutant(
        "finish-ignores-unique-for",
        "bgtask/db/operations.py",
        "OR t.unique_until > {clock} THEN t.unique_key END,",
        "THEN t.unique_key END,",
        MOVES,
    ),
    Mutant(
        "retry-gives-up-key",
        "bgtask/db/operations.py",
        "unique_key = CASE WHEN o.status = 'SCHEDULED' AND NOT t.cancel_requested\n                         OR",
        "unique_key = CASE WHEN",
        MOVES,
    ),
    Mutant(
        "rescue-keeps-key",
        "bgtask/lifecycle/rescue.py",
        ', "unique_key": key_of_finished()}',
        "}",
        MOVES,
    ),
    Mutant(
        "cancel-keeps-key",
        "bgtask/models/task_queryset.py",
        '            unique_key=Case(When(waits, then=key_of_finished()), default=F("unique_key")),\n',
        "",
        MOVES,
    ),
    Mutant(
        "cancelled-release-keeps-key",
        "bgtask/lifecycle/claim.py",
        "When(cancel_requested=True, then=key_of_finished()), default",
        'When(cancel_requested=True, then=F("unique_key")), default',
        MOVES,
    ),
    Mutant(
        "requeue-takes-no-key",
        "bgtask/models/requeue.py",
        ', unique_key=F("unique_name")) == len(ids)',
        ") == len(ids)",
        MOVES,
    ),
    Mutant(
        "requeue-of-all-with-a-name",
        "bgtask/models/requeue.py",
        "            newest.setdefault(name, id_)",
        "            newest[name + str(id_)] = id_",
        f"{KEYS}TestRequeue",
    ),
    Mutant(
        "replace-another-function",
        "bgtask/db/operations.py",
        "'HELD') AND task_name = %s\"",
        "'HELD') AND task_name = COALESCE(task_name, %s)\"",
        f"{OPTIONS}test_replace_never_gives_a_task_the_parameters_of_another_function",
    ),
    Mutant(
        "replace-releases-held",
        "bgtask/db/operations.py",
        "WHEN status = 'HELD' THEN status WHEN",
        "WHEN",
        f"{OPTIONS}test_replace_leaves_a_held_task_held",
    ),
    Mutant(
        "latest-ignored",
        "bgtask/db/operations.py",
        "        if latest is not None:",
        "        if False:",
        f"{OPTIONS}test_latest_bounds_for_how_long_calls_put_a_task_off",
    ),
    Mutant(
        "lapse-of-live-task",
        "bgtask/lifecycle/unique.py",
        "status__in=sorted(FINISHED), unique_until",
        "unique_until",
        f"{OPTIONS}test_unique_for_does_not_free_the_key_of_a_task_that_has_not_ended",
    ),
    Mutant(
        "lapse-too-soon",
        "bgtask/lifecycle/unique.py",
        ", unique_until__lte=DatabaseNow()",
        "",
        f"{OPTIONS}test_unique_for_holds_the_key_of_a_task_that_has_ended",
    ),
    Mutant(
        "bulk-without-doubles",
        "bgtask/lifecycle/enqueue.py",
        'if key.name not in keyed or key.on_conflict == "replace":',
        "if key.name not in keyed:",
        f"{OPTIONS}test_many_that_replace_keep_the_last_of_each_key",
    ),
    Mutant(
        "bulk-does-not-raise",
        "bgtask/lifecycle/unique.py",
        'if key.on_conflict != "skip":',
        'if key.on_conflict == "replace":',
        f"{OPTIONS}test_many_that_raise_store_all_or_none",
    ),
    Mutant(
        "prune-takes-keys",
        "bgtask/lifecycle/retention.py",
        "old = old.filter(Q(unique_until=None) | Q(unique_until__lte=DatabaseNow()))",
        "old = old.filter()",
        f"{KEYS}test_a_task_that_holds_its_key_is_not_pruned",
    ),
    Mutant(
        "insert-without-arbiter",
        "bgtask/db/operations.py",
        "return self.insert(connection, columns, values, params, IF_FREE)",
        "return self.insert(connection, columns, values, params)",
        f"{OPTIONS}test_skip_returns_the_row_that_is_there",
    ),
    Mutant(
        "key-without-permission",
        "bgtask_admin/tasks/selection.py",
        '            "unique": VIEW_ARGUMENTS,  # A key may contain arguments.\n',
        "",
        f"{PAGES}test_a_key_may_contain_arguments_so_it_is_hidden_like_them",
    ),
)
