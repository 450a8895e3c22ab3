"""Requests made to break something: whatever comes, the answer is not a 5xx, it comes in time, and the server goes on."""

import contextlib
import http.client
import json
import random
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

import httpx
import hypothesis
import pytest
import schemathesis

SECONDS = 30  # without an answer for so long, it hangs
THREADS = 4
NUMBERS = [
    0,
    1,
    -1,
    2,
    255,
    256,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**30,
    0.5,
    -0.0,
    1e39,
    1e308,
    1e-320,
]
STRINGS = ["", "x", "seed", "label", "z", "b64", "sample", "\0", "é💥", "../../etc/passwd", "a" * 300, "NaN", "\u2028"]
WORDS = [
    *map(str, NUMBERS),
    *STRINGS,
    "nan",
    "inf",
    "-inf",
    "true",
    "null",
    "[]",
    "{}",
    "1,2",
    "9" * 5000,
    "1e400",
    "١",
    "%",
]
NAMES = [
    "faces",
    "shapes",
    "nothing",
    "",
    ".",
    "..",
    "faces ",
    "FACES",
    "faces/1",
    "\0",
    "é",
    "a" * 500,
    "{name}",
    ":predict",
]
SIGNATURES = [
    "serving_default",
    "latents",
    "sample",
    "sample_png",
    "discriminate",
    "__saved_model_init_op",
    "x",
    "",
    None,
    5,
]
PARAMETERS = [
    "seed",
    "seed_a",
    "seed_b",
    "t",
    "label",
    "truncation",
    "version",
    "count",
    "frames",
    "seeds",
    "model",
    "x",
]
PICTURES = ["image.png", "grid.png", "walk.webp", "images.zip", "card.json", "quiz/1/left.png", "quiz/x", "quiz/1", "x"]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO"]
HEADERS = {
    "Content-Type": ["application/json", "text/plain", "multipart/form-data", "application/json; charset=utf-16", "x"],
    "Content-Encoding": ["gzip", "br", "x"],
    "Authorization": ["Bearer", "Basic eDp5", "Bearer " + "x" * 5000],
    "If-None-Match": ["*", '"', 'W/"x", "y"', "x" * 2000],
    "Range": ["bytes=0-0", "bytes=-1", "bytes=9-1", "x"],
    "Accept": ["*/*;q=x", "image/png", ""],
    "Upgrade": ["websocket", "h2c"],
    "Connection": ["Upgrade", "close", "x"],
    "X-Forwarded-For": ["1.2.3.4", "x" * 3000],
    "Cookie": ["a=b; c", "=" * 100],
}


