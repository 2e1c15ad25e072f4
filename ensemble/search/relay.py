"""What stands between rank 0 of a trial's workers and their trial: a process of its own.

It imports nothing that takes time, as it must be there before the workers start.
"""

import asyncio
from typing import Any


class Mailbox:
    """Carries rank 0's messages to the group's owner and the answers back."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()

    async def report(self, message: dict[str, Any]) -> Any:
        """Rank 0: hand over a message, wait for its answer."""
        await self._messages.put(message)
        return await self._answers.get()

    async def next_message(self) -> dict[str, Any] | None:
        """The owner: the next message, None when the group has ended."""
        return await self._messages.get()

    async def answer(self, answer: Any) -> None:
        """The owner: answer the last message."""
        await self._answers.put(answer)

    async def end(self) -> None:
        """No further message will come."""
        await self._messages.put(None)
