"""Commands that go on until they are told to stop."""

from __future__ import annotations

import signal
import threading

from exclave.cli.ending import Told, told_to_end


def test_waiting_ends_when_it_is_told() -> None:
    """True once it is told, at once if it was before; False after the time that was given."""
    told = Told()
    assert told.wait(0) is False
    assert told.wait(0.01) is False
    threading.Timer(0.1, told.set).start()
    assert told.wait() is True
    assert told.wait(60) is True


def test_a_signal_that_another_thread_takes_is_heard() -> None:
    """The first thread waits; the signal goes to a thread that does something else."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        told = told_to_end()
        started, over = threading.Event(), threading.Event()

        def other() -> None:
            started.wait()
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            over.wait()

        thread = threading.Thread(target=other)
        thread.start()
        started.set()
        assert told.wait(120) is True
        over.set()
        thread.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_outside_the_first_thread_signals_act_as_usual() -> None:
    """No handler is set there, and nothing is told."""
    before = signal.getsignal(signal.SIGTERM)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(told_to_end().is_set()))
    thread.start()
    thread.join()
    assert found == [False]
    assert signal.getsignal(signal.SIGTERM) is before
