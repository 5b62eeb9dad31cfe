"""Take back what a block has done when it fails.

Unlike an `ExitStack`, a step back that fails replaces nothing: it becomes a note on the error
that made it necessary, and the other steps are taken all the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

__all__ = ["Undo", "on_failure"]

P = ParamSpec("P")


class Undo:
    """The steps back, in the order of the steps forward."""

    def __init__(self) -> None:
        #: the last one is taken back first
        self.steps: list[Callable[[], object]] = []

    def add(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Remember how the step that was just made is taken back."""
        self.steps.append(lambda: function(*args, **kwargs))

    def take(self, other: "Undo") -> None:
        """Take over the steps of one whose block is done."""
        self.steps += other.steps

    def run(self, error: BaseException) -> None:
        """Take all steps back, the last one first; what fails is noted on the error."""
        while self.steps:
            try:
                self.steps.pop()()
            except OSError as failure:
                error.add_note(f"undoing it: {failure}")


@contextmanager
def on_failure(outer: Undo | None = None) -> Iterator[Undo]:
    """Give the block an `Undo` that is run if the block raises.

    When it does not, `outer` takes the steps over: what follows may fail as well.
    """
    undo = Undo()
    try:
        yield undo
    except BaseException as error:
        undo.run(error)
        raise
    if outer is not None:
        outer.take(undo)
