"""JSON to arrays and back, by the rules of TensorFlow Serving's REST interface.

The rules are those of its documentation (api_rest.md) and of its source (util/json_tensor.cc): row and column form, the
shorthand for a single input or output, `{"b64": ...}` for bytes, NaN and Infinity as tokens, no lossy conversion.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from itertools import chain

import numpy as np
import orjson

from serving.errors import ApiError, invalid, shown

DEFAULT_SIGNATURE = "serving_default"
INTEGERS = ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float32", "float64")
ACCEPTED = {
    "string": {str, dict},
    "bool": {bool},
    **dict.fromkeys(INTEGERS, {int}),
    **dict.fromkeys(FLOATS, {int, float}),
}
JSON_TYPES = {dict: "Object", list: "Array", str: "String", type(None): "Null", bool: "Boolean"}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature.

    Args:
        dtype: Its NumPy name, or "string".
        shape: One entry a dimension, `None` where any size will do; `None` where the rank is open.
    """

    dtype: str
    shape: tuple | None


@dataclass(frozen=True)
class PredictRequest:
    """The body of a predict request: the signature's name, `{input: array}`, and whether it came in row form."""

    signature: str
    inputs: dict
    row_form: bool


def parse_json(body):
    """Returns the value of a JSON text, in which NaN, Infinity and -Infinity may stand for numbers.

    Raises:
        ApiError: If it is not JSON in UTF-8, or nested too deeply.
    """
    if not body.strip():
        raise invalid("JSON Parse error: The document is empty")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" not in body and b"Infinity" not in body:
            raise invalid(f"JSON Parse error: {error}") from None
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from None


def parse_predict(document, signatures):
    """Reads the body of a predict request.

    Args:
        document: Its JSON value.
        signatures: `{name: signature}`, each with `inputs`, a dict of `TensorInfo`.

    Returns:
        A `PredictRequest`.

    Raises:
        ApiError: If it is not what the signature takes; the message names the input.
    """
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    name = document.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(name, str):
        raise invalid(f"'signature_name' key must be a string value. Received: {shown(name)}")
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise invalid(f'Serving signature name: "{shown(name)[1:-1]}" not found in signature def')
    infos = signatures[name].inputs
    if not infos:
        raise invalid(f"Failed to get input map for signature: {name}")
    if "instances" in document and "inputs" in document:
        raise invalid("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in document:
        columns = _columns_of_rows(document["instances"], infos)
    elif "inputs" in document:
        columns = _columns(document["inputs"], infos)
    else:
        raise invalid("Missing 'inputs' or 'instances' key")
    inputs = {key: to_array(key, value, infos[key]) for key, value in columns.items()}
    return PredictRequest(name, inputs, "instances" in document)


def _columns_of_rows(instances, infos):
    if not isinstance(instances, list):
        raise invalid(f"Expecting 'instances' to be a list/array. Received: {shown(instances)}")
    if not instances:
        raise invalid("No values in 'instances' array")
    if not isinstance(instances[0], dict) and len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors are required: "
            + ",".join(sorted(infos))
        )
    objects = _is_object(instances[0])
    for place, each in enumerate(instances):
        if _is_object(each) != objects:
            expected, got = ("object", "value/list") if objects else ("value/list", "object")
            raise invalid(f"Expecting {expected} but got {got} at item {place} of input list")
        if objects and each.keys() != infos.keys():
            raise invalid(
                f"Failed to process element: {place} of 'instances' list. JSON object: {shown(each)} keys must be "
                f"equal to: {','.join(sorted(infos))}"
            )
    if not objects:
        return {next(iter(infos)): instances}
    return {name: [each[name] for each in instances] for name in infos}


def _columns(inputs, infos):
    if not _is_object(inputs):
        if len(infos) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors are required: "
                + ",".join(sorted(infos))
            )
        return {next(iter(infos)): inputs}
    for name in infos:
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: inputs[name] for name in infos}


def _is_object(value):
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value):
    return len(value) == 1 and isinstance(value.get("b64"), str)


def to_array(name, value, info):
    """Returns a JSON value as an array of the dtype and shape that an input has.

    Args:
        name: Of the input, for messages.
        value: Numbers, strings or `{"b64": ...}` in lists in lists.
        info: `TensorInfo` of the input.

    Raises:
        ApiError: If it is ragged, of another shape, or holds a value that the dtype cannot hold without loss.
    """
    if info.dtype not in ACCEPTED:
        raise ApiError(501, f"{name}: Conversion of JSON values to type: {info.dtype} is not supported")
    shape, leaves = _flatten(name, value)
    if not set(map(type, leaves)) <= ACCEPTED[info.dtype]:
        leaf = next(leaf for leaf in leaves if type(leaf) not in ACCEPTED[info.dtype])
        kind = JSON_TYPES.get(type(leaf), "Number")
        raise invalid(f"{name}: JSON Value: {shown(leaf)} Type: {kind} is not of expected type: {info.dtype}")
    _check_shape(name, shape, info)
    if info.dtype == "string":
        return _to_bytes(name, leaves).reshape(shape)
    if info.dtype in INTEGERS:
        _check_integers(name, leaves, info.dtype)
    elif info.dtype in FLOATS:
        _check_floats(name, leaves, info.dtype)
    return np.array(leaves, info.dtype).reshape(shape)


