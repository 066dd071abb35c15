"""Mutants of the figures about the queue, and of the endpoints for monitoring."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

BEHIND = "tests/bgtask/health/test_behind.py::"
COLLECT = "tests/bgtask/health/test_collect.py::"
EVALUATE = "tests/bgtask/health/test_evaluate.py::"
MONITORING = "tests/bgtask_admin/test_monitoring.py::"

MUTANTS = (
    Mutant(
        "monitor-forgets-failures",
        "bgtask_admin/monitoring/snapshot.py",
        "_expires = clock.monotonic() + CACHE_SECONDS",
        "_expires = clock.monotonic() + (0 if isinstance(_last, Unreadable) else CACHE_SECONDS)",
        f"{MONITORING}test_a_failure_is_kept_so_that_a_second_probe_costs_nothing",
    ),
    Mutant(
        "monitor-forgets-all",
        "bgtask_admin/monitoring/snapshot.py",
        "_expires = clock.monotonic() + CACHE_SECONDS",
        "_expires = clock.monotonic()",
        f"{MONITORING}TestResponses::test_response_is_cached_for_a_moment",
    ),
    Mutant(
        "monitor-any-accept-header",
        "bgtask_admin/monitoring/metrics.py",
        "choose_encoder(_without_unknown_parameters(accept))",
        "choose_encoder(accept)",
        f"{MONITORING}test_an_endpoint_answers_any_accept_header "
        f"{MONITORING}test_no_header_breaks_an_endpoint",
    ),
    Mutant(
        "monitor-names-the-server",
        "bgtask_admin/monitoring/snapshot.py",
        '({type(error).__name__}).")',
        '({error}).")',
        f"{MONITORING}TestResponses::test_response_hides_the_error_of_the_database",
    ),
    Mutant(
        "monitor-failed-tasks-of-others",
        "bgtask/health/evaluate.py",
        "            failed_tasks=None,\n",
        "",
        f"{MONITORING}test_an_endpoint_for_one_queue_tells_no_number_of_failed_tasks",
    ),
    Mutant(
        "health-least-sample",
        "bgtask/health/collect.py",
        "if ended >= limits.failure_sample else",
        "if ended > limits.failure_sample else",
        f"{COLLECT}TestResults::test_are_judged_from_exactly_the_least_sample_on",
    ),
    Mutant(
        "health-any-sample",
        "bgtask/health/collect.py",
        "if ended >= limits.failure_sample else",
        "if ended else",
        f"{COLLECT}TestResults::test_failure_ratio_of_too_few_attempts_is_unknown",
    ),
    Mutant(
        "health-counts-all-failed",
        "bgtask/health/collect.py",
        "LimitedCount(failed, MAX_FAILED_TASKS)",
        "LimitedCount(failed, 10**9)",
        f"{COLLECT}test_counting_failed_tasks_reads_no_more_than_the_limit",
    ),
    Mutant(
        "health-number-of-failed",
        "bgtask/health/collect.py",
        "min(failed, MAX_FAILED_TASKS)",
        "failed",
        f"{COLLECT}test_counts_failed_tasks_of_any_age_up_to_a_limit",
    ),
    Mutant(
        "health-exact-number-of-failed",
        "bgtask/health/collect.py",
        "failed is not None and failed > MAX_FAILED_TASKS",
        "False",
        f"{COLLECT}test_counts_failed_tasks_of_any_age_up_to_a_limit",
    ),
    Mutant(
        "health-failed-of-single-queues",
        "bgtask/health/collect.py",
        'figures.pop(_ALL, {}).get("failed", 0) if queues is None else None',
        'figures.pop(_ALL, {}).get("failed", 0)',
        f"{COLLECT}test_counts_no_failed_tasks_for_single_queues",
    ),
    Mutant(
        "health-says-no-failed",
        "bgtask/health/evaluate.py",
        "        if not health.failed_tasks:\n",
        "        if True:\n",
        f"{EVALUATE}test_says_how_many_tasks_are_failed_even_if_nothing_is_behind",
    ),
    Mutant(
        "health-since-the-oldest-task",
        "bgtask/health/evaluate.py",
        "    if queue.behind_since is None:\n",
        "    if queue.behind_since is None and queue.oldest_ready_since is None:\n",
        f"{EVALUATE}test_does_not_guess_since_when_a_queue_is_behind",
    ),
    Mutant(
        "retrying-first-attempt",
        "bgtask/models/task_queryset.py",
        'Q(attempts__gt=0) & ~Q(error_class="") & has_attempts_left',
        "Q(attempts__gt=0) & has_attempts_left",
        f"{COLLECT}test_a_task_that_was_requeued_for_later_is_not_retrying",
    ),
    Mutant(
        "retrying-without-attempts-left",
        "bgtask/models/task_queryset.py",
        'Q(attempts__gt=0) & ~Q(error_class="") & has_attempts_left',
        'Q(attempts__gt=0) & ~Q(error_class="")',
        f"{COLLECT}test_a_task_that_was_requeued_for_later_is_not_retrying",
    ),
    Mutant(
        "retrying-by-the-setting",
        "bgtask/models/task_queryset.py",
        'has_attempts_left = Q(max_attempts__gt=F("attempts")) | by_default',
        'has_attempts_left = Q(max_attempts__gt=F("attempts"))',
        f"{COLLECT}test_live_tasks_are_counted_by_queue_and_status "
        f"{COLLECT}test_a_task_that_was_requeued_for_later_is_not_retrying",
    ),
    Mutant(
        "retrying-row-without-attempts-left",
        "bgtask/models/task.py",
        "            and bool(self.error_class)\n            and self.has_attempts_left\n",
        "            and bool(self.error_class)\n",
        f"{COLLECT}test_a_task_that_was_requeued_for_later_is_not_retrying",
    ),
    Mutant(
        "behind-since-the-first-sample",
        "bgtask/health/behind.py",
        "Q(late=1, late_before=0) | ",
        "",
        f"{BEHIND}test_queue_is_behind_since_the_first_minute_above_its_limit",
    ),
    Mutant(
        "behind-since-a-delay-that-has-ended",
        "bgtask/health/behind.py",
        "            began.pop(queue, None)\n",
        "            pass\n",
        f"{BEHIND}test_beginning_is_unknown_if_the_last_sample_was_in_time",
    ),
    Mutant(
        "behind-since-a-gap",
        "bgtask/health/behind.py",
        "if before is not None and minute - before <= MAX_GAP:",
        "if before is not None:",
        f"{BEHIND}test_beginning_is_unknown_without_a_sample_before",
    ),
    Mutant(
        "behind-since-the-first-hour-that-is-read",
        "bgtask/health/behind.py",
        "elif minute - start > MAX_GAP:",
        "else:",
        f"{BEHIND}test_beginning_is_unknown_if_it_is_before_the_hours_that_are_read",
    ),
    Mutant(
        "behind-since-the-first-of-all-samples",
        "bgtask/health/behind.py",
        "for queue, minute in uncertain.items() if minute in sampled}",
        "for queue, minute in uncertain.items()}",
        f"{BEHIND}test_beginning_is_unknown_without_a_sample_before",
    ),
    Mutant(
        "behind-never-of-a-new-queue",
        "bgtask/health/behind.py",
        "for queue, minute in uncertain.items() if minute in sampled}",
        "for queue, minute in uncertain.items() if False}",
        f"{BEHIND}test_queue_is_not_behind_since_the_due_time_of_its_oldest_task",
    ),
    Mutant(
        "behind-by-the-limit-of-another-queue",
        "bgtask/health/behind.py",
        "Q(queue__in=names, oldest_ready_age__lte=int(limit * 1000))",
        "Q(oldest_ready_age__lte=int(limit * 1000))",
        f"{BEHIND}test_each_queue_is_compared_with_its_own_limit",
    ),
    Mutant(
        "behind-read-per-queue",
        "bgtask/health/collect.py",
        "for name, since in behind_since(limits, now).items():",
        "for name, since in [pair for one in limits.items() "
        "for pair in behind_since(dict([one]), now).items()]:",
        f"{BEHIND}test_one_query_reads_the_samples_of_all_queues",
    ),
)
