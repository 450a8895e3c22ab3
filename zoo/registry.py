"""Which architectures there are, and how to find one: `names`, `describe`, `get_class`.

Names, constructor signatures and recipes are read from the source with `ast`, so that a command line can list
them, and refuse a wrong option, in milliseconds: TensorFlow is imported only when a class is asked for.
"""

import ast
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from zoo.recipe import TUNABLE, Recipe, select_variant

ARCHITECTURES = Path(__file__).parent / "architectures"
# Where the constructors that an architecture extends are written.
BASES = {
    "GenerativeModel": Path(__file__).parent / "generative.py",
    "GAN": Path(__file__).parent / "adversarial.py",
    "Autoencoder": Path(__file__).parent / "autoencoding.py",
}
_CLASSES = {}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One constructor argument: its name, annotated type and default."""

    name: str
    annotation: Any
    default: Any

    def parse(self, text):
        """Returns the value that `text` stands for, checked against the annotation.

        Raises:
            ValueError: If it is not a value of the annotated type.
        """
        value = parse_value(self.name, self.annotation, text)
        # What an architecture counts (filters, latents, discriminator steps) comes in ones and more, or is off.
        if type(value) is int and value < 1 and value != self.default and self.name != "seed":
            raise ValueError(f"`{self.name}` must be at least 1. Received: {text!r}")
        return value


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of an architecture without importing it.

    Args:
        name: Registered name (or `file.py:Class` for a user's own).
        class_name: The class.
        path: Source file.
        summary: First line of the class's docstring.
        parameters: Constructor arguments by name, `image_shape` left out.
        recipes: Training settings by variant.
    """

    name: str
    class_name: str
    path: Path
    summary: str
    parameters: Mapping[str, Parameter]
    recipes: Mapping[str, Recipe]

    def select(self, image_shape, hyperparameters):
        """Returns `(recipe, hyperparameters)` with the variant chosen and every recipe default filled in."""
        unknown = [name for name in hyperparameters if name not in self.parameters]
        if unknown:
            raise ValueError(unknown_name(f"argument of {self.name}", unknown[0], self.parameters))
        variant = select_variant(self.name, self.recipes, hyperparameters.get("variant"), image_shape)
        recipe = self.recipes[variant]
        resolved = {name: parameter.default for name, parameter in self.parameters.items()}
        resolved |= {name: value for name, value in hyperparameters.items() if value is not None}
        for name, value in recipe.hyperparameters.items():
            if resolved.get(name) is None:
                resolved[name] = value
        if "variant" in self.parameters:
            resolved["variant"] = variant
        return recipe, resolved


def unknown_name(kind, received, known):
    """Returns the message for a name that is not in `known`, with the nearest one."""
    known = sorted(known)
    near = difflib.get_close_matches(received, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind}: {received!r}.{hint} Known: {', '.join(known)}"


def parse_value(name, annotation, text):
    """Returns `text` as a value of the type `annotation` (bool, int, float, str, a Literal, or a union with None)."""
    if isinstance(annotation, (types.UnionType, type(Literal[1] | None))):
        if text.lower() == "none" and type(None) in typing.get_args(annotation):
            return None
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        if text in choices:
            return text
        raise ValueError(f"`{name}`: " + unknown_name("value", text, choices))
    if annotation is bool:
        if text.lower() in ("true", "yes", "1"):
            return True
        if text.lower() in ("false", "no", "0"):
            return False
        raise ValueError(f"`{name}` must be true or false. Received: {text!r}")
    if annotation in (int, float):
        try:
            value = annotation(text)
        except ValueError:
            kind = "a whole number" if annotation is int else "a number"
            raise ValueError(f"`{name}` must be {kind}. Received: {text!r}") from None
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"`{name}` must be a finite number. Received: {text!r}")
        return value
    return text


def register(name):
    """Class decorator that gives an architecture its name (`zoo.names()`, `--arch NAME`).

    Raises:
        ValueError: If another class already has this name.
    """

    def decorate(cls):
        import keras

        owner = (cls.__module__, cls.__qualname__)
        if name in _CLASSES:
            owner = (_CLASSES[name].__module__, _CLASSES[name].__qualname__)
        elif name in _builtin_cards():  # imported or not
            card = _builtin_cards()[name]
            owner = (f"zoo.architectures.{card.path.stem}", card.class_name)
        if owner != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"The name {name!r} is taken by {'.'.join(owner)}. Register {cls.__qualname__} under another one."
            )
        _CLASSES[name] = cls
        cls.architecture = name
        return keras.saving.register_keras_serializable(package="zoo", name=name)(cls)

    return decorate


