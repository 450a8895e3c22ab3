"""Requests that come together are computed together, and each gets what it would have got alone."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import tensorflow as tf

from serving.batching import Batcher
from serving.errors import ApiError


class Model:
    """Doubles its input `x`, and keeps what it was called with."""

    def __init__(self, fails=lambda x: False):
        self.calls = []
        self.fails = fails
        self.may_run = threading.Event()
        self.may_run.set()

    def __call__(self, inputs):
        self.calls.append(inputs["x"].copy())
        assert self.may_run.wait(30)
        if self.fails(inputs["x"]):
            raise tf.errors.InvalidArgumentError(None, None, "/home/somebody/secret.py: no")
        return {"y": inputs["x"] * 2}

    @property
    def sizes(self):
        return [len(x) for x in self.calls]


def run(main):
    """Runs `main(executor)`, a coroutine function, on an event loop."""
    with ThreadPoolExecutor(2) as executor:
        return asyncio.run(main(executor))


def x(*values):
    return {"x": np.array(values, np.int64)}


def test_requests_of_one_moment_go_together_and_get_their_own_rows():
    model = Model()

    async def main(executor):
        batcher = Batcher(model, executor, max_wait=0.05)
        return await asyncio.gather(*(batcher(x(value, -value)) for value in range(4)))

    answers = run(main)
    assert [each["y"].tolist() for each in answers] == [[2 * value, -2 * value] for value in range(4)]
    assert model.sizes == [8]


@pytest.mark.parametrize("rows, padded", [(1, 1), (2, 2), (3, 4), (5, 8), (7, 8), (8, 8)])
def test_a_batch_is_padded_to_a_power_of_two_with_its_last_row(rows, padded):
    model = Model()
    answer = run(lambda executor: Batcher(model, executor, max_batch=8)(x(*range(rows))))
    assert answer["y"].tolist() == [2 * value for value in range(rows)]
    assert model.calls[0].tolist() == [*range(rows)] + [rows - 1] * (padded - rows)


def test_a_full_batch_does_not_wait():
    model = Model()

    async def main(executor):
        batcher = Batcher(model, executor, max_batch=4, max_wait=3600)
        return await asyncio.wait_for(asyncio.gather(*(batcher(x(value)) for value in range(4))), 30)

    assert len(run(main)) == 4 and model.sizes == [4]


def test_while_one_batch_is_computed_the_next_one_gathers():
    model = Model()
    model.may_run.clear()

    async def main(executor):
        batcher = Batcher(model, executor, max_wait=0)
        first = asyncio.create_task(batcher(x(1)))
        while not model.calls:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher(x(value))) for value in range(2, 8)]
        await asyncio.sleep(0.05)
        waiting = batcher.waiting_rows
        model.may_run.set()
        return waiting, await asyncio.gather(first, *others)

    waiting, answers = run(main)
    assert waiting == 6 and model.sizes == [1, 8]
    assert [each["y"].tolist() for each in answers] == [[2 * value] for value in range(1, 8)]


def test_a_large_request_is_computed_in_parts():
    model = Model()
    answer = run(lambda executor: Batcher(model, executor, max_batch=4)(x(*range(10))))
    assert answer["y"].tolist() == [2 * value for value in range(10)]
    assert model.sizes == [4, 4, 2]


def test_a_full_queue_refuses_with_retry_after_and_takes_more_once_it_is_empty():
    model = Model()
    model.may_run.clear()

    async def main(executor):
        batcher = Batcher(model, executor, max_wait=0, max_queue=3)
        tasks = [asyncio.create_task(batcher(x(1)))]
        while not model.calls:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(batcher(x(value))) for value in (2, 3, 4)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="The queue is full: 3 rows wait, 3 may") as error:
            await batcher(x(5))
        assert error.value.status == 503 and int(error.value.headers["Retry-After"]) >= 1
        model.may_run.set()
        await asyncio.gather(*tasks)
        return await batcher(x(6))

    assert run(main)["y"].tolist() == [12]
    assert 5 not in np.concatenate(model.calls)


def test_a_request_that_fails_takes_no_other_with_it():
    model = Model(fails=lambda x: (x == 13).any())

    async def main(executor):
        batcher = Batcher(model, executor, max_wait=0.05)
        return await asyncio.gather(*(batcher(x(value)) for value in (1, 13, 2)), return_exceptions=True)

    first, error, last = run(main)
    assert first["y"].tolist() == [2] and last["y"].tolist() == [4]
    assert error.status == 400 and "InvalidArgumentError" in error.message and "secret" not in error.message


@pytest.mark.parametrize("kind, status", [(MemoryError, 503), (ZeroDivisionError, 500)])
def test_a_failure_of_the_model_itself_is_not_called_the_clients(kind, status, caplog):
    def broken(inputs):
        raise kind("/home/somebody")

    with pytest.raises(ApiError) as error:
        run(lambda executor: Batcher(broken, executor)(x(1)))
    assert error.value.status == status and "somebody" not in error.value.message
    assert "A call of a model failed" in caplog.text, "the log must have the details"


def test_outputs_with_another_number_of_rows_are_an_error_not_somebody_elses_answer(caplog):
    with pytest.raises(ApiError) as error:
        run(lambda executor: Batcher(lambda inputs: {"y": np.zeros(1)}, executor)(x(1, 2)))
    assert error.value.status == 500


def test_what_nobody_waits_for_any_more_is_not_computed():
    model = Model()
    model.may_run.clear()

    async def main(executor):
        batcher = Batcher(model, executor, max_wait=0)
        first = asyncio.create_task(batcher(x(1)))
        while not model.calls:
            await asyncio.sleep(0.001)
        given_up = asyncio.create_task(batcher(x(2)))
        kept = asyncio.create_task(batcher(x(3)))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        model.may_run.set()
        await asyncio.gather(first, kept)
        return batcher.waiting_rows

    assert run(main) == 0
    assert [each.tolist() for each in model.calls] == [[1], [3]]


def test_rows_of_other_shapes_are_not_put_together():
    model = Model()

    async def main(executor):
        batcher = Batcher(model, executor, max_wait=0.05)
        return await asyncio.gather(batcher(x(1)), batcher({"x": np.ones((1, 2), np.int64)}), batcher(x(2)))

    answers = run(main)
    assert [each["y"].tolist() for each in answers] == [[2], [[2, 2]], [4]]
    assert [each.shape for each in model.calls] == [(1,), (1, 2), (1,)]


def test_a_signature_without_rows_is_called_as_it_is_asked():
    model = Model()

    async def main(executor):
        batcher = Batcher(model, executor, batched=False)
        return await asyncio.gather(*(batcher({"x": np.array(value)}) for value in range(3)))

    assert [each["y"].tolist() for each in run(main)] == [0, 2, 4]
    assert [each.shape for each in model.calls] == [()] * 3


def test_a_served_model_answers_64_clients_at_once_as_it_answers_each_alone(server):
    def body(seed):
        return {"signature_name": "sample", "instances": [{"seed": seed, "truncation": 1.0}]}

    async def ask():
        async with httpx.AsyncClient(
            base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=64)
        ) as client:
            path = "/v1/models/faces:predict"
            alone = [await client.post(path, json=body(seed)) for seed in range(24)]
            together = await asyncio.gather(*(client.post(path, json=body(seed % 24)) for seed in range(64)))
            figures = (await client.get("/metrics")).text
        assert {each.status_code for each in alone + together} == {200}
        return [np.array([each.json()["predictions"][0] for each in answers]) for answers in (alone, together)], figures

    (alone, together), figures = asyncio.run(ask())
    assert np.ptp(alone) > 0 and len(np.unique(alone.reshape(24, -1), axis=0)) == 24
    difference = np.abs(together.astype(int) - alone[np.arange(64) % 24])
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.001
    largest = {line.rpartition(" ")[2] for line in figures.splitlines()
               if line.startswith('serving_batch_rows_bucket{le="1.0",model="faces",signature="sample"}')}  # fmt: skip
    every = {line.rpartition(" ")[2] for line in figures.splitlines()
             if line.startswith('serving_batch_rows_count{model="faces",signature="sample"}')}  # fmt: skip
    assert largest and every and float(every.pop()) > float(largest.pop()), "no batch had more than one row"
