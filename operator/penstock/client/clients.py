"""The two clients. They differ in nothing but how they wait; a test holds their methods to each other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO, Self

from penstock.client.errors import PenstockError
from penstock.client.operations import Operations
from penstock.client.types import (
    DataObject,
    ExecutionInfo,
    FileInput,
    Inputs,
    InputSource,
    OnProgress,
    OutputDestination,
    PipelineInfo,
    Result,
    Retry,
)

_NO_URL = "give the URL of an environment, such as https://penstock.example/environments/team, or set PENSTOCK_URL"


def _operations(url: str | None, token: str | None, retry: Retry | None) -> Operations:
    found = (url or os.environ.get("PENSTOCK_URL") or "").rstrip("/")
    if not found.startswith(("http://", "https://")):
        raise PenstockError(_NO_URL)
    return Operations(found, token or os.environ.get("PENSTOCK_TOKEN") or None, retry or Retry())


def _waits(wait_for_results: bool, wait_for_completion: bool | None) -> bool:
    """The newer name goes before the older one."""
    return wait_for_results if wait_for_completion is None else wait_for_completion


class Client:
    """A client that waits in the thread.

    Args:
        url: base URL of an environment; None: what `PENSTOCK_URL` says.
        token: a token of the cluster, for all but endpoints with tokens of their own; None: what `PENSTOCK_TOKEN` says.
        timeout: seconds to connect, and to wait for each piece of an answer; waiting for executions comes on top.
        retry: how patient to be with a gateway that does not answer.

    Raises:
        PenstockError: there is no URL.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        retry: Retry | None = None,
    ) -> None:
        self._operations = _operations(url, token, retry)
        from penstock.client.sending import Sender  # noqa: PLC0415 - httpx takes longer to import than all else

        self._sender = Sender(timeout)

    def __enter__(self) -> Self:
        """Use it, and close it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Give connections back; the client cannot be used any more."""
        self._sender.close()

    def trigger_endpoint(
        self,
        endpoint_name: str,
        endpoint_token: str | None = None,
        inputs: Inputs | None = None,
        wait_for_results: bool = True,
        *,
        wait_for_completion: bool | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Call an endpoint: start an execution of its pipeline.

        Args:
            endpoint_name: path of the endpoint.
            endpoint_token: its token; None: the client's own, which needs the right to create executions.
            inputs: values by the endpoint's names; files as bytes, open binary files, or `pathlib.Path`s.
            wait_for_results: whether to wait for the execution and give its outputs.
            wait_for_completion: newer name of `wait_for_results`; goes before it.
            idempotency_key: calls with the same key start one execution; None: each call has a key of its own, so that
                no answer that is lost on the way makes two.
            timeout: how long to wait, in seconds; None: as long as it takes.
            on_progress: called while it is waited for.

        Raises:
            ExecutionFailed: the execution has ended without success.
            TimedOut: it has not ended in time.
            PenstockError: the call was not taken; its subclass says why.
        """
        steps = self._operations.trigger_endpoint(
            endpoint_name,
            endpoint_token,
            inputs,
            _waits(wait_for_results, wait_for_completion),
            key=idempotency_key,
            timeout=timeout,
            on_progress=on_progress,
        )
        return self._sender.drive(steps)

    def retrieve_endpoint_results(
        self,
        endpoint_name: str,
        execution_id: str,
        endpoint_token: str | None = None,
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """The results of a call, waiting for its execution to end.

        Args:
            endpoint_name: path of the endpoint.
            execution_id: what `trigger_endpoint` gave.
            endpoint_token: the endpoint's token; None: the client's own.
            timeout: how long to wait, in seconds; None: as long as it takes.
            on_progress: called while it is waited for.

        Raises:
            ExecutionFailed, TimedOut, PenstockError: as for `trigger_endpoint`.
        """
        steps = self._operations.endpoint_results(
            endpoint_name, execution_id, endpoint_token, timeout=timeout, on_progress=on_progress
        )
        return self._sender.drive(steps)

    def run_pipeline(
        self,
        pipeline_name: str,
        inputs: Inputs | None = None,
        inputs_mapping: Sequence[InputSource] | None = None,
        outputs_mapping: Sequence[OutputDestination] | None = None,
        wait_for_results: bool = True,
        *,
        wait_for_completion: bool | None = None,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Run a pipeline here and now. It is not tried again where the answer was lost: that might make two runs.

        Args:
            pipeline_name: the pipeline.
            inputs: values by name; files as paths, bytes, or open binary files.
            inputs_mapping: inputs that come from elsewhere.
            outputs_mapping: outputs that go elsewhere.
            wait_for_results: whether to wait for the execution and give its outputs.
            wait_for_completion: newer name of `wait_for_results`; goes before it.
            timeout: how long to wait, in seconds; None: as long as it takes.
            on_progress: called while it is waited for.

        Raises:
            ExecutionFailed, TimedOut, PenstockError: as for `trigger_endpoint`.
        """
        steps = self._operations.run_pipeline(
            pipeline_name,
            inputs,
            inputs_mapping,
            outputs_mapping,
            _waits(wait_for_results, wait_for_completion),
            timeout=timeout,
            on_progress=on_progress,
        )
        return self._sender.drive(steps)

    def retrieve_pipeline_execution_outputs(
        self, execution_id: str, *, timeout: float | None = None, on_progress: OnProgress | None = None
    ) -> Result:
        """The outputs of an execution, waiting for its end. Takes and raises what `run_pipeline` does."""
        steps = self._operations.execution_outputs(execution_id, timeout=timeout, on_progress=on_progress)
        return self._sender.drive(steps)

    def list_pipelines(self) -> list[PipelineInfo]:
        """All pipelines."""
        return self._sender.drive(self._operations.list_pipelines())

    def list_executions(
        self, pipeline_name: str | None = None, *, deployment_name: str | None = None
    ) -> list[ExecutionInfo]:
        """Executions of a pipeline or of a deployment, the newest first."""
        return self._sender.drive(self._operations.list_executions(pipeline_name, deployment_name))

    def get_execution(self, execution_id: str) -> ExecutionInfo:
        """An execution with its inputs and outputs; of files no more than that they are there."""
        return self._sender.drive(self._operations.get_execution(execution_id))

    def list_objects(self, folder: str = "") -> list[DataObject]:
        """Objects of the data store in a folder and below, in the order of their paths."""
        return self._sender.drive(self._operations.list_objects(folder))

    def upload_object(self, content: str | os.PathLike[str] | bytes | BinaryIO, path: str) -> DataObject:
        """Put a file, given by its path, its content or open, into the data store; what was there is replaced.

        Raises:
            OSError: it cannot be read.
            PenstockError: it cannot be stored.
        """
        file = FileInput(content)
        known = file.digest()
        return self._sender.drive(self._operations.upload_object(file, known, path))

    def download_object(self, path: str) -> bytes:
        """The content of an object of the data store."""
        return self._sender.drive(self._operations.download_object(path))

    def delete_object(self, path: str) -> None:
        """Remove an object of the data store."""
        self._sender.drive(self._operations.delete_object(path))


class AsyncClient:
    """A client that is awaited.

    Args:
        url: base URL of an environment; None: what `PENSTOCK_URL` says.
        token: a token of the cluster, for all but endpoints with tokens of their own; None: what `PENSTOCK_TOKEN` says.
        timeout: seconds to connect, and to wait for each piece of an answer; waiting for executions comes on top.
        retry: how patient to be with a gateway that does not answer.

    Raises:
        PenstockError: there is no URL.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        retry: Retry | None = None,
    ) -> None:
        self._operations = _operations(url, token, retry)
        from penstock.client.sending import AsyncSender  # noqa: PLC0415 - httpx takes longer to import than all else

        self._sender = AsyncSender(timeout)

    async def __aenter__(self) -> Self:
        """Use it, and close it at the end."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Give connections back; the client cannot be used any more."""
        await self._sender.close()

    async def trigger_endpoint(
        self,
        endpoint_name: str,
        endpoint_token: str | None = None,
        inputs: Inputs | None = None,
        wait_for_results: bool = True,
        *,
        wait_for_completion: bool | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as the other client has it
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Call an endpoint: start an execution of its pipeline.

        Args:
            endpoint_name: path of the endpoint.
            endpoint_token: its token; None: the client's own, which needs the right to create executions.
            inputs: values by the endpoint's names; files as bytes, open binary files, or `pathlib.Path`s.
            wait_for_results: whether to wait for the execution and give its outputs.
            wait_for_completion: newer name of `wait_for_results`; goes before it.
            idempotency_key: calls with the same key start one execution; None: each call has a key of its own, so that
                no answer that is lost on the way makes two.
            timeout: how long to wait, in seconds; None: as long as it takes.
            on_progress: called while it is waited for.

        Raises:
            ExecutionFailed: the execution has ended without success.
            TimedOut: it has not ended in time.
            PenstockError: the call was not taken; its subclass says why.
        """
        steps = self._operations.trigger_endpoint(
            endpoint_name,
            endpoint_token,
            inputs,
            _waits(wait_for_results, wait_for_completion),
            key=idempotency_key,
            timeout=timeout,
            on_progress=on_progress,
        )
        return await self._sender.drive(steps)

    async def retrieve_endpoint_results(
        self,
        endpoint_name: str,
        execution_id: str,
        endpoint_token: str | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as the other client has it
        on_progress: OnProgress | None = None,
    ) -> Result:
        """The results of a call, waiting for its execution to end.

        Args:
            endpoint_name: path of the endpoint.
            execution_id: what `trigger_endpoint` gave.
            endpoint_token: the endpoint's token; None: the client's own.
            timeout: how long to wait, in seconds; None: as long as it takes.
            on_progress: called while it is waited for.

        Raises:
            ExecutionFailed, TimedOut, PenstockError: as for `trigger_endpoint`.
        """
        steps = self._operations.endpoint_results(
            endpoint_name, execution_id, endpoint_token, timeout=timeout, on_progress=on_progress
        )
        return await self._sender.drive(steps)

    async def run_pipeline(
        self,
        pipeline_name: str,
        inputs: Inputs | None = None,
        inputs_mapping: Sequence[InputSource] | None = None,
        outputs_mapping: Sequence[OutputDestination] | None = None,
        wait_for_results: bool = True,
        *,
        wait_for_completion: bool | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as the other client has it
        on_progress: OnProgress | None = None,
    ) -> Result:
        """Run a pipeline here and now. It is not tried again where the answer was lost: that might make two runs.

        Args:
            pipeline_name: the pipeline.
            inputs: values by name; files as paths, bytes, or open binary files.
            inputs_mapping: inputs that come from elsewhere.
            outputs_mapping: outputs that go elsewhere.
            wait_for_results: whether to wait for the execution and give its outputs.
            wait_for_completion: newer name of `wait_for_results`; goes before it.
            timeout: how long to wait, in seconds; None: as long as it takes.
            on_progress: called while it is waited for.

        Raises:
            ExecutionFailed, TimedOut, PenstockError: as for `trigger_endpoint`.
        """
        steps = self._operations.run_pipeline(
            pipeline_name,
            inputs,
            inputs_mapping,
            outputs_mapping,
            _waits(wait_for_results, wait_for_completion),
            timeout=timeout,
            on_progress=on_progress,
        )
        return await self._sender.drive(steps)

    async def retrieve_pipeline_execution_outputs(
        self,
        execution_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as the other client has it
        on_progress: OnProgress | None = None,
    ) -> Result:
        """The outputs of an execution, waiting for its end. Takes and raises what `run_pipeline` does."""
        steps = self._operations.execution_outputs(execution_id, timeout=timeout, on_progress=on_progress)
        return await self._sender.drive(steps)

    async def list_pipelines(self) -> list[PipelineInfo]:
        """All pipelines."""
        return await self._sender.drive(self._operations.list_pipelines())

    async def list_executions(
        self, pipeline_name: str | None = None, *, deployment_name: str | None = None
    ) -> list[ExecutionInfo]:
        """Executions of a pipeline or of a deployment, the newest first."""
        return await self._sender.drive(self._operations.list_executions(pipeline_name, deployment_name))

    async def get_execution(self, execution_id: str) -> ExecutionInfo:
        """An execution with its inputs and outputs; of files no more than that they are there."""
        return await self._sender.drive(self._operations.get_execution(execution_id))

    async def list_objects(self, folder: str = "") -> list[DataObject]:
        """Objects of the data store in a folder and below, in the order of their paths."""
        return await self._sender.drive(self._operations.list_objects(folder))

    async def upload_object(self, content: str | os.PathLike[str] | bytes | BinaryIO, path: str) -> DataObject:
        """Put a file, given by its path, its content or open, into the data store; what was there is replaced.

        Raises:
            OSError: it cannot be read.
            PenstockError: it cannot be stored.
        """
        file = FileInput(content)
        known = await asyncio.to_thread(file.digest)
        return await self._sender.drive(self._operations.upload_object(file, known, path))

    async def download_object(self, path: str) -> bytes:
        """The content of an object of the data store."""
        return await self._sender.drive(self._operations.download_object(path))

    async def delete_object(self, path: str) -> None:
        """Remove an object of the data store."""
        await self._sender.drive(self._operations.delete_object(path))