def _flatten(name, value):
    """Returns the shape of lists in lists, and what they hold, in order."""
    shape, leaves = [], [value]
    while leaves and type(leaves[0]) is list:
        size = len(leaves[0])
        for each in leaves:
            if type(each) is not list:
                raise invalid(f"{name}: JSON Value: {shown(each)} found at incorrect level: {len(shape) + 1}")
            if len(each) != size:
                raise invalid(
                    f"{name}: Encountered list at unexpected size: {len(each)} at level: {len(shape)} expected size: {size}"
                )
        shape.append(size)
        leaves = list(chain.from_iterable(leaves))
    if any(type(leaf) is list for leaf in leaves):
        raise invalid(f"{name}: Encountered list at unexpected level: {len(shape)}")
    return shape, leaves


def _check_shape(name, shape, info):
    fits = info.shape is None or (
        len(shape) == len(info.shape) and all(want in (None, size) for size, want in zip(shape, info.shape))
    )
    if not fits:
        wanted = ", ".join("n" if size is None else str(size) for size in info.shape)
        raise invalid(f"{name} must have the shape [{wanted}]. Received: {shown(shape)}")


def _check_integers(name, leaves, dtype):
    bounds = np.iinfo(dtype)
    if leaves and not (bounds.min <= min(leaves) and max(leaves) <= bounds.max):
        wrong = next(leaf for leaf in leaves if not bounds.min <= leaf <= bounds.max)
        raise invalid(f"{name} must be from {bounds.min} to {bounds.max} ({dtype}). Received: {shown(wrong)}")


def _check_floats(name, leaves, dtype):
    limits = np.finfo(dtype)
    most = 2 ** (limits.nmant + 1) - 1  # the greatest whole number below which every one can be represented
    for leaf in leaves:
        lossy = abs(leaf) > most if type(leaf) is int else abs(leaf) > limits.max and abs(leaf) != np.inf
        if lossy:
            raise invalid(f"{name}: Cannot convert JSON value: {shown(leaf)} to {dtype} without loss of precision.")


def _to_bytes(name, leaves):
    array = np.empty(len(leaves), object)
    for place, leaf in enumerate(leaves):
        try:
            array[place] = _decode(leaf)
        except (ValueError, binascii.Error):
            raise invalid(f"{name}: Unable to base64 decode {shown(leaf)}") from None
    return array


def _decode(leaf):
    if isinstance(leaf, str):
        return leaf.encode("utf-8")
    if not _is_base64(leaf):
        raise ValueError("not formatted correctly for base64 data")
    return base64.b64decode(leaf["b64"], validate=True)


def render_predict(outputs, row_form):
    """Returns the JSON text, in bytes, of the answer to a predict request.

    Args:
        outputs: `{name: array}`; strings are arrays of bytes, of dtype object.
        row_form: Whether the request was in row form.

    Raises:
        ApiError: If it was, and the outputs have no batch dimension in common.
    """
    # NaN and Infinity become those tokens, as TensorFlow Serving writes them; orjson would write null.
    finite = all(array.dtype.kind != "f" or np.isfinite(array).all() for array in outputs.values())
    dump = dump_json if finite else _dump
    values = {name: _jsonable(name, array) for name, array in outputs.items()}
    if not row_form:
        return dump({"outputs": values if len(values) > 1 else next(iter(values.values()))})
    sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    if len(set(sizes.values())) != 1 or None in sizes.values():
        raise invalid(
            f"The outputs have inconsistent batch sizes, {shown(sizes)}: ask in column form, with 'inputs' in place of "
            "'instances'."
        )
    if len(values) == 1:
        return dump({"predictions": next(iter(values.values()))})
    return dump({"predictions": [dict(zip(values, row)) for row in zip(*values.values())]})


def _jsonable(name, array):
    """Returns an array as what `dump_json` and `_dump` write: a numeric array, or lists of strings and objects."""
    if array.dtype == object:
        return _nested(array, _base64_object if name.endswith("_bytes") else _text)
    if array.dtype.kind == "V" or array.dtype == np.float16:  # bfloat16 among them
        array = array.astype(np.float32)
    return np.ascontiguousarray(array) if array.ndim else array[()]


def dump_json(value):
    """Returns JSON in bytes of lists, dicts and numeric arrays, all of whose numbers must be finite."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _dump(value):
    return json.dumps(value, default=_shortest, separators=(",", ":")).encode("utf-8")


def _shortest(array):
    """Returns an array as lists in which a float32 has its own shortest digits, not those of the nearest float64."""
    return (array.astype(str).astype(np.float64) if array.dtype.kind == "f" else array).tolist()


def _base64_object(value):
    return {"b64": base64.b64encode(value).decode("ascii")}


def _text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _nested(array, encode):
    if array.ndim == 0:
        return encode(array[()])
    return [_nested(each, encode) if isinstance(each, np.ndarray) else encode(each) for each in array]