def names():
    """Returns the names of the architectures of the zoo, sorted, and of those registered in this process."""
    return sorted(set(_builtin_cards()) | set(_CLASSES))


def describe(name):
    """Returns the `Card` of an architecture, by name or as `path/to/file.py:Class`, without importing it.

    Raises:
        ValueError: If there is none of that name (the nearest is proposed), or the file cannot be read so.
    """
    if ":" in name or name.endswith(".py"):
        return _user_card(name)
    cards = _builtin_cards()
    if name in cards:
        return cards[name]
    if name in _CLASSES:
        return _card_of_class(name, _CLASSES[name])
    raise ValueError(unknown_name("architecture", name, names()))


def get_class(name):
    """Imports and returns the class of an architecture (see `describe` for what `name` may be)."""
    card = describe(name)
    if card.path.parent == ARCHITECTURES:
        importlib.import_module(f"zoo.architectures.{card.path.stem}")
        return _CLASSES[name]
    if name in _CLASSES:
        return _CLASSES[name]
    for cls in _CLASSES.values():  # the same file a second time
        loaded = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if loaded and Path(loaded).resolve() == card.path and cls.__name__ == card.class_name:
            return cls
    module_name = f"_zoo_user_{card.path.stem}_{abs(hash(str(card.path)))}"
    spec = importlib.util.spec_from_file_location(module_name, card.path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return getattr(module, card.class_name)


@functools.cache
def _builtin_cards():
    cards = {}
    for path in sorted(ARCHITECTURES.glob("*.py")):
        for card in _cards_of_file(path).values():
            if card.name is not None:
                cards[card.name] = card
    return cards


def _card_of_class(name, cls):
    """Returns the `Card` of a class that is there already: in a notebook there is no file to read it from."""
    parameters = {}
    for base in (base for base in cls.__mro__ if "__init__" in vars(base)):
        arguments = list(inspect.signature(base.__init__).parameters.values())[2:]  # self and image_shape stand first
        for item in (item for item in arguments if item.kind is not inspect.Parameter.VAR_KEYWORD):
            default = None if item.default is item.empty else item.default
            guess = str if default is None else type(default)
            annotation = guess if item.annotation is item.empty else item.annotation
            parameters.setdefault(item.name, Parameter(item.name, annotation, default))
        if all(item.kind is not inspect.Parameter.VAR_KEYWORD for item in arguments):
            break
    return Card(
        name=name,
        class_name=cls.__name__,
        path=Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "."),
        summary=(inspect.getdoc(cls) or cls.__name__).splitlines()[0],
        parameters=parameters,
        recipes=cls.recipes,
    )


def _user_card(name):
    file, _, class_name = name.rpartition(":") if ":" in name else (name, "", "")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise ValueError(
            f"No file {file!r} to read an architecture from. Give `--arch path/to/file.py:Class`, or one of: "
            f"{', '.join(names())}"
        )
    cards = _cards_of_file(path)
    if not class_name:
        cards = {key: card for key, card in cards.items() if card.name is not None}
        if len(cards) != 1:
            raise ValueError(f"Say which class of {file!r}: `{file}:Class`, one of {', '.join(cards) or 'none'}")
        class_name = next(iter(cards))
    if class_name not in cards:
        raise ValueError(unknown_name(f"class in {file!r}", class_name, cards))
    return dataclasses.replace(cards[class_name], name=f"{path}:{class_name}")


def _cards_of_file(path):
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is not a Python file that can be read: {error}") from None
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return {
        name: Card(
            name=_registered_name(node, path),
            class_name=name,
            path=path,
            summary=(ast.get_docstring(node) or name).splitlines()[0],
            parameters=_parameters(node, classes, path),
            recipes=_recipes(node, classes, path),
        )
        for name, node in classes.items()
    }


def _registered_name(node, path):
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).split(".")[-1] == "register":
            try:
                return ast.literal_eval(decorator.args[0])
            except (IndexError, ValueError):
                raise ValueError(
                    f"{path}: `register` of {node.name} must be given the name as a literal, "
                    f"so that it can be read without running the file. Received: @{ast.unparse(decorator)}"
                ) from None
    return None


