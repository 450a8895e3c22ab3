"""Imports go one way: serving and evaluation do without the zoo, the zoo does without all of them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
OURS = {"zoo", "training", "evaluation", "serving", "benchmarks", "tests"}
SOURCES = sorted(
    path.relative_to(REPOSITORY)
    for package in ("zoo", "training", "evaluation", "serving", "benchmarks", "tests")
    for path in (REPOSITORY / package).rglob("*.py")
)


def imported(path):
    """Returns the dotted names that a file imports anywhere, `from a import b` as `a.b`."""
    names = set()
    for node in ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = list(path.with_suffix("").parts[: len(path.parts) - node.level]) if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                names.add(node.args[0].value)
    return names


def is_from(name, module):
    return name == module or name.startswith(f"{module}.")


def sources(*packages):
    return [path for path in SOURCES if path.parts[0] in packages]


def offences(paths, forbidden):
    """Returns `file: name` for every import that `forbidden(path, name)` holds of."""
    return [f"{path}: {name}" for path in paths for name in sorted(imported(path)) if forbidden(path, name)]


def test_the_walk_over_the_files_sees_the_imports_that_are_there():
    assert len(sources("zoo")) >= 10 and len(sources("training")) >= 10
    names = imported(Path("training/fit.py"))
    assert "training.config" in names
    assert "zoo.registry.get_class" in names, "an import inside a function was not seen"


def test_the_zoo_imports_nothing_of_the_other_packages():
    assert not offences(sources("zoo"), lambda path, name: name.split(".")[0] in OURS - {"zoo"})


def test_training_imports_the_zoo_and_nothing_else_of_ours():
    assert not offences(sources("training"), lambda path, name: name.split(".")[0] in OURS - {"zoo", "training"})


def test_the_data_layer_imports_neither_zoo_nor_the_rest_of_training():
    layer = {"data", "datasets", "decode", "image_cache", "sources", "transforms"}
    paths = [path for path in sources("training") if path.with_suffix("").parts[1] in layer]
    assert {path.with_suffix("").parts[1] for path in paths} == layer
    assert not offences(paths, lambda path, name: name.split(".")[0] in OURS
                        and not (is_from(name, "training") and name.split(".")[1] in layer))  # fmt: skip


def test_evaluation_takes_of_ours_only_the_data_layer_and_the_pretrained_features():
    def forbidden(path, name):
        if name.split(".")[0] not in OURS - {"evaluation"}:
            return False
        # The augmentation study trains models and draws from them: it may call what training and serving offer.
        if path.stem.startswith("augmentation") and (is_from(name, "training") or is_from(name, "serving")):
            return False
        return not (is_from(name, "training.data") or is_from(name, "zoo.perceptual"))

    assert not offences(sources("evaluation"), forbidden)


def test_serving_imports_nothing_of_ours():
    assert not offences(sources("serving"), lambda path, name: name.split(".")[0] in OURS - {"serving"})


def test_architectures_never_import_each_other():
    paths = [path for path in sources("zoo") if path.parts[1:2] == ("architectures",)]
    assert len(paths) >= 3
    assert not offences(paths, lambda path, name: is_from(name, "zoo.architectures"))


def test_nothing_unpickles_but_the_readers_of_pretrained_weights():
    def forbidden(path, name):
        pickles = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        return name.split(".")[0] in pickles and path.parts[:2] != ("zoo", "perceptual")

    assert not offences(sources("zoo", "training", "evaluation", "serving", "benchmarks"), forbidden)


def test_no_numpy_file_of_the_project_is_read_with_pickles_allowed():
    for path in sources("zoo", "training", "evaluation", "serving", "benchmarks"):
        for node in ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{path}:{node.value.lineno}"


def test_nothing_imports_tensorflow_addons():
    paths = [path for path in SOURCES if path.parts[:2] != ("tests", "reference")]  # scripts of other environments
    assert not offences(paths, lambda path, name: is_from(name, "tensorflow_addons"))


@pytest.mark.parametrize("module", ["zoo", "training.config", "training.data", "training.fit", "serving.sample"])
def test_importing_it_imports_neither_tensorflow_nor_keras(module):
    code = f"import sys, {module}; print(sorted({{'tensorflow', 'keras', 'jax', 'torch', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
