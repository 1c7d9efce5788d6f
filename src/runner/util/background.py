"""Do something beside the main thread, without which the process may end."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread


class _Task(Future[None]):
    """A task, which is over when its thread is: one that frees memory while Python ends would abort the process."""

    thread: Thread

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = super().exception(timeout)
        self.thread.join()
        return error


def in_background(task: Callable[[], None], name: str) -> Future[None]:
    """Start a task in a thread of its own, which does not keep the process from ending.

    Args:
        task: what is to be done.
        name: of the thread.

    Returns:
        Done when the task is; it has the task's error.
    """
    future = _Task()

    def run() -> None:
        try:
            task()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    future.thread = Thread(target=run, name=name, daemon=True)
    future.thread.start()
    return future
