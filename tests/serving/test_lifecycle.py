"""Versions come and go, and the server ends, without a request being dropped."""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
CLIENTS = 8


@pytest.fixture(scope="module")
def directory(saved_models, tmp_path_factory):
    """A directory of models that the tests of this module change, each its own."""
    directory = tmp_path_factory.mktemp("changing") / "saved_models"
    for name in ("rolled", "broken", "removed", "replaced", "partial"):
        shutil.copytree(saved_models / "shapes" / "1", directory / name / "1")
    return directory


@pytest.fixture(scope="module")
def changing(directory, running_server, tmp_path_factory):
    """A server of that directory which keeps one version of a model and looks often."""
    log = tmp_path_factory.mktemp("lifecycle") / "log"
    with running_server(directory, "--versions", 1, "--poll", 0.1, log=log) as server:
        yield server


def publish(source, directory, name, version):
    """Copies an export and renames it into place, as `training.export` does."""
    temporary = directory / name / f".writing-{version}"
    shutil.copytree(source, temporary)
    temporary.rename(directory / name / str(version))


def states(server, name):
    answer = httpx.get(f"{server.url}/v1/models/{name}", timeout=30)
    return {int(each["version"]): each["state"] for each in answer.json().get("model_version_status", [])}


def versions(server, name):
    return next((each["versions"] for each in httpx.get(f"{server.url}/models").json() if each["name"] == name), [])


def ask(client, name, seed):
    body = {"signature_name": "sample", "instances": [{"seed": seed, "truncation": 1, "label": 0}]}
    return client.post(f"/v1/models/{name}:predict", json=body)


class Load(contextlib.AbstractContextManager):
    """Clients that ask one after the other, until they are told to end; keeps what they were answered.

    Attributes:
        answers: `[(status, first prediction)]`.
        failures: Errors of requests that were not answered, with whether a connection for them had been accepted.
    """

    def __init__(self, server, name):
        self.answers, self.failures = [], []
        self._server, self._name, self._end = server, name, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[number]) for number in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._end.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"

    def wait(self, count):
        """Waits for so many more answers."""
        goal = len(self.answers) + count
        end = time.monotonic() + 60
        while len(self.answers) < goal and time.monotonic() < end:
            time.sleep(0.01)
        assert len(self.answers) >= goal

    def _ask(self, number):
        # A connection that was idle for long may be closed any time: a careful client opens another.
        limits = httpx.Limits(keepalive_expiry=0.3)
        with httpx.Client(base_url=self._server.url, timeout=60, limits=limits) as client:
            while not self._end.is_set():
                try:
                    answer = ask(client, self._name, number)
                except httpx.ConnectError:
                    return  # nobody listens any more: not accepted
                except httpx.HTTPError as error:
                    self.failures.append(error)
                    return
                found = answer.json()["predictions"][0] if answer.status_code == 200 else answer.text
                self.answers.append((answer.status_code, number, found))


@pytest.fixture(scope="module")
def other_version(saved_models, tmp_path_factory, export_shapes):
    """The same model with another weight: its images are darker."""
    return export_shapes(tmp_path_factory.mktemp("other"), shade=-0.5)


def test_a_new_version_takes_over_under_load_and_the_old_one_is_unloaded(changing, directory, other_version, wait_for):
    with Load(changing, "rolled") as load:
        load.wait(30)
        publish(other_version, directory, "rolled", 2)
        wait_for(lambda: states(changing, "rolled") == {2: "AVAILABLE", 1: "END"}, changing)
        load.wait(30)
    assert not load.failures and {status for status, *_ in load.answers} == {200}
    means = [np.mean(found) for _, number, found in load.answers if number == 0]
    assert means[0] > means[-1] + 10, "the answers did not become those of the new version"
    assert len({round(mean, 3) for mean in means}) == 2, "an answer is of neither version"
    assert httpx.get(f"{changing.url}/models/rolled/image.png?version=1").status_code == 404


def test_a_broken_version_is_reported_and_the_old_one_goes_on_until_it_is_mended(
    changing, directory, other_version, wait_for, tmp_path
):
    broken = shutil.copytree(other_version, tmp_path / "broken")
    for file in (broken / "variables").iterdir():
        file.write_bytes(b"damaged")
    publish(broken, directory, "broken", 2)
    wait_for(lambda: states(changing, "broken").get(2) == "END", changing)
    status = httpx.get(f"{changing.url}/v1/models/broken/versions/2").json()["model_version_status"][0]["status"]
    assert status["error_code"] != "OK" and "could not be loaded" in status["error_message"]
    assert str(directory) not in status["error_message"]
    assert states(changing, "broken")[1] == "AVAILABLE" and versions(changing, "broken") == [1]
    with httpx.Client(base_url=changing.url, timeout=30) as client:
        assert ask(client, "broken", 1).status_code == 200
        assert client.get("/readyz").status_code == 200
        assert client.get("/models/broken/image.png?version=2").status_code == 404
    assert "broken/2 cannot be loaded" in changing.read_log()
    assert changing.read_log().count("broken/2 cannot be loaded") == 1, "it is not tried again and again"

    for file in (other_version / "variables").iterdir():
        shutil.copy(file, directory / "broken" / "2" / "variables")
    wait_for(lambda: states(changing, "broken") == {2: "AVAILABLE", 1: "END"}, changing)


