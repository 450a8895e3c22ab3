"""Requests that come at the same time go through the model together.

A batch leaves when it is full, or when its oldest request has waited long enough, and the one before it is done: while
one is computed, the next one gathers. It is padded to a power of two, so that a model meets few different sizes.
"""

import asyncio
import logging
from collections import deque

import numpy as np

from serving.errors import ApiError, invalid, unavailable

logger = logging.getLogger("serving")


class Batcher:
    """Runs a function on the concatenated inputs of several requests, in a thread.

    Args:
        run: Takes and returns `{name: array}`, every array with a leading batch dimension, rows independent of each
            other.
        executor: Threads to call it in.
        max_batch: Rows of a batch at most, a power of two.
        max_wait: Seconds that a request waits for others at most.
        max_queue: Rows that may wait; more are refused.
        batched: `False` where the rows cannot be concatenated; requests then run one by one.
        on_batch: Called with the number of rows of every batch, before padding.
    """

    def __init__(self, run, executor, *, max_batch=32, max_wait=0.002, max_queue=1024, batched=True, on_batch=None):
        self._run = run
        self._executor = executor
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._batched = batched
        self._on_batch = on_batch or (lambda rows: None)
        self._waiting = deque()
        self._waiting_rows = 0
        self._timer = None
        self._task = None

    @property
    def waiting_rows(self):
        """Rows in the queue, without those that are being computed."""
        return self._waiting_rows

    async def __call__(self, inputs):
        """Returns the outputs for the inputs of one request.

        Args:
            inputs: `{name: array}`; where the rows are batched, all have the same leading dimension, from 1.

        Returns:
            `{name: array}`.

        Raises:
            ApiError: 503 if the queue is full; what `run` raises becomes 400 where it was the inputs' fault.
        """
        if not self._batched:
            return await self._enqueue([_Request(inputs, 1)])
        rows = len(next(iter(inputs.values())))
        parts = []
        for start in range(0, rows, self._max_batch):
            part = {name: array[start : start + self._max_batch] for name, array in inputs.items()}
            parts.append(_Request(part, min(self._max_batch, rows - start)))
        return await self._enqueue(parts)

    async def _enqueue(self, requests):
        rows = sum(request.rows for request in requests)
        if self._waiting_rows + rows > self._max_queue:
            raise unavailable(
                f"The queue is full: {self._waiting_rows} rows wait, {self._max_queue} may. Try again after Retry-After."
            )
        loop = asyncio.get_running_loop()
        for request in requests:
            request.arrived = loop.time()
            request.answer = loop.create_future()
            self._waiting.append(request)
        self._waiting_rows += rows
        self._go_on()
        try:
            outputs = await asyncio.gather(*(request.answer for request in requests))
        finally:
            for request in requests:
                request.answer.cancel()  # of no use any more, if one part failed or nobody waits
        if len(outputs) == 1:
            return outputs[0]
        return {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}

    def _go_on(self):
        """Starts the next batch if it is time, or sees to it that somebody looks when it is."""
        if self._task is not None or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        remaining = self._waiting[0].arrived + self._max_wait - loop.time()
        if self._batched and self._waiting_rows < self._max_batch and remaining > 0:
            if self._timer is None:
                self._timer = loop.call_later(remaining, self._wake)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = self._next_batch()
        if batch:
            self._task = loop.create_task(self._compute(batch))

    def _wake(self):
        self._timer = None
        self._go_on()

    def _next_batch(self):
        """Takes from the queue what can be concatenated, up to the size of a batch, without what nobody waits for."""
        batch, rows = [], 0
        while self._waiting:
            request = self._waiting[0]
            if not request.answer.done():
                if batch and (
                    not self._batched or rows + request.rows > self._max_batch or request.shapes != batch[0].shapes
                ):
                    break
                batch.append(request)
                rows += request.rows
            self._waiting.popleft()
            self._waiting_rows -= request.rows
        return batch

    async def _compute(self, batch):
        loop = asyncio.get_running_loop()
        try:
            try:
                answers = await loop.run_in_executor(self._executor, self._run_together, batch)
            except Exception as error:
                # One of them may be at fault: the others get their answers.
                answers = [error]
                if len(batch) > 1:
                    answers = [await loop.run_in_executor(self._executor, self._run_alone, each) for each in batch]
            for request, answer in zip(batch, answers):
                if request.answer.done():
                    continue
                if isinstance(answer, Exception):
                    request.answer.set_exception(explained(answer))
                else:
                    request.answer.set_result(answer)
        finally:
            self._task = None
            self._go_on()

    def _run_together(self, batch):
        rows = sum(request.rows for request in batch)
        self._on_batch(rows)
        if not self._batched:
            return [self._run(batch[0].inputs)]
        padded = min(self._max_batch, 1 << (rows - 1).bit_length())
        inputs = {}
        for name in batch[0].inputs:
            arrays = [request.inputs[name] for request in batch]
            if padded > rows:
                arrays.append(np.repeat(arrays[-1][-1:], padded - rows, axis=0))
            inputs[name] = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
        outputs = self._run(inputs)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != padded:
                raise ValueError(f"The output {name!r} has the shape {array.shape} for {padded} rows of input")
        answers, start = [], 0
        for request in batch:
            answers.append({name: array[start : start + request.rows] for name, array in outputs.items()})
            start += request.rows
        return answers

    def _run_alone(self, request):
        try:
            return self._run_together([request])[0]
        except Exception as error:
            return error


class _Request:
    def __init__(self, inputs, rows):
        self.inputs = inputs
        self.rows = rows
        self.shapes = {name: (array.shape[1:], array.dtype) for name, array in inputs.items()}
        self.arrived = None
        self.answer = None


def explained(error):
    """Returns what a failed call of a model means for the request; the log has the details, which name files."""
    if isinstance(error, ApiError):
        return error
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"InvalidArgumentError", "FailedPreconditionError", "OutOfRangeError"}:
        return invalid(f"The model cannot compute these inputs ({type(error).__name__}).")
    logger.error("A call of a model failed", exc_info=error)
    if kinds & {"ResourceExhaustedError", "MemoryError"}:
        return unavailable("Memory ran out. Ask for fewer or smaller images, or try again after Retry-After.")
    return ApiError(500, f"The model failed ({type(error).__name__}).")
