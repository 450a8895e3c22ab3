"""The addresses of pictures, the quiz, and what is said of the models."""

import io
import re
import zipfile

import httpx
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

CLASS_NAMES = ["circle", "square", "star"]  # of `shapes` in conftest.py
CREDIT = "Somebody, CC0"


@pytest.fixture(params=["server", "front"])
def client(request):
    with httpx.Client(base_url=request.getfixturevalue(request.param).url, timeout=60) as client:
        yield client


def expected(models, name, seeds, labels=None, truncation=1.0):
    inputs = {"seed": tf.constant(seeds, tf.int64), "truncation": tf.fill([len(seeds)], truncation)}
    if labels is not None:
        inputs["label"] = tf.constant(labels, tf.int64)
    return models[name].signatures["sample"](**inputs)["images"].numpy()


def picture(answer, kind="image/png"):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == kind
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def assert_same(image, other):
    """The same image, but for what computing it in another batch may change."""
    assert image.shape == other.shape
    difference = np.abs(image.astype(int) - other)
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.001


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, -(2**63)])
def test_an_image_is_that_of_its_seed(client, models, seed):
    answer = client.get("/models/faces/image.png", params={"seed": seed})
    assert_same(picture(answer), expected(models, "faces", [seed])[0])


def test_label_and_truncation_are_passed_on(client, models):
    answer = client.get("/models/shapes/image.png", params={"seed": 4, "label": 0, "truncation": 0.3, "version": 1})
    assert_same(picture(answer), expected(models, "shapes", [4], [0], 0.3)[0])


def test_without_a_label_the_classes_go_round(client, models):
    for seed in (4, 5, -1):
        answer = client.get("/models/shapes/image.png", params={"seed": seed})
        assert_same(picture(answer), expected(models, "shapes", [seed], [seed % 3])[0])


def test_without_a_seed_each_image_is_another_and_says_its_seed(client, models):
    answers = [client.get("/models/faces/image.png") for _ in range(3)]
    seeds = [int(answer.headers["x-seed"]) for answer in answers]
    assert len(set(seeds)) == 3 and {answer.headers["cache-control"] for answer in answers} == {"no-store"}
    for answer, seed in zip(answers, seeds):
        assert_same(picture(answer), expected(models, "faces", [seed])[0])


def test_the_example_is_fresh_at_each_reload(client):
    first, second = (client.get("/example1.png") for _ in range(2))
    assert picture(first).shape == (32, 32, 3), "the first model by name is faces"
    assert first.headers["cache-control"] == "no-store" and first.content != second.content
    assert picture(client.get("/example1.png", params={"model": "shapes"})).shape == (16, 16, 3)
    assert client.get("/example1.png", params={"model": "nothing"}).status_code == 404


def test_an_image_is_not_sent_twice_to_who_has_it(client):
    url, params = "/models/faces/image.png", {"seed": 3}
    first = client.get(url, params=params)
    tag = first.headers["etag"]
    again = client.get(url, params=params, headers={"If-None-Match": f'"x", {tag}'})
    assert again.status_code == 304 and not again.content and again.headers["etag"] == tag
    for other in ({"seed": 4}, {"seed": 3, "truncation": 0.5}, {"seed": 3, "seed_b": 4, "t": 0.5}):
        answer = client.get(url, params=other, headers={"If-None-Match": tag})
        assert answer.status_code == 200 and answer.headers["etag"] != tag
    assert "no-cache" in first.headers["cache-control"], "another version may be the newest tomorrow"
    assert "max-age" in client.get(url, params={**params, "version": 1}).headers["cache-control"]


def test_the_way_between_two_seeds_begins_and_ends_with_their_images(client, models):
    def at(t, **further):
        params = {"seed": 4, "seed_b": 8, "t": t, "truncation": 0.7, **further}
        return picture(client.get("/models/shapes/image.png", params=params))

    first, last = expected(models, "shapes", [4, 8], [1, 1], 0.7)  # the class of the first seed throughout
    assert_same(at(0), first)
    assert_same(at(1), last)
    assert_same(at(1, label=2), expected(models, "shapes", [8], [2], 0.7)[0])
    middle = at(0.5)
    assert np.abs(middle.astype(int) - first).mean() > 1 and np.abs(middle.astype(int) - last).mean() > 1


