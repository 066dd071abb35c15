"""List mutants that no test can notice, so that nobody tries again. They are not run."""

from __future__ import annotations

from tests.mutants.mutant import Equivalent

EQUIVALENT = (
    Equivalent(
        "rescue-token",
        "bgtask/lifecycle/rescue.py",
        "        ours = ours.filter(token=token)\n",
        "        pass\n",
        "The same transaction has locked the row and read its token. On SQLite it is the one "
        "writer. The protocol's model needs this check, since it has no locks.",
    ),
    Equivalent(
        "promote-strictly",
        "bgtask/lifecycle/promote.py",
        "run_at__lte=DatabaseNow()",
        "run_at__lt=DatabaseNow()",
        "The two differ for one tick of the clock.",
    ),
    Equivalent(
        "claim-behind-its-own-key",
        "bgtask/db/functions.py",
        "({run_at}, {id_}) >= (%s, %s))",
        "({run_at}, {id_}) > (%s, %s))",
        "The key is that of a task that was claimed, so no READY task has it.",
    ),
    Equivalent(
        "claim-without-a-second-poll",
        "bgtask/worker/claimer.py",
        "if start is not None and len(tasks) < wanted:",
        "if False:",
        "The next poll comes at once and finds the same tasks. The second claim saves that poll.",
    ),
    Equivalent(
        "suspects-of-queues-that-are-not-served",
        "bgtask/worker/claimer.py",
        "return queues if self._queues is None else queues & frozenset(self._queues)",
        "return queues",
        "The statement of the snapshot asks for suspects of the served queues only.",
    ),
    Equivalent(
        "monitor-token-by-equality",
        "bgtask_admin/monitoring/access.py",
        "constant_time_compare(_hash(given), _hash(token))",
        "_hash(given) == _hash(token)",
        "The result is the same. Only the time differs, by too little to be measured in a test.",
    ),
    Equivalent(
        "mask-attempt-traceback",
        "bgtask_admin/tasks/detail.py",
        "sections(attempt.traceback) if details.tracebacks else []",
        "sections(attempt.traceback)",
        "The template checks the same permission before it shows the sections.",
    ),
    Equivalent(
        "mask-task-result",
        "bgtask_admin/tasks/detail.py",
        "result=arguments.result_of(task) if details.arguments else None,",
        "result=arguments.result_of(task),",
        "The template shows the result below the arguments, and nothing without arguments.",
    ),
    Equivalent(
        "mask-group-traceback",
        "bgtask_admin/errors/views.py",
        "sections(newest.traceback) if newest and may_see else []",
        "sections(newest.traceback) if newest else []",
        "The template checks the same permission before it shows the sections.",
    ),
    Equivalent(
        "requeue-beside-holder",
        "bgtask/models/requeue.py",
        "        elif name not in holders:",
        "        else:",
        "the unique index refuses the page, and each task is then requeued alone; this only saves "
        "the statements",
    ),
)
