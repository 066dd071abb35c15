"""
The life of a task: enqueue, claim, finish, promote, rescue and prune.

Apart from the actions of operators (``TaskQuerySet``), only these modules change the status of a
task. Each change is a transition of ``bgtask.status.TRANSITIONS``.
"""
