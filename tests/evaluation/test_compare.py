"""`python -m evaluation.compare`: what it shows, and what it refuses."""

import copy
import json

import numpy as np
import pytest

from evaluation import compare, judge


@pytest.fixture(scope="module")
def base():
    generator = np.random.default_rng(0)
    train, test, fake = (generator.normal(size=(60, 8)) for _ in range(3))
    made_with = {"network": "efficientnet-lite0", "weights_hash": "ab" * 32, "resize": "clean"}
    return {
        "name": "boxes",
        "version": 1,
        "title": "boxes, version 1",
        "made_with": made_with | {"seed": 0},
        "data": {"train": {"fingerprint": "f" * 64}, "test": {"fingerprint": "e" * 64}},
        "metrics": judge.measure(train, test, fake, made_with, seed=0),
    }


def save(tmp_path, *reports):
    paths = []
    for i, report in enumerate(reports):
        paths.append(str(tmp_path / f"{i}.json"))
        (tmp_path / f"{i}.json").write_text(json.dumps(report))
    return paths


def changed(report, **provenance):
    report = copy.deepcopy(report) | {"version": 2}
    for figure in report["metrics"].values():
        figure.update(provenance)
    return report


def test_reports_stand_side_by_side_as_table_and_chart(base, tmp_path, capsys):
    other = changed(base)
    other["metrics"]["kid"]["value"] -= 1
    assert compare.main([*save(tmp_path, base, other), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    kid = next(line for line in printed.splitlines() if line.startswith("KID"))
    assert "boxes 1" in printed and "boxes 2" in printed and kid.count(" to ") == 2 and kid.count("*") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.html", "compare.md", "compare.png"}
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")
    html = (tmp_path / "out/compare.html").read_text()
    assert "http" not in html and "boxes 2" in html and "ab" * 4 in html
    assert "| --- |" in (tmp_path / "out/compare.md").read_text()


def test_a_report_may_be_named_by_its_directory_and_equal_names_are_told_apart(base, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(base))
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert str(tmp_path / "a") in header and str(tmp_path / "b") in header


@pytest.mark.parametrize(
    ("provenance", "named"),
    [
        ({"network": "resnet50"}, ["network", "efficientnet-lite0", "resnet50"]),
        ({"weights_hash": "cd" * 32}, ["weights hash", "cd" * 32]),
        ({"resize": "legacy-tf1"}, ["resize mode", "legacy-tf1"]),
        ({"n_real": 50}, ["number of real images", "boxes 1: 60", "boxes 2: 50"]),
        ({"n_fake": 50}, ["number of generated images", "boxes 2: 50"]),
    ],
)
def test_what_was_measured_differently_is_refused_and_named(base, tmp_path, capsys, provenance, named):
    with pytest.raises(SystemExit) as stopped:
        compare.main([*save(tmp_path, base, changed(base, **provenance)), "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and "cannot be compared" in message
    assert all(word in message for word in named)
    assert not (tmp_path / "out").exists()


def test_other_real_images_are_refused(base, tmp_path, capsys):
    other = changed(base)
    other["data"]["train"]["fingerprint"] = "0" * 64
    with pytest.raises(SystemExit):
        compare.main([*save(tmp_path, base, other), "--out", str(tmp_path / "out")])
    assert "real images (fingerprint)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "expected"), [("{", "is not JSON"), ("[]", "is not a report"), ('{"metrics": {}}', "is not a report")]
)
def test_what_is_no_report_is_a_clear_error(base, tmp_path, capsys, content, expected):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        compare.main([*save(tmp_path, base), str(tmp_path / "bad.json")])
    assert stopped.value.code == 2 and expected in capsys.readouterr().err


def test_one_report_is_not_enough_and_a_missing_one_is_named(base, tmp_path, capsys):
    with pytest.raises(SystemExit):
        compare.main(save(tmp_path, base))
    assert "At least 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare.main([*save(tmp_path, base), str(tmp_path / "nowhere.json")])
    assert "nowhere.json cannot be read" in capsys.readouterr().err
