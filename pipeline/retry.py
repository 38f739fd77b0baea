"""An outage is waited for, within a deadline; a data error is narrowed down to its event."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
import tenacity

from schemas.errors import DataError, OutageError

T = TypeVar("T")
R = TypeVar("R")

log = structlog.get_logger("salience")


async def through_outage(
    step: Callable[[], Awaitable[R]],
    deadline: float,
    noticed: Callable[[str], None] = lambda reason: None,
    of: type[OutageError] = OutageError,
) -> R:
    """Run `step`, again and again while something around us is away, for `deadline` seconds at most.

    `noticed` is told the reason of each failure; `of` is the kind of failure that is waited for.

    Raises:
        OutageError: the deadline has passed and it is still away.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, OutageError):
            return
        noticed(error.reason)
        if state.attempt_number > 1:
            log.warning("waiting", reason=error.reason, attempt=state.attempt_number, message=str(error))

    attempts = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(of),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=5.0),
        stop=tenacity.stop_after_delay(deadline),
        before_sleep=tell,
        reraise=True,
    )

    async def attempt() -> R:
        return await step()

    return await attempts(attempt)


async def bisect(
    items: Sequence[T], step: Callable[[Sequence[T]], Awaitable[list[R]]]
) -> tuple[list[R], list[tuple[T, DataError]]]:
    """Run `step` over the items; when it refuses them, halve until only the culprits are left out.

    Results keep the order of the items. One culprit among n costs about 2 log2(n) calls.
    """
    if not items:
        return [], []
    try:
        return await step(items), []
    except DataError as error:
        if len(items) == 1:
            return [], [(items[0], error)]
    middle = len(items) // 2
    left, left_out = await bisect(items[:middle], step)
    right, right_out = await bisect(items[middle:], step)
    return left + right, left_out + right_out