def test_a_grid_holds_successive_seeds_row_by_row(client, models):
    grid = picture(client.get("/models/shapes/grid.png", params={"seed": 5, "count": 11, "label": 1}))
    assert grid.shape == (2 * 16, 8 * 16, 3)
    images = expected(models, "shapes", range(5, 16), [1] * 11)
    for place, image in enumerate(images):
        top, left = place // 8 * 16, place % 8 * 16
        assert_same(grid[top : top + 16, left : left + 16], image)
    assert (grid[16:, 3 * 16 :] == 255).all(), "the rest of the last row is white"


def test_a_walk_goes_there_and_back(client, models):
    params = {"seed_a": 1, "seed_b": 2, "frames": 4}
    answer = client.get("/models/faces/walk.webp", params=params)
    walk = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/webp"
    assert walk.n_frames == 6 and walk.info["loop"] == 0, "4 there, 2 between on the way back, again and again"
    frames = []
    for place in range(6):
        walk.seek(place)
        frames.append(np.asarray(walk.convert("RGB"), int))
    factor = frames[0].shape[0] // 32
    first, last = expected(models, "faces", [1, 2])
    assert_same(frames[0][::factor, ::factor], first)
    assert_same(frames[3][::factor, ::factor], last)
    np.testing.assert_array_equal(frames[5], frames[1])
    assert np.abs(frames[1] - frames[2]).max() > 0


def test_an_archive_holds_the_images_of_its_seeds(client, models):
    answer = client.get("/models/faces/images.zip", params={"seeds": "3,-1,3,10"})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["faces-1-seed3.png", "faces-1-seed-1.png", "faces-1-seed10.png"]
        for name, image in zip(archive.namelist(), expected(models, "faces", [3, -1, 10])):
            assert_same(np.asarray(Image.open(io.BytesIO(archive.read(name)))), image)


@pytest.mark.parametrize(
    "path, field",
    [
        ("/models/faces/image.png?seed=x", "seed"),
        ("/models/faces/image.png?seed=9223372036854775808", "seed"),
        (f"/models/faces/image.png?seed={'9' * 5000}", "seed"),
        ("/models/faces/image.png?seed=1.5", "seed"),
        ("/models/faces/image.png?seed=1&truncation=nan", "truncation"),
        ("/models/faces/image.png?seed=1&truncation=-0.1", "truncation"),
        ("/models/faces/image.png?seed=1&truncation=1e400", "truncation"),
        ("/models/faces/image.png?seed=1&label=0", "label"),
        ("/models/shapes/image.png?seed=1&label=3", "label"),
        ("/models/shapes/image.png?seed=1&label=-1", "label"),
        ("/models/faces/image.png?seed=1&version=one", "version"),
        ("/models/faces/image.png?seed=1&seed_b=2", "t "),
        ("/models/faces/image.png?seed=1&t=0.5", "seed_b"),
        ("/models/faces/image.png?seed_b=1&t=0.5", "seed"),
        ("/models/faces/image.png?seed=1&seed_b=2&t=inf", "t"),
        ("/models/faces/grid.png?count=0", "count"),
        ("/models/faces/grid.png?count=257", "count"),
        ("/models/faces/grid.png?count=99999999999999999999", "count"),
        ("/models/faces/grid.png?seed=9223372036854775807&count=2", "seed"),
        ("/models/faces/walk.webp?seed_a=1", "seed_b"),
        ("/models/faces/walk.webp?seed_a=1&seed_b=2&frames=1", "frames"),
        ("/models/faces/walk.webp?seed_a=1&seed_b=2&frames=61", "frames"),
        ("/models/faces/images.zip", "seeds"),
        ("/models/faces/images.zip?seeds=", "seeds"),
        ("/models/faces/images.zip?seeds=1,,2", "seeds"),
        ("/models/faces/images.zip?seeds=9999999999999999999", "seeds"),
        (f"/models/faces/images.zip?seeds={','.join(map(str, range(257)))}", "seeds"),
        ("/models/faces/quiz/x/left.png", "number"),
        ("/models/faces/quiz/1/middle.png", "side"),
    ],
)
def test_a_wrong_parameter_is_named(server, path, field):
    answer = httpx.get(server.url + path)
    assert answer.status_code == 400, answer.text
    assert answer.json().keys() == {"error"} and field in answer.json()["error"]


@pytest.mark.parametrize("what", ["image.png?seed=1", "grid.png", "walk.webp?seed_a=1&seed_b=2", "images.zip?seeds=1",
                                  "card.json", "quiz/1/left.png"])  # fmt: skip