class Fuzzer:
    """Makes requests that are wrong in many ways, the same ones for the same seed."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    def request(self):
        """Returns `(method, path, body, headers)`: well-formed HTTP, whatever it asks for."""
        choose = self._random.choice
        headers = {name: choose(HEADERS[name]) for name in self._random.sample([*HEADERS], self._random.randrange(3))}
        path = self._path()
        method = "POST" if path.endswith(":predict") or path.endswith("quiz/1") else "GET"
        return choose(METHODS) if self._random.random() < 0.3 else method, path, self._body(), headers

    def bytes(self):
        """Returns bytes that are hardly a request."""
        random = self._random
        method, path, body, headers = self.request()
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
        lines.append(random.choice(["Content-Length: 5", "Content-Length: -1", "Content-Length: x", "Transfer-Encoding: chunked",
                                    "Transfer-Encoding: x", "Content-Length: 3\r\nContent-Length: 9", "Expect: 100-continue"]))  # fmt: skip
        whole = bytearray("\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body)
        for _ in range(random.randrange(6)):
            place = random.randrange(len(whole) + 1)
            change = random.randrange(5)
            if change == 0:
                whole[place:place] = random.randbytes(random.randrange(1, 9))
            elif change == 1:
                del whole[place : place + random.randrange(1, 30)]
            elif change == 2:
                whole[place : place + 1] = random.randbytes(1)
            elif change == 3:
                whole[place:place] = whole[: random.randrange(200)]
            else:
                whole[place:place] = random.choice(
                    [b"\r\n", b"\0", b"\n", b"\r\n\r\n", b"ffffffffffffffff\r\n", b"\xff"]
                )
        return bytes(whole) if random.random() < 0.9 else random.randbytes(random.randrange(1, 2000))

    def _path(self):
        choose = self._random.choice
        name = quote(choose(NAMES), safe=choose(["", "/:.{}"]))
        version = quote(choose(WORDS), safe="")
        query = "&".join(
            f"{choose(PARAMETERS)}={quote(choose([*WORDS, *['0', '1'] * 20]), safe='')}"
            for _ in range(self._random.randrange(4))
        )
        return choose(
            [
                f"/models/{name}/{choose(PICTURES)}?{query}",
                f"/models/faces/{choose(PICTURES)}?seed=1&seed_a=1&seed_b=2&seeds=1&{query}",
                f"/models/shapes/{choose(PICTURES)}?{query}",
                f"/models/faces/quiz/{version}/{choose(['left', 'right', 'x'])}.png?{query}",
                f"/v1/models/{name}:{choose(['predict', 'classify', 'regress', 'x', ''])}",
                "/v1/models/faces:predict",
                "/v1/models/shapes:predict",
                f"/v1/models/{name}/versions/{version}{choose([':predict', '', '/metadata', '/x'])}",
                f"/v1/models/faces/labels/{version}{choose([':predict', ''])}",
                f"/example1.png?{query}",
                f"/static/{choose(['', '../', '%2e%2e/', '/'])}{version}",
                f"/{version}?{query}",
                choose(
                    ["/", "/models", "/openapi.json", "/metrics", "/healthz", "/readyz", "//", "*", "/v1", "http://x/"]
                ),
            ]
        )

    def _body(self):
        random = self._random
        body = json.dumps(self._document(), ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
        kind = random.randrange(12)
        if kind == 0:
            return b""
        if kind == 1:
            return body[: random.randrange(len(body) + 1)]
        if kind == 2:
            return body.replace(b'"', random.choice([b"'", b"", b'"""']))
        if kind == 3:
            return b"[" * random.randrange(1, 5000) + body
        if kind == 4:
            return random.randbytes(random.randrange(300))
        if kind == 5:
            return body.decode("utf-8", "replace").encode(random.choice(["utf-16", "utf-32", "utf-8-sig"]))
        if kind == 6:
            place = random.randrange(len(body) + 1)
            return (
                body[:place]
                + random.choice([b"\0", b"\xff", b"NaN", b"Infinity", b"9" * 5000, b"\\ud800", b","])
                + body[place:]
            )
        return body

    def _document(self):
        choose, random = self._random.choice, self._random.random
        if random() < 0.1:
            return choose([{"choice": "left"}, {"choice": self._value(2)}, self._value(3)])
        document = {"signature_name": choose(SIGNATURES)} if random() < 0.8 else {}
        count = self._random.randrange(4)
        columns = {
            "seed": [choose([1, 2, self._value(1)]) for _ in range(count)],
            "truncation": [choose([1.0, 0.5, self._value(1)]) for _ in range(count)],
            "label": [choose([0, 1, self._value(1)]) for _ in range(count)],
            "z": [[choose([0, 0.5, self._value(0)]) for _ in range(choose([4, 8, 3]))] for _ in range(count)],
            "images": self._value(4),
        }
        columns = {name: value for name, value in columns.items() if random() < 0.7}
        if random() < 0.5:
            document["inputs"] = choose([columns, self._value(3), *columns.values()])
        if random() < 0.5:
            lists = {name: value for name, value in columns.items() if isinstance(value, list)}
            rows = [dict(zip(lists, row)) for row in zip(*lists.values())]
            document["instances"] = choose([rows, self._value(3), *columns.values()])
        return document

    def _value(self, depth):
        choose, random = self._random.choice, self._random.random
        if depth and random() < 0.3:
            return [self._value(depth - 1) for _ in range(self._random.randrange(4))]
        if depth and random() < 0.2:
            return {choose(STRINGS): self._value(depth - 1) for _ in range(self._random.randrange(3))}
        return choose([choose(NUMBERS), choose(STRINGS), None, True, False, {"b64": choose(["AA==", "A", "!", 5])},
                       float("nan"), float("-inf")])  # fmt: skip