def test_a_version_that_goes_gives_way_to_the_one_before(changing, directory, other_version, wait_for):
    publish(other_version, directory, "removed", 5)
    wait_for(lambda: states(changing, "removed") == {5: "AVAILABLE", 1: "END"}, changing)
    (directory / "removed" / "5").rename(directory / "removed" / ".gone")
    wait_for(lambda: states(changing, "removed") == {1: "AVAILABLE"}, changing)
    shutil.rmtree(directory / "removed")
    wait_for(lambda: states(changing, "removed") == {}, changing)
    assert httpx.get(f"{changing.url}/models/removed/image.png").status_code == 404


def test_a_version_whose_files_are_replaced_is_loaded_again_unless_they_are_bad(
    changing, directory, other_version, wait_for
):
    url = f"{changing.url}/models/replaced/image.png?seed=1"
    before = httpx.get(url)
    target = directory / "replaced" / "1"
    target.rename(directory / "replaced" / ".old")
    shutil.copytree(other_version, directory / "replaced" / ".writing")
    (directory / "replaced" / ".writing").rename(target)

    def differs():
        answer = httpx.get(url, headers={"If-None-Match": before.headers["etag"]})
        return answer.status_code == 200 and answer.content != before.content

    wait_for(differs, changing)
    now = httpx.get(url).content
    (target / "saved_model.pb").write_bytes(b"damaged")
    wait_for(lambda: "replaced/1 cannot be loaded" in changing.read_log(), changing)
    assert httpx.get(url).content == now and states(changing, "replaced") == {1: "AVAILABLE"}


def test_what_is_not_a_complete_version_is_left_alone(changing, directory, other_version, wait_for):
    for name in (".writing-3", "notes", "03", "-4", "5.0", "6"):
        (directory / "partial" / name).mkdir()
    shutil.copytree(other_version / "variables", directory / "partial" / "6" / "variables")  # no saved_model.pb
    shutil.copytree(other_version, directory / "partial" / ".writing-3", dirs_exist_ok=True)
    (directory / "partial" / "8").write_text("a file")
    publish(other_version, directory, "partial", 9)
    wait_for(lambda: 9 in versions(changing, "partial"), changing)
    assert states(changing, "partial").keys() == {1, 9}


def test_sigterm_lets_go_no_request_that_was_accepted(saved_models, start_server, tmp_path):
    shutil.copytree(saved_models / "shapes", tmp_path / "saved_models" / "shapes")
    server = start_server(tmp_path / "saved_models")
    with Load(server, "shapes") as load:
        load.wait(50)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert not load.failures, load.failures
    assert {status for status, *_ in load.answers} == {200}
    assert "Traceback" not in server.read_log()


def test_an_upstream_server_that_is_away_is_said_and_waited_for(saved_models, start_server):
    server = start_server(saved_models, "--upstream", "http://127.0.0.1:9", ready=False)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/readyz", "/models", "/models/faces/image.png", "/v1/models/faces", "/example1.png"):
            answer = client.get(path)
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1, path
            assert "127.0.0.1" not in answer.text
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 130


def test_models_are_waited_for_while_they_are_loaded_and_where_there_are_none_yet(
    tmp_path, saved_models, start_server, wait_for
):
    server = start_server(tmp_path, "--poll", 0.1, ready=False)
    answer = httpx.get(f"{server.url}/readyz")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert httpx.get(f"{server.url}/models").json() == []
    wait_for(lambda: httpx.get(f"{server.url}/models/shapes/image.png").status_code == 404, server)
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert server.stop() == 0


def test_the_tests_serve_without_the_zoo_training_and_keras(server):
    """What conftest.py makes of the server: here it is shown that this has an effect."""
    code = re.sub(r"runpy.run_module.*", "import zoo", _alone())
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "zoo is not to be had here" in done.stderr
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def _alone():
    return (Path(__file__).parent / "conftest.py").read_text(encoding="utf-8").split('ALONE = """')[1].split('"""')[0]
