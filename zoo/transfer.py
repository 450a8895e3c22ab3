"""Starting a model from the weights of another run (transfer learning): what fits is taken, the rest is told."""

import difflib
from pathlib import Path

from zoo import checkpoint


def start_from(model, run_dir):
    """Puts weights of another run into a model with fresh ones, as far as they fit.

    Variables are matched in order, network by network, by name and shape: of a model of another size or other classes
    the layers in common are taken. The generator of a GAN may start from an autoencoder's decoder, whole or not at all.
    Optimizers and the step stay as they are.

    Args:
        model: A `GenerativeModel`.
        run_dir: Directory of a run that has a checkpoint.

    Returns:
        `(taken, left)`: keys of the model's variables (`checkpoint.variables`) that were set, and that were not.

    Raises:
        ValueError: If there is no checkpoint, or nothing in it fits.
    """
    paths = checkpoint.paths(Path(run_dir) / "checkpoints")
    if not paths:
        raise ValueError(f"{run_dir} has no checkpoint to start from: let that run reach its first one")
    source = _by_network(checkpoint.read(paths[-1]))
    taken, left = [], []
    for network, members in _by_network(checkpoint.variables(model, networks_only=True)).items():
        origin = network if network in source else network.replace("generator", "decoder")
        pairs = _aligned(members, source.get(origin, []))
        if origin != network and origin in source and len(pairs) < len(members):
            raise ValueError(
                f"The {network} cannot be the {origin} of {run_dir}: only {len(pairs)} of its {len(members)} variables "
                f"have the same shapes. It must be built like that one: --arch dcgan --set variant=decoder, with the "
                f"same --size and latent_dim and twice the base_filters."
            )
        for (_, variable), (_, array) in pairs:
            variable.assign(array)
        set_here = {key for (key, _), _ in pairs}
        taken += set_here
        left += [key for key, _ in members if key not in set_here]
    if not taken:
        raise ValueError(
            f"Nothing in {run_dir} fits: it holds {', '.join(sorted(source))}, this model has "
            f"{', '.join(model.networks)}. Start from a run of the same architecture and width."
        )
    return sorted(taken), left


def _aligned(members, others):
    """Returns pairs of items of both, in order, whose names and shapes agree."""
    here, there = (
        [(key.rpartition("/")[2], tuple(value.shape)) for key, value in items] for items in (members, others)
    )
    blocks = difflib.SequenceMatcher(None, here, there, autojunk=False).get_matching_blocks()
    return [(members[block.a + i], others[block.b + i]) for block in blocks for i in range(block.size)]


def _by_network(keyed):
    """Returns `{network: [(key, value)]}`, in order, without optimizers and what belongs to the model itself."""
    groups = {}
    for key in sorted(keyed):
        network = key.partition("/")[0]
        if network != "model" and not network.endswith("optimizer"):
            groups.setdefault(network, []).append((key, keyed[key]))
    return groups
