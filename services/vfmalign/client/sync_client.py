"""Synchronous client of a deployment, which runs the asynchronous client on its own event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from vfmalign.client.async_client import AsyncClient
from vfmalign.client.erasure import AsyncErasuresClient
from vfmalign.client.features import AsyncFeaturesClient
from vfmalign.client.imports import AsyncDatasetsClient, AsyncModelsClient
from vfmalign.client.mmd import AsyncMmdClient
from vfmalign.client.monitors import AsyncMonitorsClient
from vfmalign.client.operations import AsyncChecksClient, AsyncExperimentsClient, AsyncJobsClient

P = ParamSpec("P")
T = TypeVar("T")
WrappedT_co = TypeVar("WrappedT_co", covariant=True)


class EventLoopThread:
    """An event loop in a daemon thread, which runs coroutines for other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vfmalign-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end. If this thread is interrupted, cancels the coroutine."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._loop.is_closed()

    def close(self) -> None:
        """Ends the loop and its thread."""
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _SubClient(Generic[WrappedT_co]):
    """Blocking methods of an asynchronous sub-client."""

    def __init__(self, wrapped: WrappedT_co, thread: EventLoopThread) -> None:
        self._wrapped = wrapped
        self._thread = thread


def _blocking(
    method: Callable[Concatenate[WrappedT_co, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_SubClient[WrappedT_co], P], T]:
    """The blocking form of a coroutine method, with its signature and docstring."""

    @wraps(method)
    def call(self: _SubClient[WrappedT_co], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(method(self._wrapped, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[WrappedT_co, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[_SubClient[WrappedT_co], P], Iterator[T]]:
    """The blocking form of an asynchronous generator method."""

    @wraps(method)
    def call(self: _SubClient[WrappedT_co], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        generator = method(self._wrapped, *args, **kwargs)
        try:
            while True:
                try:
                    item = self._thread.run(generator.__anext__())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            # Ends the call on the server if the caller stops early.
            self._thread.run(generator.aclose())

    return call


class FeaturesClient(_SubClient[AsyncFeaturesClient]):
    """Extracts features and lists the stored models and datasets."""

    extract = _blocking(AsyncFeaturesClient.extract)
    upload_study = _blocking(AsyncFeaturesClient.upload_study)
    extract_dataset = _blocking(AsyncFeaturesClient.extract_dataset)
    get_model = _blocking(AsyncFeaturesClient.get_model)
    list_models = _blocking(AsyncFeaturesClient.list_models)
    get_dataset = _blocking(AsyncFeaturesClient.get_dataset)
    list_datasets = _blocking(AsyncFeaturesClient.list_datasets)
    delete_dataset = _blocking(AsyncFeaturesClient.delete_dataset)
    delete_model = _blocking(AsyncFeaturesClient.delete_model)
    delete_feature_set = _blocking(AsyncFeaturesClient.delete_feature_set)
    get_feature_set = _blocking(AsyncFeaturesClient.get_feature_set)
    list_feature_sets = _blocking(AsyncFeaturesClient.list_feature_sets)


class DatasetsClient(_SubClient[AsyncDatasetsClient]):
    """Imports datasets."""

    upload = _blocking(AsyncDatasetsClient.upload)
    publish = _blocking(AsyncDatasetsClient.publish)


class ModelsClient(_SubClient[AsyncModelsClient]):
    """Imports models."""

    upload = _blocking(AsyncModelsClient.upload)
    publish = _blocking(AsyncModelsClient.publish)


class MmdClient(_SubClient[AsyncMmdClient]):
    """Computes MMD² between samples of features."""

    compute = _blocking(AsyncMmdClient.compute)
    upload = _blocking(AsyncMmdClient.upload)


class JobsClient(_SubClient[AsyncJobsClient]):
    """Training jobs."""

    create = _blocking(AsyncJobsClient.create)
    get = _blocking(AsyncJobsClient.get)
    list = _blocking(AsyncJobsClient.list)
    cancel = _blocking(AsyncJobsClient.cancel)
    retry = _blocking(AsyncJobsClient.retry)
    delete = _blocking(AsyncJobsClient.delete)
    watch = _iterating(AsyncJobsClient.watch)
    wait = _blocking(AsyncJobsClient.wait)


class ChecksClient(_SubClient[AsyncChecksClient]):
    """Alignment checks."""

    create = _blocking(AsyncChecksClient.create)
    create_with_plans = _blocking(AsyncChecksClient.create_with_plans)
    get = _blocking(AsyncChecksClient.get)
    list = _blocking(AsyncChecksClient.list)
    cancel = _blocking(AsyncChecksClient.cancel)
    retry = _blocking(AsyncChecksClient.retry)
    delete = _blocking(AsyncChecksClient.delete)
    watch = _iterating(AsyncChecksClient.watch)
    wait = _blocking(AsyncChecksClient.wait)
    get_report = _blocking(AsyncChecksClient.get_report)


class ExperimentsClient(_SubClient[AsyncExperimentsClient]):
    """Client of experiments: models × tasks × seeds."""

    create = _blocking(AsyncExperimentsClient.create)
    get = _blocking(AsyncExperimentsClient.get)
    list = _blocking(AsyncExperimentsClient.list)
    cancel = _blocking(AsyncExperimentsClient.cancel)
    retry = _blocking(AsyncExperimentsClient.retry)
    delete = _blocking(AsyncExperimentsClient.delete)
    watch = _iterating(AsyncExperimentsClient.watch)
    wait = _blocking(AsyncExperimentsClient.wait)
    get_report = _blocking(AsyncExperimentsClient.get_report)


class MonitorsClient(_SubClient[AsyncMonitorsClient]):
    """Drift monitors."""

    create = _blocking(AsyncMonitorsClient.create)
    get = _blocking(AsyncMonitorsClient.get)
    list = _blocking(AsyncMonitorsClient.list)
    observe = _blocking(AsyncMonitorsClient.observe)
    observe_feature_set = _blocking(AsyncMonitorsClient.observe_feature_set)
    watch = _iterating(AsyncMonitorsClient.watch)
    acknowledge = _blocking(AsyncMonitorsClient.acknowledge)
    replace_reference = _blocking(AsyncMonitorsClient.replace_reference)
    update = _blocking(AsyncMonitorsClient.update)
    pause = _blocking(AsyncMonitorsClient.pause)
    resume = _blocking(AsyncMonitorsClient.resume)
    delete = _blocking(AsyncMonitorsClient.delete)
    get_report = _blocking(AsyncMonitorsClient.get_report)


class ErasuresClient(_SubClient[AsyncErasuresClient]):
    """Erasures of patients."""

    erase = _blocking(AsyncErasuresClient.erase)
    get = _blocking(AsyncErasuresClient.get)


class Client:
    """Calls the services of a deployment and waits for their answers.

    Takes the same arguments as `AsyncClient`. The sub-clients have the same methods, but these methods block. Threads
    may share a client. Callbacks such as `on_progress` run in the client's own thread.
    """

    def __init__(self, **arguments: Any) -> None:
        self._async = AsyncClient(**arguments)
        self._thread = EventLoopThread()
        self.features = FeaturesClient(self._async.features, self._thread)
        self.datasets = DatasetsClient(self._async.datasets, self._thread)
        self.models = ModelsClient(self._async.models, self._thread)
        self.mmd = MmdClient(self._async.mmd, self._thread)
        self.jobs = JobsClient(self._async.jobs, self._thread)
        self.checks = ChecksClient(self._async.checks, self._thread)
        self.experiments = ExperimentsClient(self._async.experiments, self._thread)
        self.monitors = MonitorsClient(self._async.monitors, self._thread)
        self.erasures = ErasuresClient(self._async.erasures, self._thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channels and ends the client's thread. Further calls have no effect."""
        if not self._thread.closed:
            self._thread.run(self._async.close())
            self._thread.close()
