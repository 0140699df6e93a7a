"""Tasks are worked on here or elsewhere; what they decide is the same."""

from __future__ import annotations

import pytest

from medidiff.study.executor import LocalPool, Serial, threads

DIES = "__import__('os')._exit(3)"


def test_a_process_that_dies_costs_its_own_task_only() -> None:
    """Every other result is there, once; the dead one's is None."""
    tasks = ["1 + 1", DIES, "2 + 2", "3 + 3"]
    outcomes = {outcome.task: outcome.result for outcome in LocalPool(2).run(tasks, eval)}
    assert outcomes == {"1 + 1": 2, DIES: None, "2 + 2": 4, "3 + 3": 6}


def test_serial_works_in_order() -> None:
    assert [outcome.result for outcome in Serial().run([-1, -2], abs)] == [1, 2]


def test_workers_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """N workers use no more threads than one would, and never less than one each."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(8))
    assert [threads(n) for n in (1, 2, 3, 4, 99)] == [4, 4, 2, 2, 1]
