"""The Python client of the Iris message server.

    from iris_client import IrisClient

    with IrisClient("localhost", 8085) as client:
        client.login("tokyo_user")
        receipt = client.send_msg("frankfurt_user", "Hello")
        print(receipt.level)
        message = client.recv_msg(timeout=5)
        print(message.sender, message.text)

`AsyncIrisClient` is the same for asyncio. The wire protocol is docs/protocol.md of the repository.
"""

from .asyncio_client import AsyncIrisClient, AsyncSendFuture, AsyncWatch
from .client import IrisClient, SendFuture, Watch
from .errors import (
    CannotConnect,
    ClientClosed,
    IrisError,
    NotLoggedIn,
    ProtocolFault,
    QueueFull,
    Refused,
    ServerError,
    SessionRefused,
    TakenOver,
    Unsupported,
)
from .message import Message, Presence, Receipt

__version__ = "0.1.0"

__all__ = [
    "AsyncIrisClient",
    "AsyncSendFuture",
    "AsyncWatch",
    "CannotConnect",
    "ClientClosed",
    "IrisClient",
    "IrisError",
    "Message",
    "NotLoggedIn",
    "Presence",
    "ProtocolFault",
    "QueueFull",
    "Receipt",
    "Refused",
    "SendFuture",
    "ServerError",
    "SessionRefused",
    "TakenOver",
    "Unsupported",
    "Watch",
]
