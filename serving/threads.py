"""Where work is done: what takes a moment at once, what takes longer in a thread, so that others are answered."""

import asyncio

MOMENT = 16 * 2**10  # numbers or bytes that can be handled in about a millisecond


async def here_or_in_thread(size, function, *arguments):
    """Returns `function(*arguments)`, which handles so many numbers or bytes.

    Handing a small piece of work to a thread and waking up for it takes longer than the work.
    """
    if size < MOMENT:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)
