"""What docs/serving.md tells people to type is understood."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from serving import config, options

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
PARSERS = {"app": options.build_parser, "config": config.build_parser}


def blocks(language):
    """Returns the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def commands():
    """Returns `[(module, arguments)]` of every command line that starts one of ours."""
    lines = "\n".join(blocks("sh") + blocks("ini")).replace("\\\n", " ").splitlines()
    return [
        (match[1], shlex.split(match[2], comments=True))
        for line in lines
        if (match := re.search(r"python -m serving\.(\w+)(.*)", line))
    ]


def test_every_command_is_one_that_the_programs_take():
    found = commands()
    assert len(found) >= 6
    for module, arguments in found:
        PARSERS[module]().parse_args(arguments)


def test_every_option_of_ours_named_in_the_text_exists():
    named = {
        option for option in re.findall(r"`(--[a-z_-]+)", TEXT) if "_" not in option
    }  # TensorFlow Serving's have one
    known = {option for build in PARSERS.values() for option in build()._option_string_actions}
    assert len(named) > 10 and named <= known


def test_the_python_example_runs(server):
    (code,) = blocks("python")
    code = code.replace("http://127.0.0.1:8501", server.url).replace("emoji-faces", "faces")
    code += "print(images.dtype, images.shape, logits.shape, between.shape, outputs['image_bytes'][0][1:4])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "uint8 (16, 32, 32, 3) (16,) (1, 32, 32, 3) b'PNG'", done.stderr
