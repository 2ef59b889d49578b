"""The SDK: run pipelines, trigger endpoints, fetch results and keep objects, from any Python program.

    from penstock import Client

    with Client("https://penstock.example/environments/team") as client:
        client.trigger_endpoint("iris", TOKEN, {"rows": 200})["outputs"]

`Client` and `AsyncClient` are the same operations (`operations`) over two ways to send requests (`sending`): what is
asked, how often and for how long is decided once, without any input or output. Importing this costs next to nothing;
httpx is loaded with the first client.
"""

from __future__ import annotations

from penstock.client.clients import AsyncClient, Client
from penstock.client.errors import (
    ConnectionFailed,
    Denied,
    ExecutionFailed,
    InvalidInputs,
    NotFound,
    PenstockError,
    Suspended,
    TimedOut,
    TooLarge,
    TooManyRequests,
    Unavailable,
)
from penstock.client.types import (
    DataObject,
    ExecutionInfo,
    InputSource,
    OutputDestination,
    PipelineInfo,
    Progress,
    Result,
    Retry,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionFailed",
    "DataObject",
    "Denied",
    "ExecutionFailed",
    "ExecutionInfo",
    "InputSource",
    "InvalidInputs",
    "NotFound",
    "OutputDestination",
    "PenstockError",
    "PipelineInfo",
    "Progress",
    "Result",
    "Retry",
    "Suspended",
    "TimedOut",
    "TooLarge",
    "TooManyRequests",
    "Unavailable",
]
