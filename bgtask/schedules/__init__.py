"""
Recurring tasks: schedules, and the slots for which workers enqueue tasks.

A schedule is a row, and so is each decision about one of its slots. Any worker may decide: the
first whose guarded UPDATE moves ``next_at`` on. There is no leader and no scheduler process.
"""
