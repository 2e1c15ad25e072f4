"""The process between rank 0 of a trial's workers and their trial.

It imports nothing that takes time, as it must run before the workers start.
"""

import asyncio
from typing import Any


class Mailbox:
    """Carries rank 0's messages to the group's owner and the answers back."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()

    async def report(self, message: dict[str, Any]) -> Any:
        """Hand over a message of rank 0 and wait for its answer."""
        await self._messages.put(message)
        return await self._answers.get()

    async def next_message(self) -> dict[str, Any] | None:
        """Return the next message to the owner; None when the group has ended."""
        return await self._messages.get()

    async def answer(self, answer: Any) -> None:
        """Answer the last message, as the owner."""
        await self._answers.put(answer)

    async def end(self) -> None:
        """Say that no further message comes."""
        await self._messages.put(None)
