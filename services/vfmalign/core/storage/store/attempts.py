"""Calls the object store. Repeats calls after transient failures, and measures their duration."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from vfmalign.core.domain.errors import StoreUnavailable, VfmalignError
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.work_context import current_work
from vfmalign.core.storage.store.errors import CLIENT_ERRORS, StoreErrors, is_transient

Operation = Literal["get", "head", "list", "put", "delete", "bucket", "probe"]
"""Kinds of calls, as metrics name them; `bucket` asks for the bucket or creates it."""

_T = TypeVar("_T")


class Attempts:
    """Makes calls to one bucket of the object store.

    Args:
        errors: creates the errors for failed requests to the bucket.
        count: maximum number of attempts for each call.
    """

    def __init__(self, errors: StoreErrors, count: int) -> None:
        self._errors, self._count = errors, count
        # From 0 on, because an alert on an increase does not see a series that begins with a failure.
        for operation in get_args(Operation):
            metrics.store_failures.labels(operation)
            for outcome in ("answered", "failed"):
                metrics.store_attempts.labels(operation, outcome)

    def run(
        self, operation: Operation, name: str, call: Callable[[], _T], check: Callable[[], None] | None = None
    ) -> _T:
        """Repeats a call until it succeeds or fails permanently. Returns the result of the call.

        Args:
            operation: kind of the call.
            name: name of the object in the bucket, for error messages.
            call: makes one attempt.
            check: function that is called before each attempt. If this function raises an error, the attempt is not
                made.

        Raises:
            VfmalignError: the last attempt failed.
        """

        def begin(_: RetryCallState) -> None:
            current_work.get().checkpoint()
            if check is not None:
                check()

        policy = Retrying(
            before=begin,
            stop=stop_after_attempt(self._count),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            retry=retry_if_exception(is_transient),
            reraise=True,
        )
        try:
            with current_work.get().waiting_for(f"object store: {operation}"):
                result: _T = policy(self._make, operation, name, call)
            return result
        except (StoreUnavailable, *CLIENT_ERRORS) as error:
            failure = self._to_failure(name, error)
            if isinstance(failure, StoreUnavailable):
                metrics.store_failures.labels(operation).inc()
            raise failure from None

    def _make(self, operation: Operation, name: str, call: Callable[[], _T]) -> _T:
        """Makes one attempt."""
        started, outcome = time.perf_counter(), "answered"
        try:
            return call()
        except (StoreUnavailable, *CLIENT_ERRORS) as error:
            if isinstance(self._to_failure(name, error), StoreUnavailable):
                outcome = "failed"
            raise
        finally:
            metrics.store_seconds.labels(operation).observe(time.perf_counter() - started)
            metrics.store_attempts.labels(operation, outcome).inc()

    def _to_failure(self, name: str, error: Exception) -> VfmalignError:
        return error if isinstance(error, VfmalignError) else self._errors.from_client_error(name, error)
