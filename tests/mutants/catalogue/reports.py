"""
Mutants of how failures are reported, and of threads that go on if a project's code raises.

The module is long because it is a list.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

FAILURES = "tests/bgtask/test_failures.py::"
REPORTS = "tests/bgtask/test_error_reports.py::"
SERVICES = "tests/bgtask/worker/test_services.py::"
SIGNALS = "tests/bgtask/test_signals.py::"

MUTANTS = (
    Mutant(
        "report-final-failure-without-exception",
        "bgtask/worker/events.py",
        "if level == logging.ERROR and error is not None and failure is not None:",
        "if False:",
        f"{REPORTS}test_the_record_of_a_final_failure_has_the_exception_and_no_traceback_in_its_message",
    ),
    Mutant(
        "report-retry-with-exception",
        "bgtask/worker/events.py",
        "if level == logging.ERROR and error is not None and failure is not None:",
        "if error is not None and failure is not None:",
        f"{REPORTS}test_a_failure_that_will_be_retried_is_one_line_without_a_traceback",
    ),
    Mutant(
        "report-retry-as-error",
        "bgtask/worker/events.py",
        'Status.SCHEDULED: (logging.WARNING, "will be tried again")',
        'Status.SCHEDULED: (logging.ERROR, "will be tried again")',
        f"{REPORTS}test_a_retry_sends_no_mail",
    ),
    Mutant(
        "report-own-attributes",
        "bgtask/worker/events.py",
        '"bgtask_task_name": task.task_name,',
        '"task_name": task.task_name,',
        f"{REPORTS}test_the_record_names_the_task_in_attributes_of_its_own",
    ),
    Mutant(
        "report-colliding-attributes",
        "bgtask/worker/events.py",
        '"bgtask_task_id": task.pk,',
        '"bgtask_task_id": task.pk, "task_id": task.pk,',
        f"{REPORTS}test_the_attributes_do_not_collide_with_those_of_a_record_factory",
    ),
    Mutant(
        "report-without-error-class",
        "bgtask/worker/events.py",
        '        facts["bgtask_error_class"] = failure.error_class\n',
        "",
        f"{REPORTS}test_the_record_names_the_task_in_attributes_of_its_own",
    ),
    Mutant(
        "report-without-facts",
        "bgtask/worker/events.py",
        "text=text, extra=facts",
        "text=text, extra={}",
        f"{REPORTS}test_the_attributes_do_not_collide_with_those_of_a_record_factory",
    ),
    Mutant(
        "report-unmasked-traceback",
        "bgtask/loggers.py",
        "            record.exc_text = text\n",
        "",
        f"{REPORTS}test_text_logs_get_the_traceback_that_is_stored",
    ),
    Mutant(
        "report-whole-message-as-subject",
        "bgtask/failures.py",
        'cut_end(f"{self.error_class}: {first_line(self.message, 100)}".rstrip(), 100)',
        'f"{self.error_class}: {self.message}"',
        f"{REPORTS}test_a_long_message_does_not_make_a_long_subject "
        f"{REPORTS}test_a_failure_that_will_be_retried_is_one_line_without_a_traceback",
    ),
    Mutant(
        "report-malformed-with-frames",
        "bgtask/worker/executor.py",
        "        set_traceback(error, None)  # The task was not called, so its frames are all of bgtask.\n",
        "",
        f"{REPORTS}test_a_malformed_row_is_reported_without_frames_of_bgtask",
    ),
    Mutant(
        "report-keeps-local-variables",
        "bgtask/worker/pool.py",
        "                clear_frames(outcome.exception)\n",
        "                pass\n",
        f"{REPORTS}test_an_error_that_waits_to_be_dispatched_does_not_keep_what_its_task_held",
    ),
    Mutant(
        "report-keeps-local-variables-of-causes",
        "bgtask/failures.py",
        "        left += [link.__cause__, link.__context__]\n",
        "",
        f"{FAILURES}test_an_error_keeps_no_local_variables_after_its_frames_are_cleared",
    ),
    Mutant(
        "report-keeps-local-variables-of-groups",
        "bgtask/failures.py",
        "            left += link.exceptions\n",
        "            pass\n",
        f"{FAILURES}test_an_error_keeps_no_local_variables_after_its_frames_are_cleared",
    ),
    Mutant(
        "message-without-its-beginning",
        "bgtask/failures.py",
        "return _storable(text, MAX_MESSAGE_CHARACTERS, cut_end)",
        "return _storable(text, MAX_MESSAGE_CHARACTERS, _cut_middle)",
        f"{FAILURES}test_a_long_message_keeps_its_beginning_and_shows_that_it_was_cut",
    ),
    Mutant(
        "message-without-notes",
        "bgtask/failures.py",
        '"\\n".join(filter(None, [text, *_notes_of(error)]))',
        "text",
        f"{FAILURES}test_the_message_is_what_the_error_says_and_not_a_line_of_its_traceback",
    ),
    Mutant(
        "message-of-notes-as-fingerprint",
        "bgtask/failures.py",
        'message if text else "")',
        "message)",
        f"{FAILURES}test_a_note_changes_no_fingerprint",
    ),
    Mutant(
        "message-of-any-notes",
        "bgtask/failures.py",
        "    except BaseException:  # __notes__ can be set to anything.\n        return []",
        "    except ZeroDivisionError:\n        return []",
        f"{FAILURES}test_hostile_exceptions_are_described_by_storable_text",
    ),
    Mutant(
        "message-whose-str-exits",
        "bgtask/failures.py",
        "    except BaseException as problem:\n        # An error's __str__",
        "    except Exception as problem:\n        # An error's __str__",
        f"{FAILURES}test_hostile_exceptions_are_described_by_storable_text",
    ),
    Mutant(
        "catch-exceptions-only",
        "bgtask/loggers.py",
        "if error is None or is_ctrl_c(error):",
        "if not isinstance(error, Exception):",
        f"{SERVICES}test_the_completer_goes_on_after_its_callback_raised",
    ),
    Mutant(
        "catch-ctrl-c",
        "bgtask/loggers.py",
        "if error is None or is_ctrl_c(error):",
        "if error is None:",
        f"{SERVICES}test_ctrl_c_passes_in_the_main_thread_only",
    ),
    Mutant(
        "catch-not-in-threads",
        "bgtask/loggers.py",
        "        and threading.current_thread() is threading.main_thread()\n",
        "",
        f"{SERVICES}test_ctrl_c_passes_in_the_main_thread_only",
    ),
    Mutant(
        "catch-completer",
        "bgtask/worker/completer.py",
        'with logger.catch("%d outcomes are written, but could not be handled.", len(batch)):',
        "if True:",
        f"{SERVICES}test_the_completer_goes_on_after_its_callback_raised",
    ),
    Mutant(
        "catch-maintenance",
        "bgtask/worker/maintenance.py",
        'with logger.catch("The chore %r failed.", chore.name):',
        "if True:",
        f"{SERVICES}test_maintenance_goes_on_after_its_callback_raised",
    ),
    Mutant(
        "catch-heartbeat",
        "bgtask/worker/heartbeat.py",
        'with logger.catch("The heartbeat of %s failed.", self.worker):',
        "if True:",
        f"{SERVICES}test_the_heartbeat_goes_on_after_its_callback_raised",
    ),
    Mutant(
        "catch-events",
        "bgtask/worker/events.py",
        'logger.caught(error, "The outcome of %s could not be logged or signalled.", outcome.task)',
        "raise",
        f"{SERVICES}test_events_after_an_outcome_that_cannot_be_logged_are_dispatched",
    ),
    Mutant(
        "catch-watchdog",
        "bgtask/worker/watchdog.py",
        'with logger.catch("A statement could not be interrupted."):',
        "if True:",
        f"{SERVICES}test_the_watchdog_goes_on_after_a_driver_raised",
    ),
    Mutant(
        "catch-supervisor",
        "bgtask/worker/supervisor.py",
        'with logger.catch("The tasks of a dead process could not be rescued at once."):',
        "if True:",
        f"{SERVICES}test_a_supervisor_whose_rescue_raised_leaves_the_tasks_to_others",
    ),
    Mutant(
        "catch-back-off",
        "bgtask/retries.py",
        '    with logger.catch("The back-off of %s failed; waiting as long as by default.", task):',
        "    if True:",
        f"{SERVICES}test_a_back_off_that_exits_ends_no_thread",
    ),
    Mutant(
        "receivers-exceptions-only",
        "bgtask/signals.py",
        "            return self.receiver(*args, **kwargs)\n        except BaseException as error:",
        "            return self.receiver(*args, **kwargs)\n        except Exception as error:",
        f"{SERVICES}test_a_receiver_that_raises_ends_no_worker {SIGNALS}test_receiver_that_raises_does_not_block_other_receivers",
    ),
    Mutant(
        "receivers-async-exceptions-only",
        "bgtask/signals.py",
        "            return await self.receiver(*args, **kwargs)\n        except BaseException as error:",
        "            return await self.receiver(*args, **kwargs)\n        except Exception as error:",
        f"{SIGNALS}test_an_async_receiver_that_raises_does_not_reach_the_code_that_enqueues",
    ),
    Mutant(
        "receivers-ctrl-c",
        "bgtask/signals.py",
        "            return self.receiver(*args, **kwargs)\n        except BaseException as error:\n"
        "            if isinstance(error, Exception) or is_ctrl_c(error):",
        "            return self.receiver(*args, **kwargs)\n        except BaseException as error:\n"
        "            if isinstance(error, Exception):",
        f"{SIGNALS}test_ctrl_c_during_a_receiver_ends_the_program",
    ),
    Mutant(
        "receivers-unnamed",
        "bgtask/signals.py",
        "return getattr(self.receiver, name)",
        "raise AttributeError(name)",
        f"{SIGNALS}test_a_receiver_that_raises_is_named_in_the_log",
    ),
    Mutant(
        "receivers-failed-for-cancelled",
        "bgtask/worker/events.py",
        "if status == Status.FAILED and signals.task_failed.receivers:",
        "if status != Status.SCHEDULED and signals.task_failed.receivers:",
        f"{SIGNALS}test_a_failed_attempt_of_a_task_to_be_cancelled_sends_neither_failed_nor_retried",
    ),
    Mutant(
        "receivers-retried-for-failed",
        "bgtask/worker/events.py",
        "if status in (Status.SCHEDULED, Status.READY) and signals.task_retried.receivers:",
        "if signals.task_retried.receivers:",
        f"{SIGNALS}test_a_last_failed_attempt_of_a_task_to_be_cancelled_sends_failed "
        f"{SIGNALS}test_each_signal_is_sent_once_after_its_event_is_stored",
    ),
    Mutant(
        "handlers-exceptions-only",
        "bgtask/loggers.py",
        "            super().log(level, msg, *args, **kwargs)\n        except BaseException as error:",
        "            super().log(level, msg, *args, **kwargs)\n        except Exception as error:",
        f"{SERVICES}test_a_log_handler_that_raises_ends_no_worker",
    ),
    Mutant(
        "handlers-of-exceptions-only",
        "bgtask/loggers.py",
        "        except BaseException as problem:\n",
        "        except Exception as problem:\n",
        f"{SERVICES}test_signals_are_sent_although_a_log_handler_raised",
    ),
    Mutant(
        "handlers-reported-each-time",
        "bgtask/loggers.py",
        "    _reported.add(type(error))\n",
        "",
        f"{SERVICES}test_a_log_handler_that_raises_ends_no_worker",
    ),
    Mutant(
        "handlers-place-of-the-code",
        "bgtask/loggers.py",
        'kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1',
        'kwargs["stacklevel"] = kwargs.get("stacklevel", 1)',
        f"{SERVICES}test_the_logger_names_the_code_that_logs",
    ),
    Mutant(
        "handlers-place-of-an-exception",
        "bgtask/loggers.py",
        "self.logger.findCaller(stacklevel=2)",
        "self.logger.findCaller(stacklevel=1)",
        f"{SERVICES}test_the_logger_names_the_code_that_logs",
    ),
)
