"""Short jobs of a worker without servers run in the event loop, all others in threads; results are the same."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from dovetail.platform.runtime.computing import SHORT_S, Computing, compute, finish, install


class Clock:
    """Seconds, moved by the jobs themselves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def job(self, seconds: float) -> threading.Thread:
        """Take so long; the thread it ran in."""
        self.now += seconds
        return threading.current_thread()


def places(jobs: list[float], *, local: bool = True) -> str:
    """Where jobs ran that take so long: ``h``ere, in the loop, or ``t``hread."""
    clock = Clock()

    async def main() -> str:
        install(Computing(local=local, seconds=clock))
        ran = [await compute(clock.job, seconds) for seconds in jobs]
        return "".join("h" if thread is threading.current_thread() else "t" for thread in ran)

    return asyncio.run(main())


def test_a_job_whose_kind_was_short_runs_in_the_loop() -> None:
    assert places([0.001] * 4) == "thhh"


def test_a_job_whose_kind_was_long_runs_in_a_thread_until_that_is_forgotten() -> None:
    ran = places([0.001, SHORT_S * 2, *[0.001] * 20])
    assert ran.startswith("tht")
    assert ran.endswith("h")
    assert ran == "th" + "t" * ran[2:].count("t") + "h" * ran[2:].count("h")


def test_all_run_in_threads_where_a_server_may_be_waited_for() -> None:
    assert places([0.001] * 4, local=False) == "tttt"


def test_without_a_runtime_all_run_in_threads() -> None:
    async def main() -> bool:
        return await compute(threading.current_thread) is threading.current_thread()

    assert not asyncio.run(main())


def test_kinds_are_told_apart_whatever_binds_their_arguments() -> None:
    clock = Clock()

    def short(name: str) -> str:
        return name + threading.current_thread().name

    async def main() -> list[str]:
        install(Computing(local=True, seconds=clock))
        await compute(clock.job, 1.0)
        return [await compute(short, "a"), await compute(partial(short, "a")), await compute(partial(short), name="a")]

    first, *others = asyncio.run(main())
    here = threading.current_thread().name
    assert first != f"a{here}"
    assert others == [f"a{here}"] * 2


@pytest.mark.parametrize("seconds", [0.001, 1.0])
def test_what_a_job_raises_is_raised(seconds: float) -> None:
    clock = Clock()

    def fails() -> None:
        clock.job(seconds)
        raise ValueError("no")

    async def main() -> None:
        install(Computing(local=True, seconds=clock))
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                await compute(fails)

    asyncio.run(main())


def test_other_tasks_get_a_turn_between_jobs() -> None:
    said: list[str] = []

    async def says(name: str) -> None:
        for _ in range(3):
            await compute(said.append, name)

    async def main() -> None:
        install(Computing(local=True, seconds=Clock()))
        await compute(said.append, "first")
        await asyncio.gather(says("a"), says("b"))

    asyncio.run(main())
    assert said == ["first", "a", "b", "a", "b", "a", "b"]


def test_a_cancelled_job_in_the_loop_has_been_done() -> None:
    done: list[int] = []

    async def main() -> None:
        install(Computing(local=True, seconds=Clock()))
        await compute(done.append, 0)
        task = asyncio.create_task(compute(done.append, 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert done == [0, 1]


@pytest.mark.parametrize("local", [True, False])
def test_a_job_to_be_finished_is_over_when_who_waits_is_cancelled(*, local: bool) -> None:
    done: list[int] = []

    def job(number: int, begun: threading.Event, go_on: threading.Event) -> None:
        begun.set()
        go_on.wait()
        done.append(number)

    async def main() -> None:
        install(Computing(local=local, seconds=lambda: 0.0))
        for number in range(2):
            begun, go_on = threading.Event(), threading.Event()
            # The first of its kind runs in a thread, the second in the loop where that may be: nobody could let it go.
            in_loop = local and number == 1
            if in_loop:
                go_on.set()
            task = asyncio.ensure_future(finish(partial(job, number, begun, go_on)))
            if in_loop:
                await asyncio.sleep(0)
            else:
                await asyncio.to_thread(begun.wait)
            task.cancel()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert done == list(range(number + 1))

    asyncio.run(main())


def test_with_servers_jobs_share_a_thread_and_commits_do_not_keep_them_waiting() -> None:
    go_on = threading.Event()

    async def main() -> None:
        computing = Computing(local=False)
        install(computing)
        waiting = asyncio.ensure_future(finish(go_on.wait))
        first, second = await asyncio.gather(compute(threading.current_thread), compute(threading.current_thread))
        assert first is second is not threading.current_thread()
        go_on.set()
        assert await waiting
        computing.close()

    asyncio.run(main())