def fuzz(url, seed, count):
    """Sends requests, three quarters of them well-formed HTTP.

    Returns:
        `Counter` of the statuses; "closed" where bytes that are no request were answered by closing.

    Raises:
        AssertionError: After a 5xx or no answer; the message holds the request.
    """
    fuzzer, statuses = Fuzzer(seed), Counter()
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=SECONDS)) as connection:
        for number in range(count):
            malformed = number % 4 == 3
            sent = fuzzer.bytes() if malformed else fuzzer.request()
            status = answer_to_bytes(parts, sent) if malformed else answer_to_request(connection, *sent)
            assert status == "closed" or status < 500, f"{status} after {sent!r}"
            statuses[status] += 1
    return statuses


def answer_to_request(connection, method, path, body, headers):
    """Sends a request, once more if the answer before had closed the connection; returns the status."""
    for attempt in (1, 2):
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            if attempt == 2 or isinstance(error, TimeoutError):
                raise AssertionError(f"{error!r} after {method} {path!r} {body!r} {headers}") from error


def answer_to_bytes(parts, sent):
    """Sends bytes and then the end of them; returns the status of the answer, or "closed"."""
    with socket.create_connection((parts.hostname, parts.port), timeout=SECONDS) as connection:
        received = b""
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass
        except TimeoutError as error:
            raise AssertionError(f"no end after {sent!r}") from error
    found = re.match(rb"HTTP/1\.1 (?:100 [^\r]*\r\n\r\nHTTP/1\.1 )?(\d{3})", received)
    return int(found[1]) if found else "closed"


def fuzz_together(server, count, seed=0):
    """Fuzzes from several threads, and checks that the server is then as it was before."""
    url = f"{server.url}/models/faces/image.png?seed=1"
    before, logged = httpx.get(url, timeout=60).content, len(server.read_log())
    with ThreadPoolExecutor(THREADS) as threads:
        results = [threads.submit(fuzz, server.url, seed + number, count // THREADS) for number in range(THREADS)]
    statuses = sum((result.result() for result in results), Counter())
    assert httpx.get(url, timeout=60).content == before
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    log = server.read_log()[logged:]
    assert "Traceback" not in log and "failed" not in log, log[:5000]
    return statuses


def test_a_few_hundred_malformed_requests_do_no_harm(server):
    statuses = fuzz_together(server, 400)
    assert sum(statuses.values()) == 400
    assert {400, 404} <= statuses.keys(), "the fuzzer does not reach what it should"


def test_the_fuzzer_makes_valid_requests_too_now_and_then(server):
    statuses = fuzz_together(server, 200, seed=1000)
    assert statuses[200] > 10, "requests that are wrong throughout would meet only the first check"


@pytest.mark.slow
def test_ten_thousand_malformed_requests_do_no_harm(server):
    statuses = fuzz_together(server, 12_000, seed=10_000)
    print(sorted(statuses.items(), key=str))
    assert sum(statuses.values()) == 12_000


# The OpenAPI description: what it says can be asked is answered as it says.

CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
    schemathesis.checks.response_headers_conformance,
]


def conform(server, examples):
    """Asks what the description says, `examples` times an operation, right and wrong; returns the operations."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # what takes nothing can be asked nothing wrong
                ask(operation, mode, examples)
    return [f"{operation.method.upper()} {operation.path}" for operation in operations]


def ask(operation, mode, examples):
    """Sends requests of one operation, as it is described or otherwise, and checks the answers."""

    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def one(case):
        if mode is schemathesis.GenerationMode.POSITIVE:  # a model that is there: others all give 404
            there = {"name": "shapes", "version": 1}
            case.path_parameters.update({key: there[key] for key in there if key in case.path_parameters})
        case.call_and_validate(checks=CHECKS, timeout=SECONDS)

    one()


def test_the_server_does_as_its_description_says(server):
    operations = conform(server, examples=2)
    assert "GET /models/{name}/image.png" in operations and "POST /v1/models/{name}:predict" in operations


@pytest.mark.slow
def test_the_server_does_as_its_description_says_in_many_cases(server):
    conform(server, examples=150)
