"""Mutants of what a project gives: texts of its own types, functions, clocks and settings."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CALLS = "tests/bgtask/test_calls.py::"
CHECKS = "tests/bgtask/test_checks.py::"
CLOCKS = "tests/bgtask/test_frozen_clocks.py::"
OPTIONS = "tests/bgtask/test_options.py::"
PLACEMENT = "tests/bgtask/test_placement.py::"
TESTING = "tests/bgtask/test_testing.py::"
VALUES = "tests/bgtask/test_values.py::"

MUTANTS = (
    Mutant(
        "text-of-queue",
        "bgtask/options.py",
        "    queue = _text(value, name)\n",
        "    queue = str(value)\n",
        f"{VALUES}test_options_are_stored_as_their_value",
    ),
    Mutant(
        "text-of-verbose-name",
        "bgtask/options.py",
        '    name = _text(value, "verbose_name")\n',
        "    name = None\n",
        f"{VALUES}test_options_are_stored_as_their_value",
    ),
    Mutant(
        "text-of-a-stored-queue",
        "bgtask/lifecycle/enqueue.py",
        'as_text(options.get("queue")) or',
        'str(options.get("queue") or "") or',
        f"{VALUES}test_options_are_stored_as_their_value",
    ),
    Mutant(
        "text-of-a-stored-verbose-name",
        "bgtask/lifecycle/enqueue.py",
        'as_text(options.get("verbose_name")) or',
        'str(options.get("verbose_name") or "") or',
        f"{VALUES}test_options_are_stored_as_their_value",
    ),
    Mutant(
        "text-of-a-stored-name",
        "bgtask/lifecycle/enqueue.py",
        '"task_name": as_text(task_name),',
        '"task_name": str(task_name),',
        f"{VALUES}test_a_name_is_stored_as_its_value",
    ),
    Mutant(
        "text-of-a-name",
        "bgtask/decorators.py",
        "text = as_text(name) if isinstance(name, str) else None",
        "text = name if isinstance(name, str) else None",
        f"{VALUES}test_a_name_is_stored_as_its_value",
    ),
    Mutant(
        "text-of-letters",
        "bgtask/options.py",
        "names = list(values) if alone is None else [alone]",
        "names = list(values)",
        f"{VALUES}test_a_single_queue_is_served_however_it_is_given",
    ),
    Mutant(
        "text-of-no-name",
        "bgtask/options.py",
        'check_queue("" if name is None else name)',
        "check_queue(name)",
        f"{VALUES}test_a_command_called_from_code_refuses_what_is_no_queue",
    ),
    Mutant(
        "text-of-tokens",
        "bgtask/conf.py",
        "[_text(token) for token in value]",
        "[str(token) for token in value]",
        f"{VALUES}test_settings_take_any_text",
    ),
    Mutant(
        "text-of-keys",
        "bgtask/conf.py",
        "if (text := _text(key)) is None:",
        "if (text := str(key)) is None:",
        f"{VALUES}test_settings_take_any_text",
    ),
    Mutant(
        "text-that-fails",
        "bgtask/options.py",
        "    except Exception as error:  # A lazy text calls a function of the project.",
        "    except ZeroDivisionError as error:",
        f"{VALUES}test_an_option_that_cannot_be_printed_is_refused_by_an_error_of_ours",
    ),
    Mutant(
        "text-of-a-setting-that-fails",
        "bgtask/conf.py",
        "    except Exception:  # A lazy text calls a function of the project.",
        "    except ZeroDivisionError:",
        f"{VALUES}test_a_setting_that_cannot_be_printed_is_refused_by_an_error_of_ours "
        f"{VALUES}test_a_key_of_the_settings_that_cannot_be_printed_is_refused",
    ),
    Mutant(
        "text-of-a-verbose-name-that-fails",
        "bgtask/options.py",
        "        except Exception as error:  # Such as a number with thousands of digits.",
        "        except ZeroDivisionError as error:",
        f"{VALUES}test_a_verbose_name_that_is_no_text_is_refused_by_an_error_of_ours",
    ),
    Mutant(
        "description-that-fails",
        "bgtask/values.py",
        "    except Exception:\n        if isinstance(value, int):",
        "    except ZeroDivisionError:\n        if isinstance(value, int):",
        f"{VALUES}test_a_description_is_short_and_never_fails",
    ),
    Mutant(
        "description-of-any-length",
        "bgtask/values.py",
        'return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"',
        "return text",
        f"{VALUES}test_a_description_is_short_and_never_fails",
    ),
    Mutant(
        "zone-that-fails",
        "bgtask/options.py",
        "        except Exception as error:  # A project's own zone may raise anything.",
        "        except ZeroDivisionError as error:",
        f"{VALUES}test_a_datetime_whose_zone_fails_is_refused_by_an_error_of_ours",
    ),
    Mutant(
        "back-off-that-fails",
        "bgtask/options.py",
        "    except Exception:  # A project's own number may raise anything in float().",
        "    except TypeError:",
        f"{OPTIONS}test_options_refuse_an_invalid_backoff",
    ),
    Mutant(
        "settings-that-cannot-be-compared",
        "bgtask/conf.py",
        "    except Exception:  # The values are a project's own, and comparing them may fail.",
        "    except ZeroDivisionError:",
        f"{VALUES}test_a_setting_that_cannot_be_compared_with_the_former_one_is_read",
    ),
    Mutant(
        "settings-changed-in-place",
        "bgtask/conf.py",
        "        _read = deepcopy(raw)",
        "        _read = raw",
        "tests/bgtask/test_conf.py::test_any_change_of_the_settings_takes_effect",
    ),
    Mutant(
        "options-by-both-names",
        "bgtask/options.py",
        "if first in options and second in options:",
        "if False:",
        f"{OPTIONS}test_options_refuse_both_names_at_once",
    ),
    Mutant(
        "placement-not-checked",
        "bgtask/decorators.py",
        "        check_placement(function.__module__, code.co_filename, where)\n",
        "        pass\n",
        f"{PLACEMENT}test_a_function_of_the_file_that_is_run_is_refused_with_what_to_do",
    ),
    Mutant(
        "placement-of-a-named-function",
        "bgtask/decorators.py",
        "    if name is None:\n        check_placement",
        "    if True:\n        check_placement",
        f"{PLACEMENT}test_a_function_of_the_file_that_is_run_is_taken_if_it_has_a_name",
    ),
    Mutant(
        "placement-in-main",
        "bgtask/placement.py",
        'if module_name in ("__main__", "__mp_main__"):',
        "if False:",
        f"{PLACEMENT}test_a_function_of_the_file_that_is_run_is_refused_with_what_to_do",
    ),
    Mutant(
        "placement-in-a-module-run-with-m",
        "bgtask/placement.py",
        "    if own_name is not None:\n",
        "    if False:\n",
        f"{PLACEMENT}test_a_function_of_a_module_run_with_m_is_refused_with_its_name_in_workers",
    ),
    Mutant(
        "placement-in-a-shell",
        "bgtask/placement.py",
        "if _is_typed(filename) or module is None or spec is None:",
        "if module is None or spec is None:",
        f"{PLACEMENT}test_a_function_typed_into_the_shell_is_refused_with_what_to_do",
    ),
    Mutant(
        "placement-in-no-file",
        "bgtask/placement.py",
        "if _is_typed(filename) or module is None or spec is None:",
        "if _is_typed(filename):",
        f"{PLACEMENT}test_a_function_of_a_module_that_no_import_finds_is_refused",
    ),
    Mutant(
        "clock-that-tests-freeze",
        "bgtask/clock.py",
        "    monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC)\n",
        "    monotonic = time.monotonic\n",
        f"{CLOCKS}test_the_clock_for_durations_moves_while_all_others_stand_still",
    ),
    Mutant(
        "clock-of-another-module",
        "bgtask/worker/pool.py",
        "        self._claimed_at = clock.monotonic()\n",
        "        self._claimed_at = time.monotonic()\n",
        f"{CLOCKS}test_no_other_module_measures_time_by_itself",
    ),
    Mutant(
        "parameters-named-self",
        "bgtask/decorators.py",
        "def __call__(self, /, *args: Any, **kwargs: Any) -> Task:",
        "def __call__(self, *args: Any, **kwargs: Any) -> Task:",
        f"{CALLS}test_self_is_no_option {CALLS}test_a_parameter_may_have_any_name",
    ),
    Mutant(
        "parameters-named-self-of-enqueue",
        "bgtask/decorators.py",
        "def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> Task:",
        "def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Task:",
        f"{CALLS}test_self_is_no_option {CALLS}test_a_parameter_may_have_any_name",
    ),
    Mutant(
        "parameters-by-position",
        "bgtask/testing.py",
        "            params = signature.bind(*args, **kwargs).arguments\n",
        "            pass\n",
        f"{TESTING}test_parameters_are_compared_by_name_however_they_were_passed",
    ),
    Mutant(
        "parameters-in-any-order",
        "bgtask/testing.py",
        "return json.dumps(params, sort_keys=True)",
        "return json.dumps(params)",
        f"{TESTING}test_dictionaries_among_the_parameters_are_the_same_in_any_order",
    ),
    Mutant(
        "parameters-that-do-not-fit",
        "bgtask/testing.py",
        "            function.bind(args, kwargs)\n",
        "            pass\n",
        f"{TESTING}test_enqueued_refuses_parameters_that_do_not_fit",
    ),
    Mutant(
        "parameter-named-times",
        "bgtask/testing.py",
        'None if "times" in _parameters(name) else kwargs.pop("times", None)',
        'kwargs.pop("times", None)',
        f"{TESTING}test_a_parameter_named_like_one_of_the_helpers_is_the_functions_own",
    ),
    Mutant(
        "autocommit-off",
        "bgtask/conf.py",
        '    if not connections[alias].settings_dict["AUTOCOMMIT"]:\n',
        "    if False:\n",
        f"{CHECKS}test_a_runner_refuses_to_start_without_autocommit",
    ),
)
