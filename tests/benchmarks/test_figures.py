"""What the benchmarks make of their timings."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import all as every
from benchmarks import command, evaluating, growth, interleave, loading, quality, quality_pictures, touch, training_step
from benchmarks.command import Benchmark, Options, markdown_table, measured, ratio_text, seconds_text
from benchmarks.figures import batch_indices, fitted_exponent, ratio, summary
from benchmarks.interleave import Side, interleaved

MODULES = (training_step, quality, evaluating, loading, touch, growth)


def test_a_summary_is_the_median_with_quartiles():
    assert summary([4, 1, 3, 2, 5]) == {"median": 3.0, "q1": 2.0, "q3": 4.0, "count": 5}


def test_a_ratio_is_of_paired_turns_so_that_a_drift_of_the_machine_cancels():
    ours, theirs = [[1.0, 1.0, 9.0], [2.0], [8.0]], [[2.0], [4.0, 4.0], [16.0]]
    assert ratio(ours, theirs) == {"median": 2.0, "q1": 2.0, "q3": 2.0, "count": 3}
    with pytest.raises(ValueError):
        ratio(ours, theirs[:2])


def test_the_exponent_of_a_power_law_is_found_and_its_bend():
    found = fitted_exponent([1, 2, 4, 8], [3 * size**1.5 for size in (1, 2, 4, 8)])
    assert found["exponent"] == pytest.approx(1.5)
    bent = fitted_exponent([1, 2, 4, 8], [1, 1, 4, 16])
    assert bent["local"] == pytest.approx([0, 2, 2])
    told = growth.bends({"sizes": [1, 2, 4, 8], **bent})
    assert told.startswith("1 to 2: 0.00")


def test_sides_take_turns_in_processes_of_their_own():
    size = {"count": 20, "dimension": 4}
    methods = {"ours": "ours", "scipy": "sqrtm"}
    sides = [Side(name, "benchmarks.ours:frechet", {**size, "method": method}) for name, method in methods.items()]
    absent = Side("absent", "benchmarks.ours:frechet", {}, optional=True)
    lines = []
    results = interleaved([*sides, absent], turns=2, steps=3, threads=1, report=lines.append)
    assert [len(turn) for turn in results["ours"]["turns"]] == [3, 3]
    assert results["ours"]["value"] == pytest.approx(results["scipy"]["value"], rel=1e-6)
    assert "count" in results["absent"]["failed"] and lines[-1] == "  turn 2 of 2"
    with pytest.raises(RuntimeError, match="absent failed"):
        interleaved([Side("absent", "benchmarks.ours:frechet", {})], turns=1, steps=1, threads=1, report=lines.append)


def test_an_optional_side_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(interleave, "OPTIONAL_SECONDS", 0.05)
    slow = Side("slow", "benchmarks.ours:frechet", {"count": 9_000, "dimension": 2048, "method": "ours"}, optional=True)
    results = interleaved([slow], turns=1, steps=1, threads=1, report=lambda line: None)
    assert "given up" in results["slow"]["failed"]


def counting(calls, rows=("one", "two")):
    def measure(row, options):
        if row == "broken":
            raise RuntimeError("broken")
        calls.append(row)
        return {"number": len(calls)}

    return Benchmark("counting", "Counts.", rows, measure, ("row",), lambda row, figures: [[row]], needs_torch=False)


def test_rows_are_kept_as_they_are_measured_and_not_measured_again(tmp_path):
    path, options = tmp_path / "figures.json", Options(True, 1, None, report=lambda line: None)
    calls = []
    with pytest.raises(RuntimeError):
        measured(counting(calls), ("one", "broken"), options, path)
    rows = measured(counting(calls), ("one", "two"), options, path)
    assert calls == ["one", "two"] and {"date", "processor", "threads", "versions"} <= set(rows["one"]["measured"])
    assert set(json.loads(path.read_text())["rows"]) == {"one", "two"}
    assert measured(counting(calls), ("two",), options, path, overwrite=True)["two"]["number"] == 3
    with pytest.raises(ValueError, match="another benchmark"):
        measured(counting(calls), ("one",), Options(False, 1, None), path)


def test_the_table_has_a_line_a_row_in_the_order_of_the_benchmark():
    table = markdown_table(counting([]), {"two": {}, "one": {}})
    assert table.splitlines() == ["| row |", "| --- |", "| one |", "| two |"]


def test_the_best_of_each_side_are_compared_and_other_networks_refused():
    def side(seconds, parameters=10, **facts):
        facts |= {"parameters": {"generator": parameters}}
        start = {"build_seconds": 1.0, "first_step_seconds": 1.0, "peak_bytes": 1, "facts": facts}
        return {"turns": [[seconds], [seconds]], "cpu_turns": [[seconds]], **start}

    def results(**changed):
        peers = {"eager": side(9.0, flops=3e9), "channels_last": side(6.0), "compile": {"failed": "no compiler"}}
        product = {"turns": [[0.5]], "facts": {"flops": 1e9}}
        return {"XLA": side(3.0), "graph": side(4.0), **peers, "product": product, **changed}

    row = training_step.figures(results())
    assert row["best"] == {"ours": "XLA", "pytorch": "channels_last"} and row["ratio"]["median"] == 2.0
    assert row["share_of_product"] == pytest.approx({"ours": 0.5, "pytorch": 0.25})
    line = training_step.cells("dcgan-64", row | {"batch_size": 64})[0]
    assert line[2:7] == ["**3 s**", "4 s", "9 s", "**6 s**", "failed"] and len(line) == len(
        training_step.BENCHMARK.columns
    )
    with pytest.raises(RuntimeError, match="not the same network"):
        training_step.figures(results(graph=side(4.0, parameters=11)))


def test_only_what_stands_between_the_marks_of_the_page_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("prose\n<!-- figures: growth -->\nold\n<!-- end -->\nmore prose\n")
    every.render(page)
    text = page.read_text()
    assert text.startswith("prose\n") and text.endswith("<!-- end -->\nmore prose\n") and "old" not in text
    page.write_text("<!-- figures: nothing -->\n<!-- end -->")
    with pytest.raises(ValueError, match="nothing"):
        every.render(page)


def test_the_figures_of_the_page_lie_beside_it_and_give_way_row_by_row_to_those_measured_here(tmp_path, monkeypatch):
    options = Options(False, 1, None, report=lambda line: None)
    benchmark = dataclasses.replace(counting([]), cells=lambda row, figures: [[f"{row} {figures['number']}"]])
    monkeypatch.setattr(command, "HERE", tmp_path / "here")
    (tmp_path / "here").mkdir()
    measured(benchmark, ("one", "two"), options, benchmark.file())
    text = every.section(benchmark, tmp_path / "figures")
    assert "| one 1 |" in text and "| two 2 |" in text
    benchmark.file().unlink()  # another machine, which measures one of the rows
    assert every.section(benchmark, tmp_path / "figures") == text
    measured(benchmark, ("two",), options, benchmark.file())
    text = every.section(benchmark, tmp_path / "figures")
    assert "| one 1 |" in text and "| two 3 |" in text


def test_the_size_of_an_installation_that_is_not_there_is_not_zero(monkeypatch):
    monkeypatch.setattr(touch, "LIST_INSTALLED", "print('{}')")
    with pytest.raises(RuntimeError, match="has no installed keras-small-image-zoo"):
        touch.install_sizes(Options(True, 1, None))


def test_a_step_that_is_not_to_warm_up_runs_once_a_turn():
    side = Side("ours", "benchmarks.ours:frechet", {"count": 20, "dimension": 4, "method": "ours"})
    lines = []
    results = interleaved([side], turns=1, steps=1, threads=1, warm_up=False, report=lines.append)
    assert [len(turn) for turn in results["ours"]["turns"]] == [1] and results["ours"]["first_step_seconds"] is None
    assert "first step" not in lines[0]


def timed_row(*minutes):
    points = [{"minutes": each, "kid": 1 / each, "interval": [0.9 / each, 1.2 / each], "steps": 7} for each in minutes]
    return {"points": points, "floor": 0.0, "images": 9, "side": 32}


def test_the_chart_of_quality_is_on_the_page_with_a_panel_a_set_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "HERE", tmp_path)
    monkeypatch.setattr(command, "HERE", tmp_path)
    widths = {}
    rows = {"cars-sngan-16": timed_row(5, 10, 20), "cars-sngan-16-translation": timed_row(5, 10)}
    for name, more in (("one", {}), ("two", {"paintings-fastgan-16": timed_row(5, 10, 20)})):
        quality.draw(rows | more, tmp_path / name)
        with Image.open(tmp_path / name / "quality-time.png") as chart:
            widths[name] = chart.width
    assert widths["two"] == 2 * widths["one"]
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["quality-time.png"]  # no samples there
    page = Path(every.PAGE).read_text(encoding="utf-8")
    assert "images/quality-time.png" in page


def test_the_samples_of_each_run_stand_in_a_row_by_minutes_and_a_mark_that_is_missing_stays_white(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, value, marks in ((first, 10, (5, 10)), (second, 20, (5,))):
        folder.mkdir()
        for mark in marks:
            np.save(folder / f"samples_{mark}.npy", np.full((9, 32, 32, 3), value + mark, np.uint8))
    picture = np.asarray(quality_pictures.samples([first, second], (5, 10)))
    height, half = picture.shape[0] // 2, picture.shape[1] // 2
    corners = [[picture[y + height - 1, x, 0] for x in (0, half + 8)] for y in (0, height)]
    assert corners == [[15, 20], [25, 255]]


def test_the_page_has_a_place_for_every_benchmark():
    names = re.findall(r"<!-- figures: (\w+) -->", Path(every.PAGE).read_text(encoding="utf-8"))
    assert sorted(names) == sorted(module.BENCHMARK.name for module in MODULES)


@pytest.mark.parametrize("module", [*MODULES, every], ids=lambda module: module.__name__.rpartition(".")[2])
def test_help_says_what_there_is_and_a_wrong_option_exits_with_2(module, capsys):
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0 and "--torch-python" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        module.main(["--threads", "0"])
    assert ended.value.code == 2 and "--threads must be from 1" in capsys.readouterr().err


def test_the_minutes_of_quality_are_those_of_one_processor_unless_told_otherwise():
    assert command.build_parser(quality.BENCHMARK).parse_args([]).threads == 1
    assert command.build_parser(quality.BENCHMARK).parse_args(["--threads", "2"]).threads == 2
    arguments = every.build_parser().parse_args(["--threads", "2", "--data", "cars"])
    for module, threads in ((quality, "1"), (growth, "2")):
        words = every._options_of(module, arguments)
        assert words[words.index("--threads") + 1] == threads


def test_a_benchmark_keeps_to_its_processors_and_gives_the_others_back(tmp_path):
    before, during = os.sched_getaffinity(0), []

    def measure(row, options):
        during.append(os.sched_getaffinity(0))
        raise RuntimeError("broken")

    benchmark = dataclasses.replace(counting([]), measure=measure, threads=1)
    assert command.run(benchmark, ["--rows", "one", "--out", str(tmp_path / "figures.json")]) == 1
    assert during == [{min(before)}] and os.sched_getaffinity(0) == before


def test_an_unknown_row_is_told_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as ended:
        training_step.main(["--rows", "dcgan64", "--torch-python", "none"])
    assert ended.value.code == 2 and "Did you mean 'dcgan-64'" in capsys.readouterr().err


def test_every_image_is_used_once_an_epoch_in_an_order_that_is_a_function_of_the_seed():
    epoch = np.concatenate([batch_indices(10, 4, step, seed=3) for step in range(5)])
    assert sorted(epoch[:10]) == sorted(epoch[10:20]) == list(range(10)) and list(epoch[:10]) != list(epoch[10:20])
    np.testing.assert_array_equal(batch_indices(10, 4, 2, seed=3), epoch[8:12])
    assert list(batch_indices(10, 10, 0, seed=4)) != list(epoch[:10])


def test_a_row_of_quality_without_its_images_says_which_option_names_them(capsys):
    assert quality.main(["--rows", "paintings-fastgan-16", "--torch-python", "none", "--quick"]) == 1
    assert "paintings-fastgan-16 needs --paintings FOLDER" in capsys.readouterr().err


def test_times_and_ratios_read_in_three_digits():
    assert [seconds_text(each) for each in (0.01234, 1.5, 119.0, 600.0)] == ["12.3 ms", "1.5 s", "119 s", "10 min"]
    assert ratio_text({"median": 1.5, "q1": 1.25, "q3": 2}) == "1.50 (1.25 to 2.00)"
