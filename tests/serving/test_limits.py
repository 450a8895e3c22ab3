"""What a request may not do: ask for too much, take too long, come without the token, learn of the file system."""

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn

from serving.server import Protocol

REPOSITORY = Path(__file__).parents[2]
TOKEN = "a-token-of-the-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SECONDS = 3
CONNECTIONS = 24
LATENTS = "/v1/models/faces:predict"


@pytest.fixture(scope="module")
def strict(server, saved_models, tmp_path_factory, running_server):
    """A server with narrow limits and a token; the other one computes for it."""
    directory = tmp_path_factory.mktemp("strict")
    (directory / "token").write_text(f"{TOKEN}\n")
    options = {
        "upstream": server.url, "token-file": directory / "token", "timeout": SECONDS, "max-body": 3000, "max-count": 5,
        "max-pixels": 2048, "max-frames": 4, "max-connections": CONNECTIONS,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with running_server(saved_models, *words, log=directory / "log") as strict:
        yield strict


@pytest.fixture
def connect(strict):
    """A function that opens a connection to the strict server."""
    opened = []

    def connect(content=b""):
        parts = urlsplit(strict.url)
        opened.append(socket.create_connection((parts.hostname, parts.port), timeout=10 * SECONDS))
        opened[-1].sendall(content)
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def everything_from(connection):
    """Returns what arrives until the other side closes, as text."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts).decode("latin-1")


# Sizes.


@pytest.mark.parametrize(
    "path, message",
    [
        ("/models/faces/grid.png?count=6", "count: Input should be less than or equal to 5. Received: '6'"),
        ("/models/faces/grid.png?count=3", "count must be at most 2 images of 32 x 32 pixels"),
        ("/models/faces/images.zip?seeds=1,2,3", "seeds must be at most 2 images"),
        ("/models/shapes/walk.webp?seed_a=1&seed_b=2&frames=5", "frames: Input should be less than or equal to 4"),
        ("/models/faces/walk.webp?seed_a=1&seed_b=2&frames=3", "frames must be at most 2 images"),
    ],
)
def test_too_many_images_are_refused(strict, path, message):
    answer = httpx.get(strict.url + path, headers=BEARER)
    assert answer.status_code == 400 and message in answer.json()["error"]


def test_as_many_as_are_allowed_are_drawn(strict):
    for path in (
        "/models/faces/grid.png?count=2",
        "/models/shapes/grid.png?count=5",
        "/models/faces/images.zip?seeds=1,2",
    ):
        assert httpx.get(strict.url + path, headers=BEARER, timeout=30).status_code == 200


@pytest.mark.parametrize(
    "rows, message", [(257, "seed must be at most 256. Received: 257"), (10**5, "seed must be at most 256")]
)
def test_too_many_rows_are_refused(server, rows, message):
    body = {"signature_name": "latents", "instances": [1] * rows}
    answer = httpx.post(server.url + LATENTS, json=body, timeout=60)
    assert answer.status_code == 400 and message in answer.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(strict, chunked):
    body = b'{"instances": [%s]}' % (b" " * 4000)
    content = iter([body[:2000], body[2000:]]) if chunked else body
    answer = httpx.post(strict.url + LATENTS, content=content, headers=BEARER)
    assert answer.status_code == 413 and "3000 bytes" in answer.json()["error"]
    assert answer.headers["connection"] == "close"


def test_a_body_that_is_declared_too_large_is_refused_before_it_is_sent(connect):
    head = f"POST {LATENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 999999999999\r\n"
    connection = connect(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert everything_from(connection).startswith("HTTP/1.1 413")


def test_a_body_within_the_limit_passes(strict):
    content = b'{"signature_name": "latents", "instances": [1%s]}' % (b" " * 2900)
    assert httpx.post(strict.url + LATENTS, content=content, headers=BEARER, timeout=30).status_code == 200


@pytest.mark.parametrize("head", [b"GET /" + b"x" * 10**6, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10**6])
def test_an_endless_head_is_refused(connect, head):
    connection = connect()
    try:
        connection.sendall(head)
    except OSError:
        return  # refused before it was sent
    answer = everything_from(connection)  # nothing where the rest of the head met a closed connection
    assert not answer or answer.startswith("HTTP/1.1 400")


# Values.


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_latents_that_are_not_finite_are_refused(server, value):
    z = ", ".join(["0", value, *["0"] * 6])
    for body in (f'{{"instances": [[{z}]]}}', f'{{"inputs": {{"z": [[{z}]]}}}}'):
        answer = httpx.post(server.url + LATENTS, content=body)
        assert answer.status_code == 400 and "z must be finite" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"[" * 10**6, b'{"inputs": ' * 10**5, b'{"inputs": [' + b"[" * 500 + b"1" + b"]" * 501 + b"}",
                                  b'{"instances": [' + b"9" * 10**5 + b"]}", b'{"instances": [NaN' + b"[" * 10**5])  # fmt: skip
def test_json_made_to_exhaust_a_parser_is_refused(server, body):
    answer = httpx.post(server.url + "/v1/models/faces:predict", content=body, timeout=60)
    assert answer.status_code == 400 and len(answer.content) < 1000


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2f..%2fsetup.cfg", "/static//etc/passwd",
        "/static/%2fetc%2fpasswd", "/static/..\\app.py", "/models/../../etc/passwd", "/models/%2e%2e%2f%2e%2e/card.json",
        "/models/..%2Ffaces/card.json", "/v1/models/..%2f..%2fetc:predict", "/v1/models/%00", "/models/%00/card.json",
        "/models/faces%2f1/card.json", "/v1/models/faces/versions/1%2f..%2f1", "/models/faces/image.png?version=../1",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_models(server, path):
    parts = urlsplit(server.url)
    with closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)) as connection:
        connection.request("GET", path)  # as it is: other clients would straighten it
        answer = connection.getresponse()
        content = answer.read().decode("latin-1")
    assert answer.status in (400, 404), content
    assert "root:" not in content and "serving" not in content and str(REPOSITORY) not in content


def test_no_answer_names_a_directory_of_this_machine(server):
    paths = ["/models", "/models/faces/card.json", "/models/shapes/card.json", "/v1/models/faces", "/openapi.json",
             "/v1/models/faces/metadata", "/models/nothing/card.json", "/static/x", "/models/shapes/quiz/1/left.png"]  # fmt: skip
    for path in paths:
        text = httpx.get(server.url + path).text
        for name in (str(server.models), str(REPOSITORY), sys.prefix, "/home/"):
            assert name not in text, path


# Time.


def test_a_client_that_sends_its_head_slowly_is_answered_408(connect):
    start = time.monotonic()
    connection = connect(b"GET /healthz HT")
    answer = everything_from(connection)
    assert answer.startswith("HTTP/1.1 408") and "error" in answer
    assert time.monotonic() - start > SECONDS / 2


def test_a_client_that_sends_nothing_is_not_waited_for(connect):
    assert everything_from(connect()).startswith("HTTP/1.1 408")


def test_a_client_that_sends_its_body_slowly_is_answered_408(connect):
    head = f"POST {LATENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n"
    assert everything_from(connect(head.encode() + b'{"inst')).startswith("HTTP/1.1 408")


def test_a_dripping_client_gains_no_time(connect):
    connection = connect(b"GET /healthz HTTP/1.1\r\n")
    connection.settimeout(0.2)
    start, received = time.monotonic(), b""
    while time.monotonic() - start < 5 * SECONDS and b"408" not in received:
        try:
            connection.sendall(b"X: y\r\n")
            received += connection.recv(4096)
        except TimeoutError:
            continue
        except OSError:
            break
    assert b"HTTP/1.1 408" in received


def test_a_client_that_does_not_read_is_let_go():
    async def much(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(2**26)})

    protocol = type("Hasty", (Protocol,), {"write_seconds": 0.5})
    config = uvicorn.Config(much, http=protocol, loop="asyncio", ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with socket.create_connection(listener.getsockname(), timeout=30) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(16).startswith(b"HTTP/1.1 200")
                time.sleep(1.5)
                assert len(everything_from(connection)) < 2**26
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def test_connections_beyond_the_limit_are_told_to_come_again(strict, connect):
    waiting = [connect(b"GET") for _ in range(CONNECTIONS)]
    answer = everything_from(connect(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert answer.startswith("HTTP/1.1 503") and re.search(r"(?i)retry-after: \d", answer)
    for each in waiting:
        each.close()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if httpx.get(f"{strict.url}/healthz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    pytest.fail("It did not recover")


# The token, and the headers.


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer", "Bearer \xff"]
)
@pytest.mark.parametrize("method, path", [("GET", "/models"), ("GET", "/models/faces/image.png?seed=1"), ("GET", "/metrics"),
                                          ("GET", "/v1/models/faces"), ("POST", LATENTS), ("GET", "/nothing"),
                                          ("GET", "/openapi.json"), ("GET", "/example1.png")])  # fmt: skip
def test_without_the_token_nothing_is_told(strict, method, path, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = httpx.request(method, strict.url + path, headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"] == "Send the token: Authorization: Bearer TOKEN"


def test_what_is_refused_is_counted_too(strict):
    httpx.get(f"{strict.url}/models")
    figures = httpx.get(f"{strict.url}/metrics", headers=BEARER).text
    assert 'serving_requests_total{method="GET",path="other",status="401"}' in figures


def test_with_the_token_it_is(strict):
    assert httpx.get(f"{strict.url}/models", headers=BEARER).status_code == 200
    assert httpx.get(f"{strict.url}/models", headers={"Authorization": f"bearer  {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/static/app.js"])
def test_health_and_the_page_itself_ask_for_no_token(strict, path):
    assert httpx.get(strict.url + path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/models", "/models/faces/image.png?seed=1", "/nothing", "/v1/foo", "/static/app.js"]
)
def test_every_answer_has_the_security_headers(server, path):
    headers = httpx.get(server.url + path).headers
    policy = dict(each.split(" ", 1) for each in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["style-src"] == "'self'" and policy["img-src"] == "'self' blob: data:"
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer" and headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers and "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_there_are_no_pages_that_load_from_elsewhere(server, path):
    assert httpx.get(server.url + path).status_code == 404


def test_it_binds_to_this_machine_alone(server):
    assert urlsplit(server.url).hostname == "127.0.0.1"
    port = f"{urlsplit(server.url).port:04X}"
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert [each for each in listening if each.endswith(f":{port}")] == [f"0100007F:{port}"]


# The command line.


def app(*options, environment=None):
    command = [sys.executable, "-X", "importtime", "-m", "serving.app", *map(str, options)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", **(environment or {})},
    )  # fmt: skip


@pytest.mark.parametrize(
    "options, message",
    [
        (["--models", "/nowhere"], "--models must be a directory with NAME/VERSION in it"),
        (["--models", ".", "--port", "99999"], "--port must be from 0 to 65535"),
        (["--models", ".", "--max-batch", "3"], "--max-batch must be a power of two"),
        (["--models", ".", "--queue", "5"], "--queue must be at least --max-count"),
        (["--models", ".", "--versions", "0"], "--versions must be at least 1"),
        (["--models", ".", "--timeout", "nan"], "--timeout must be a number of seconds above 0"),
        (["--models", ".", "--batch-wait", "nan"], "--batch-wait must be at least 0"),
        (["--models", ".", "--upstream", "localhost:8500"], "--upstream must be http://HOST:PORT"),
        (["--models", ".", "--upstream-model", "x"], "--upstream-model goes with --upstream"),
        (["--models", ".", "--token-file", "/nowhere"], "--token-file cannot be read"),
        (["--models", ".", "--prot", "1"], "unrecognized arguments: --prot"),
    ],
)
def test_a_wrong_option_is_answered_before_anything_heavy_is_imported(options, message):
    done = app(*options)
    assert done.returncode == 2 and message in done.stderr
    assert not re.search(r"\| +(tensorflow|numpy|fastapi|uvicorn|PIL)$", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_help_says_what_there_is():
    done = app("--help")
    assert done.returncode == 0 and "--upstream" in done.stdout and "127.0.0.1" in done.stdout
    assert not re.search(r"\| +(tensorflow|numpy|fastapi|uvicorn|PIL)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("token", ["", "two words", "grün"])
def test_a_token_that_cannot_be_sent_is_refused(tmp_path, token):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    done = app("--models", ".", "--token-file", tmp_path / "token")
    assert done.returncode == 2 and "token" in done.stderr
    if token:
        assert token not in done.stderr


def test_a_port_that_is_taken_is_said(server):
    port = urlsplit(server.url).port
    done = subprocess.run(
        [sys.executable, "-m", "serving.app", "--models", str(server.models), "--port", str(port)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (
        done.returncode == 1 and f"port {port} of 127.0.0.1 is taken. Try another one: --port {port + 1}" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_the_description_says_what_can_be_asked(server):
    description = httpx.get(f"{server.url}/openapi.json").json()
    assert "/v1/models/{name}:predict" in description["paths"] and "/models/{name}/image.png" in description["paths"]
    assert "422" not in json.dumps(description), "wrong parameters are answered with 400"
