"""`python -m training.convert`: exports a DCGAN that PyTorch or Keras 2 trained, neither of which it needs.

The networks that are known, and how their files are read: `training.foreign_weights`.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import numpy as np

from training import fit, foreign_weights
from zoo.perceptual.weights import WeightsError, file_sha256

EPILOG = """examples:
  python -m training.convert --from netG.pth --name my-faces
  python -m training.convert --from netG.pth --discriminator netD.pth --name my-faces
  python -m training.convert --from generator.h5 --name my-cars

netG.pth: torch.save(netG.state_dict(), "netG.pth") of the PyTorch tutorial's DCGAN, 64 px or more.
generator.h5: generator.save("generator.h5") of Keras 2, of the 32 px network with dense start and three doublings."""


def build(generator, discriminator=None):
    """Returns a `dcgan` with the weights of a `foreign_weights.Weights` generator, and of a discriminator where there is one.

    Raises:
        WeightsError: If the two do not belong together, or an array has not the shape that the network gives it.
        ValueError: If `dcgan` cannot make images of this side or with these channels.
    """
    import zoo

    if discriminator is not None:
        for name in ("variant", "side", "channels", "base_filters"):
            first, second = getattr(generator, name), getattr(discriminator, name)
            if first != second:
                raise WeightsError(
                    f"`{name}` must be the same in both networks. Received: {first} in {generator.path.name}, {second} in "
                    f"{discriminator.path.name}. Convert the generator alone."
                )
    model = zoo.create(
        "dcgan",
        (generator.side, generator.side, generator.channels),
        variant=generator.variant,
        base_filters=generator.base_filters,
        latent_dim=generator.latent_dim,
    )
    _transplant(model.generator, generator)
    _transplant(model.ema_generator, generator)
    if discriminator is not None:
        _transplant(model.discriminator, discriminator)
    return model


def _transplant(network, weights):
    for variable, (source, name, array) in zip(network.variables, weights.arrays, strict=True):
        if variable.name != name:
            raise WeightsError(f"{source} of {weights.path} must be a {variable.name}. Received: a {name}")
        needed = tuple(variable.shape)
        if array.shape != needed:
            raise WeightsError(
                f"{source} of {weights.path} must have shape {weights.shape_in_file(needed)} beside its other layers. "
                f"Received: {weights.shape_in_file(array.shape)}"
            )
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise WeightsError(f"{source} of {weights.path} must be finite floats. Received: NaN, infinity or integers")
        variable.assign(array.astype(np.float32))


def record(generator, discriminator=None):
    """Returns what `model.json` says of where the weights came from."""
    converted = {
        each.kind: {"file": each.path.name, "sha256": file_sha256(each.path), "format": each.format}
        for each in (generator, discriminator)
        if each is not None
    }
    return {"arch": "dcgan", "training": {}, "converted": converted}


def build_parser():
    """Returns the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m training.convert",
        description="Exports a DCGAN that PyTorch or Keras 2 trained as a SavedModel, like those of training.fit.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--from", dest="source", metavar="FILE", required=True, help="the generator: .pth or .h5")
    parser.add_argument("--discriminator", metavar="FILE", help="its discriminator, .pth; without it the export has no `discriminate`")  # fmt: skip
    parser.add_argument("--name", required=True, help="name of the exported model")
    parser.add_argument("--export-dir", type=Path, metavar="DIR", default=Path("saved_models"), help="default saved_models")  # fmt: skip
    return parser


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (failed), 2 (wrong option) or 130 (stopped)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    for option, path in {"--from": arguments.source, "--discriminator": arguments.discriminator}.items():
        if path is not None and not Path(path).is_file():
            parser.exit(2, f"training.convert: {option} must be a file. Received: {path!r}\n")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", arguments.name):
        parser.exit(
            2,
            "training.convert: --name must be letters, digits, '.', '_' and '-', starting with a letter or digit. "
            f"Received: {arguments.name!r}\n",
        )
    try:
        convert(arguments.source, arguments.discriminator, arguments.export_dir, arguments.name)
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        print(f"training.convert: {error}", file=sys.stderr)
        return 1


def convert(source, discriminator, export_dir, name):
    """Reads the files, exports the model and tells what was found; returns the directory of the new version."""
    generator = foreign_weights.read(source)
    discriminator = None if discriminator is None else foreign_weights.read(discriminator, "discriminator")
    for weights in filter(None, (generator, discriminator)):
        print(f"{weights}" + (f"\nnote: {weights.note}" if weights.note else ""), flush=True)
    fit.import_tensorflow()
    from training.export import export

    untrained = () if discriminator is not None else ("discriminator",)
    directory = export(
        build(generator, discriminator), export_dir, name, record=record(generator, discriminator), untrained=untrained
    )
    print(f"exported to {directory}" + (", without `discriminate`: no discriminator was given" if untrained else ""))
    print(f"Try next: python -m evaluation.report --model {directory} --data YOUR_IMAGES")
    return directory


if __name__ == "__main__":
    sys.exit(main())