def test_an_unknown_model_or_version_is_not_found(client, what):
    joint = "&" if "?" in what else "?"
    for path in (f"/models/nothing/{what}", f"/models/faces/{what}{joint}version=9"):
        answer = client.get(path)
        assert answer.status_code == 404 and "Servable not found" in answer.json()["error"]


def test_the_list_of_models(client):
    faces, shapes = client.get("/models").json()
    signatures = ["discriminate", "latents", "sample", "sample_png", "serving_default"]
    assert faces == {
        "name": "faces", "versions": [1], "image_shape": [32, 32, 3], "arch": "sngan", "variant": "cnn", "step": 0,
        "conditional": False, "class_names": [], "signatures": signatures, "has_reals": True,
    }  # fmt: skip
    assert shapes == {
        "name": "shapes", "versions": [1], "image_shape": [16, 16, 3], "arch": "shapes", "variant": None, "step": 10,
        "conditional": True, "class_names": CLASS_NAMES, "signatures": signatures, "has_reals": False,
    }  # fmt: skip


def test_a_card_has_the_report_and_no_paths(client):
    card = client.get("/models/faces/card.json").json()
    assert card["arch"] == "sngan" and card["training"]["num_images"] == 100
    assert card["training"]["data"] == "photos"
    assert card["report"]["metrics"]["kid"]["value"] == 0.05
    assert card["report"]["command"] == "python -m evaluation.report --model saved_models/faces --data photos"
    assert client.get("/models/shapes/card.json").json()["report"] is None


def test_the_quiz_shows_one_real_image_and_one_of_the_model(client, models, saved_models):
    with np.load(saved_models / "faces" / "1" / "assets.extra" / "reals.npz") as file:
        reals = file["images"]
    sides = []
    for number in range(12):
        pair = {}
        for side in ("left", "right"):
            answer = client.get(f"/models/faces/quiz/{number}/{side}.png")
            pair[side] = picture(answer)
            assert answer.headers["cache-control"] == "no-store" and "x-seed" not in answer.headers
        is_real = {side: any((image == real).all() for real in reals) for side, image in pair.items()}
        assert sorted(is_real.values()) == [False, True]
        real = "left" if is_real["left"] else "right"
        sides.append(real)
        for choice in ("left", "right"):
            verdict = client.post(f"/models/faces/quiz/{number}", json={"choice": choice}).json()
            assert verdict == {"correct": choice == real, "real": real, "credit": CREDIT}
        again = picture(client.get(f"/models/faces/quiz/{number}/{real}.png"))
        np.testing.assert_array_equal(again, pair[real])
    assert set(sides) == {"left", "right"}


def test_the_files_of_the_quiz_differ_in_nothing_but_the_picture(server):
    heads = set()
    for number in range(8):
        for side in ("left", "right"):
            answer = httpx.get(f"{server.url}/models/faces/quiz/{number}/{side}.png")
            headers = {key: value for key, value in answer.headers.items() if key not in ("date", "content-length")}
            chunks = re.findall(rb"IHDR.{17}|IDAT|IEND|tEXt|tIME|gAMA|pHYs|iCCP|sRGB", answer.content, re.DOTALL)
            heads.add((tuple(sorted(headers.items())), chunks[0], frozenset(chunks)))
    assert len(heads) == 1


def test_a_model_without_real_images_has_no_quiz(client):
    for answer in (client.get("/models/shapes/quiz/1/left.png"),
                   client.post("/models/shapes/quiz/1", json={"choice": "left"})):  # fmt: skip
        assert answer.status_code == 404 and "no real images" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"choice": "up"}', b'{"choice": 1}', b"\xff"])
def test_a_wrong_choice_is_refused(server, body):
    answer = httpx.post(f"{server.url}/models/faces/quiz/1", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json().keys() == {"error"}


def test_the_page_and_its_files_are_served_and_nothing_else(server):
    page = httpx.get(f"{server.url}/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    files = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert files and all(httpx.get(f"{server.url}/{file}").status_code == 200 for file in files)
    assert httpx.get(f"{server.url}/static/nothing.js").status_code == 404


def test_prometheus_finds_the_figures(server):
    httpx.get(f"{server.url}/models/faces/image.png?seed=1")
    httpx.get(f"{server.url}/nothing/at/all")
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'serving_requests_total{method="GET",path="/models/{name}/image.png",status="200"}' in answer.text
    assert 'serving_versions{model="faces"} 1.0' in answer.text
    assert "serving_waiting_rows 0.0" in answer.text and "process_resident_memory_bytes" in answer.text
    assert "nothing" not in answer.text, "paths that are asked for must not make series of their own"


def test_health(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
