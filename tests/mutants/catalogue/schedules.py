"""List the mutants of schedules: each guard, each constraint, and each rule of a slot."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

FIRE = "tests/bgtask/schedules/test_fire.py::"
GUARD = f"{FIRE}TestGuard"
EDIT = "tests/bgtask/schedules/test_edit.py::"
DECIDE = "tests/bgtask/schedules/test_decide.py::"
SLOTS = "tests/bgtask/schedules/test_timetable.py::"
LATE = "tests/bgtask/health/test_schedules.py"
PAGES = "tests/bgtask_admin/schedules/test_views.py::"

MUTANTS = (
    Mutant(
        "fire-without-next",
        "bgtask/schedules/fire.py",
        "pk=schedule.pk, next_at=schedule.next_at, revision=schedule.revision",
        "pk=schedule.pk, revision=schedule.revision",
        GUARD,
    ),
    Mutant(
        "fire-without-revision",
        "bgtask/schedules/fire.py",
        "next_at=schedule.next_at, revision=schedule.revision",
        "next_at=schedule.next_at",
        GUARD,
    ),
    Mutant(
        "fire-paused",
        "bgtask/schedules/fire.py",
        "ours = Schedule.objects.active().filter(",
        "ours = Schedule.objects.filter(",
        GUARD,
    ),
    Mutant(
        "fire-without-transaction",
        "bgtask/schedules/fire.py",
        "    with writing(queue_alias()):\n        return _fire(list(rows.select_for_update(skip_locked=can_skip))",
        "    if True:\n        return _fire(list(rows)",
        f"{GUARD}::test_a_crash_after_the_guard_leaves_the_slot_undecided",
    ),
    Mutant(
        "fire-known-slots",
        "bgtask/schedules/fire.py",
        "            if (schedule.pk, slot) in known:",
        "            if False:",
        f"{GUARD}::test_slots_that_were_decided_before_the_clock_went_back_stay_decided",
    ),
    Mutant(
        "fire-foreign-code",
        "bgtask/schedules/fire.py",
        "return schedules.filter(Q(source=Source.ADMIN) | Q(key__in=sorted(keys)))",
        "return schedules",
        f"{FIRE}TestWhoFires::test_a_schedule_of_code_is_fired_only_where_the_code_declares_it",
    ),
    Mutant(
        "fire-broken-stops-others",
        "bgtask/schedules/fire.py",
        "        if len(page) > 1:",
        "        if False:",
        f"{GUARD}::test_a_schedule_that_can_not_be_decided_keeps_no_other",
    ),
    Mutant(
        "fire-hides-outage",
        "bgtask/schedules/fire.py",
        "return isinstance(error, Error) and not is_about_data(error)",
        "return False",
        f"{GUARD}::test_an_outage_is_raised",
    ),
    Mutant(
        "fire-page-by-new-next",
        "bgtask/schedules/fire.py",
        "        last = page[-1].next_at, page[-1].pk\n",
        "        last = None, 0\n",
        f"{FIRE}TestWhoFires::test_very_many_declared_schedules_are_sorted_out_in_python",
    ),
    Mutant(
        "overlap-skip",
        "bgtask/schedules/fire.py",
        "    if last in live and schedule.overlap == Overlap.SKIP:",
        "    if False:",
        f"{FIRE}TestOverlap",
    ),
    Mutant(
        "overlap-cancel",
        "bgtask/schedules/fire.py",
        "        Task.objects.filter(pk=last).cancel()",
        "        pass",
        f"{FIRE}TestOverlap",
    ),
    Mutant(
        "overlap-unique",
        "bgtask/schedules/fire.py",
        "    if task.was_there:",
        "    if False:",
        f"{FIRE}TestOverlap",
    ),
    Mutant(
        "edit-without-due-slots",
        "bgtask/schedules/edit.py",
        "        fire_locked(schedule, now)\n",
        "        pass\n",
        f"{EDIT}TestOperators",
    ),
    Mutant(
        "edit-without-revision",
        "bgtask/schedules/edit.py",
        "    schedule.revision += 1\n",
        "",
        f"{EDIT}TestOperators",
    ),
    Mutant(
        "resume-with-misfires",
        "bgtask/schedules/edit.py",
        "    schedule.next_at = as_stored(definition.timetable.after(now))",
        "    pass",
        f"{EDIT}TestOperators",
    ),
    Mutant(
        "declare-over-override",
        "bgtask/schedules/declaring.py",
        "Definition.of(schedule) if schedule.is_overridden else one.definition",
        "one.definition",
        f"{EDIT}TestDeclaring",
    ),
    Mutant(
        "declare-over-admin",
        "bgtask/schedules/declaring.py",
        "            elif row.source != Source.CODE:",
        "            elif False:",
        f"{EDIT}TestDeclaring",
    ),
    Mutant(
        "retire-too-soon",
        "bgtask/schedules/declaring.py",
        "declared_at__lt=DatabaseNow(-RETIRE_SECONDS)",
        "declared_at__lt=DatabaseNow()",
        f"{EDIT}TestDeclaring",
    ),
    Mutant(
        "retired-for-ever",
        "bgtask/schedules/declaring.py",
        "        schedule.retired_at = None\n",
        "",
        f"{EDIT}TestDeclaring",
    ),
    Mutant(
        "clock-set-back-is-ignored",
        "bgtask/schedules/declaring.py",
        "            total += ours.update(next_at=following)",
        "            total += 0",
        f"{EDIT}TestClock",
    ),
    Mutant(
        "slots-all-pruned",
        "bgtask/schedules/retention.py",
        "old = [id_ for id_ in ids if id_ < first]",
        "old = ids",
        f"{EDIT}TestPruning",
    ),
    Mutant(
        "misfire-none-grace",
        "bgtask/schedules/decide.py",
        "    if next_at >= limit:",
        "    if next_at > now:",
        f"{DECIDE}test_none_has_an_exact_limit",
    ),
    Mutant(
        "misfire-all-unbounded",
        "bgtask/schedules/decide.py",
        " and len(decided) < MAX_SLOTS:",
        ":",
        f"{DECIDE}test_all_decides_so_many_slots_in_a_turn_and_goes_on",
    ),
    Mutant(
        "fixed-time-twice",
        "bgtask/schedules/cron.py",
        "            found.add(min(real))",
        "            found.update(real)",
        f"{SLOTS}test_slots_are_those_of_debian_cron",
    ),
    Mutant(
        "gap-left-out",
        "bgtask/schedules/cron.py",
        "            found.add(_end_of_gap(local, zone))",
        "            pass",
        f"{SLOTS}test_slots_are_those_of_debian_cron",
    ),
    Mutant(
        "past-slot-in-doubled-hour",
        "bgtask/schedules/timetable.py",
        "                        if slot > moment:",
        "                        if True:",
        f"{SLOTS}test_slots_are_those_of_debian_cron",
    ),
    Mutant(
        "late-without-grace",
        "bgtask/models/schedule.py",
        'late_by__gt=F("grace") + seconds',
        "late_by__gt=seconds",
        LATE,
    ),
    Mutant(
        "late-without-code",
        "bgtask/models/schedule.py",
        "        late: ScheduleQuerySet = self.expected()",
        "        late: ScheduleQuerySet = self.active()",
        LATE,
    ),
    Mutant(
        "schedule-buttons-for-all",
        "bgtask_admin/schedules/acts.py",
        "    if not request.user.has_perm(permission):",
        "    if False:",
        f"{PAGES}TestPermissions",
    ),
    Mutant(
        "schedule-arguments-for-all",
        "bgtask_admin/schedules/editing.py",
        "        is_new=False,\n        hides_arguments=not Details.of(request.user).arguments,",
        "        is_new=False,",
        f"{PAGES}TestPermissions",
    ),
)