@functools.cache
def _files_of_bases():
    """Returns the file of each class of the zoo that a user's own may extend."""
    files = dict(BASES)
    for path in sorted(ARCHITECTURES.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = (node for node in tree.body if isinstance(node, ast.ClassDef))
        files |= {node.name: path for node in nodes if _registered_name(node, path) is not None}
    return files


def _base_node(node, classes):
    """Returns the `ClassDef` that `node` extends and its neighbours, in the same file or among the zoo's own bases."""
    for base in node.bases:
        name = ast.unparse(base).split(".")[-1]
        if name in classes and classes[name] is not node:
            return classes[name], classes
        if name in _files_of_bases():
            tree = ast.parse(_files_of_bases()[name].read_text(encoding="utf-8"))
            found = {item.name: item for item in tree.body if isinstance(item, ast.ClassDef)}
            return found[name], found
    return None, {}


def _parameters(node, classes, path):
    init = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    base, neighbours = _base_node(node, classes)
    inherited = _parameters(base, neighbours, path) if base is not None else {}
    if init is None:
        return inherited
    arguments = init.args
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    pairs = list(zip(positional, defaults, strict=True))[2:]  # self and image_shape stand first
    pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    own = {}
    for argument, default in pairs:
        try:
            value = ast.literal_eval(default) if default is not None else None
        except ValueError:
            raise ValueError(
                f"{path}: the default of `{argument.arg}` of {node.name} must be a literal, so that it can be "
                f"read without running the file. Received: {ast.unparse(default)}"
            ) from None
        own[argument.arg] = Parameter(argument.arg, _annotation(argument.annotation, value), value)
    return own | {key: value for key, value in inherited.items() if arguments.kwarg and key not in own}


def _annotation(node, default):
    """Returns the type an annotation names, without evaluating it; what is not understood counts as text."""
    simple = {"int": int, "float": float, "str": str, "bool": bool}
    if isinstance(node, ast.Name) and node.id in simple:
        return simple[node.id]
    if isinstance(node, ast.Constant) and node.value is None:
        return type(None)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _annotation(node.left, default) | _annotation(node.right, default)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).split(".")[-1] == "Literal":
        choices = ast.literal_eval(node.slice)
        return Literal[choices if isinstance(choices, tuple) else (choices,)]
    return type(default) if node is None and default is not None else str


def _recipes(node, classes, path):
    for item in node.body:
        targets = [item.target] if isinstance(item, ast.AnnAssign) else getattr(item, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == "recipes" for target in targets):
            try:
                return {
                    ast.literal_eval(key): _recipe(value)
                    for key, value in zip(item.value.keys, item.value.values, strict=True)
                }
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}: `recipes` of {node.name} must be a dict of `Recipe(...)` calls with literal arguments, "
                    f"so that it can be read without running the file ({error})"
                ) from None
    base, neighbours = _base_node(node, classes)
    if base is not None:
        return _recipes(base, neighbours, path)
    return {"default": Recipe(source="none stated")}


def _recipe(node):
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Recipe"):
        raise ValueError(f"not a Recipe: {ast.unparse(node)}")
    return Recipe(**{keyword.arg: _literal(keyword.value) for keyword in node.keywords})


def _literal(node):
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "range":
        return range(*(ast.literal_eval(argument) for argument in node.args))
    return ast.literal_eval(node)


def parse_settings(card, settings):
    """Splits `NAME=VALUE` texts into constructor arguments and recipe fields, checked and typed.

    Args:
        card: The architecture's `Card`.
        settings: Texts such as `"base_filters=32"`.

    Returns:
        `(hyperparameters, recipe_fields)`, two dicts.

    Raises:
        ValueError: If a text is not of that form, a name is unknown (the nearest is proposed) or a value has the
            wrong type.
    """
    hyperparameters, fields = {}, {}
    for text in settings:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ValueError(f"--set takes NAME=VALUE. Received: {text!r}")
        if name in card.parameters:
            hyperparameters[name] = card.parameters[name].parse(value.strip())
        elif name in TUNABLE:
            fields[name] = parse_value(name, TUNABLE[name], value.strip())
        else:
            raise ValueError(unknown_name(f"argument of {card.name}", name, [*card.parameters, *TUNABLE]))
    return hyperparameters, fields
