"""`python -m training.fit`: trains a model, resumes it, shows what it makes and exports it."""

import dataclasses
import errno
import importlib.util
import json
import os
import sys
import time
import warnings

from training import config, data, devices, pictures, run_lock

# Settings that a resumed run must share with what is on disk; the rest may differ from start to start.
IDENTITY = (
    "arch", "image_shape", "hyperparameters", "recipe", "steps", "batch_size", "seed", "precision", "data",
    "data_fingerprint", "classes", "label_depth", "fit", "transform", "conditional", "init_from", "jit",
    "sync_batch_norm", "accumulate",
)  # fmt: skip
NUM_HELD_OUT = 100
# What TensorFlow raises in the other workers' collective operations.
LOST_WORKER = ("UnavailableError", "AbortedError", "CancelledError", "InternalError", "DeadlineExceededError")


def main(argv=None):
    """Runs the command line; returns the exit status: 0, 1 (failed), 2 (wrong option), 130 or 143 (stopped)."""
    parser = config.build_parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.list or arguments.recipe_help:
            print(config.list_text() if arguments.list else config.recipes_text())
            return 0
        settings = config.resolve(arguments)
    except ValueError as error:
        parser.exit(2, f"training.fit: {error}\n")
    try:
        start = run_per_class if settings.per_class else run
        return start(settings, dry_run=arguments.dry_run)
    except KeyboardInterrupt:
        print(
            f"Stopped at once. The same command goes on from the last checkpoint in {settings.run_dir}", file=sys.stderr
        )
        return 130
    except Exception as error:
        known = isinstance(error, (ValueError, ArithmeticError, OSError, MemoryError)) or _is_tensorflow_error(error)
        if not known or os.environ.get("ZOO_TRACEBACK"):
            raise
        print(f"training.fit: {_explained(error, settings)}", file=sys.stderr)
        return 1


def _is_tensorflow_error(error):
    return any(kind.__name__ == "OpError" for kind in type(error).__mro__)


def _explained(error, settings):
    """Returns what to tell of an error; of one for want of memory or space, what to try."""
    # TensorFlow's own errors have the reason in their text alone, and the class of those for want of memory.
    if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
        return (
            f"Writing to {settings.run_dir} or {settings.export_dir} failed for want of space ({error}). What was written "
            f"before is whole: free some space and give the same command again, which goes on from the last checkpoint."
        )
    if type(error).__name__ in LOST_WORKER and devices.is_multiworker(settings.strategy):
        return (
            "A worker of this job does not answer any more, so that no step can be finished "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]}). Start the same command on all workers again: "
            "it goes on from the last checkpoint."
        )
    if type(error).__name__ not in ("ResourceExhaustedError", "MemoryError"):
        return str(error)
    return (
        f"Memory ran out with {settings.batch_size // settings.accumulate} images at a time. Try "
        f"--accumulate {2 * settings.accumulate} (the same batch of {settings.batch_size} in smaller parts), "
        f"--gradient-checkpointing, --batch-size {max(1, settings.batch_size // 2)}, a smaller --size, or a narrower "
        f"network (--set base_filters=...).\n{str(error).partition(chr(10))[0]}"
    )


def run_per_class(settings, dry_run=False):
    """Trains one model a class, in turn, each in `RUN_DIR/CLASS`, exported as `NAME-CLASS`; what is done is passed over.

    Returns:
        The exit status: 0, or that of the first run that did not reach its end.

    Raises:
        ValueError: If the images have no labels, or as `run`.
    """
    class_names = settings.classes or _labelled(load_images(settings)[0], settings).class_names
    slugs = [config.slug(name) for name in class_names]
    if len(set(slugs)) < len(slugs):
        raise ValueError(
            f"--per-class needs classes that differ in letters and digits. Received: {', '.join(class_names)}"
        )
    for number, (name, slug) in enumerate(zip(class_names, slugs, strict=True), 1):
        print(f"class {number} of {len(class_names)}: {name}", flush=True)
        one = dataclasses.replace(
            settings, classes=(name,), name=f"{settings.name}-{slug}", run_dir=settings.run_dir / slug, per_class=False
        )
        status = run(one, dry_run=dry_run)
        if status:
            return status
        if "keras" in sys.modules:
            sys.modules["keras"].backend.clear_session()
    return 0


def _labelled(images, settings):
    """Returns `images` if they have at least two classes.

    Raises:
        ValueError: If they have not.
    """
    if len(images.class_names) < 2:
        option = "--conditional" if settings.conditional else "--per-class"
        raise ValueError(
            f"{option} needs images of two classes or more, one folder a class (--label-depth says which folder names "
            f"it). Received: {', '.join(images.class_names) or 'no labels'} in {settings.data}"
        )
    return images


def run(settings, dry_run=False):
    """Trains as `settings` (a `FitConfig`) say, from the newest checkpoint of the run directory where there is one.

    Returns:
        The exit status.

    Raises:
        ValueError: If the data cannot be used, or the run directory holds another configuration's run.
        ArithmeticError: If a loss is no longer finite.
        OSError: If another run is going on in the run directory, or something cannot be written.
    """
    reals, held_out = load_images(settings)
    if settings.conditional:
        num_classes = len(_labelled(reals, settings).class_names)
        settings = dataclasses.replace(
            settings, hyperparameters=settings.hyperparameters | {"num_classes": num_classes}
        )
    record = resolved(settings, reals)
    if dry_run:
        print(json.dumps(record, indent=2))
        return 0
    if not devices.is_chief(settings.strategy):
        return _run_here(settings, record, reals, held_out)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    _check_writable(settings.export_dir)
    with run_lock.held(settings.run_dir):
        return _run_here(settings, record, reals, held_out)


def _run_here(settings, record, reals, held_out):
    """Does what `run` says, with the run directory for itself."""
    import_tensorflow()
    where = devices.choose(settings.strategy)
    where.check_batch_size(settings.batch_size, settings.accumulate)
    record = _resolved_here(record)
    settings = dataclasses.replace(settings, hyperparameters=record["hyperparameters"])
    if where.is_chief:
        _agree(settings.run_dir, record)
    where.check_equal("configuration or the images", json.dumps(_training_record(record), sort_keys=True))

    print(f"{len(reals):,} images of {reals.images.shape[1:]}; run directory {settings.run_dir}", flush=True)
    print(
        f"precision {record['precision']}, {record['steps']:,} steps, batch size {record['batch_size']}, {where}",
        flush=True,
    )
    with where.scope():
        model = make_model(settings, record, len(reals), where)
    from training import callbacks

    if where.is_chief:
        _take_weights(model, settings)
        pictures.save_grid(settings.run_dir / "samples" / "reals.png", shown_reals(reals))
    where.broadcast_state(model)

    stop = callbacks.StopOnSignal(where)
    done = model.steps_done
    if done > record["steps"]:
        raise ValueError(
            f"{settings.run_dir} has done {done:,} steps already: --steps must be at least that. Received: {record['steps']:,}"
        )
    if done < record["steps"]:
        train(model, settings, record, reals, held_out, stop, where)
    if stop.received is not None:
        print(f"Stopped and saved at step {model.steps_done:,}. The same command goes on from there.", flush=True)
        return 128 + stop.received
    if where.is_chief:
        _finish(model, settings, record, held_out, done)
    where.wait()
    return 0


def _take_weights(model, settings):
    """Goes on from the newest checkpoint, or starts from another run's weights where that was asked for."""
    from zoo import checkpoint

    restored = checkpoint.restore_newest(model, settings.run_dir / "checkpoints")
    if restored is not None:
        print(f"going on from step {model.steps_done:,} ({restored})", flush=True)
    elif settings.init_from is not None:
        _start_from(model, settings.init_from)


def _finish(model, settings, record, held_out, done):
    """Draws and exports what the training led to; `done` is the step that it began at."""
    samples = settings.run_dir / "samples"
    pictures.save_progress_strip(samples, settings.run_dir / "progress.png", settings.image_shape[0])
    pictures.save_loss_curves(settings.run_dir / "metrics.csv", settings.run_dir / "losses.png")
    saved_model = _exported_already(settings, record) if done == record["steps"] else None
    if saved_model is None:
        saved_model = export_model(model, settings, record, held_out)
    else:
        print(f"nothing was left to do; this step has been exported to {saved_model}", flush=True)
    print_result(settings, saved_model)


def _check_writable(directory):
    """Raises `OSError`, before hours of training, where the export could not be written."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise OSError(f"--export-dir {directory} cannot be written to: look at {existing}, or give another one.")


def _exported_already(settings, record):
    """Returns the newest version of the model if it is of this very run at its last step, else `None`."""
    from training.export import versions

    root = settings.export_dir / settings.name
    for version in versions(root)[-1:]:
        try:
            card = json.loads((root / str(version) / "model.json").read_text(encoding="utf-8"))
            made_of = card["step"], card["training"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if made_of == (record["steps"], _training_record(record)):
            return root / str(version)
    return None


def _training_record(record):
    """Returns what `model.json` keeps of `config.json`: all that decides what the run computes."""
    return {key: record[key] for key in (*IDENTITY, "num_images", "class_names") if key in record}


def import_tensorflow():
    """Imports TensorFlow without what it writes to the error stream at length when there is no GPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)  # some lines come before the log level is read
            import keras
            import tensorflow as tf

            tf.config.list_physical_devices()
            keras.config.dtype_policy()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def load_images(settings):
    """Returns `(training images, held-out images)`.

    The held-out ones are those of `--test-data`; of `emoji` 100 (a fifth, where `--classes` leaves fewer than 500);
    else `None`: with few images of one's own every one is wanted for training.
    """
    options = {
        "size": settings.image_shape[0],
        "channels": settings.image_shape[2],
        "fit": settings.fit,
        "classes": settings.classes,
        "label_depth": settings.label_depth,
        "strict": settings.strict,
        "workers": settings.workers,
    }
    images = data.load(settings.data, **options)
    if settings.test_data is not None:
        return images, data.load(settings.test_data, **options)
    if settings.data == "emoji":  # its held-out images go into the export
        # A little more than 100, since the split is of contents and meets its fraction only on average.
        return images.split(min(0.2, 1.2 * NUM_HELD_OUT / len(images)), seed=0)
    return images, None


def resolved(settings, reals):
    """Returns the configuration as `config.json` holds it: every value that decides what the run computes."""
    record = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name in IDENTITY or field.name in ("test_data", "name")
    }
    recipe = dataclasses.asdict(settings.recipe)
    record["recipe"] = {
        key: recipe[key] for key in recipe if key not in ("sizes", "size", "hyperparameters", "steps", "epochs")
    }
    recipe = dataclasses.replace(settings.recipe, batch_size=settings.batch_size)
    for key, usual in {"sync_batch_norm": False, "accumulate": 1}.items():  # older runs do not have them
        if record[key] == usual:
            del record[key]
    record["steps"] = settings.steps or recipe.generator_updates(len(reals))
    record["num_images"] = len(reals)
    record["data_fingerprint"] = reals.fingerprint
    record["class_names"] = list(reals.class_names)
    return json.loads(json.dumps(record))


def _start_from(model, run_dir):
    from zoo import transfer

    taken, left = transfer.start_from(model, run_dir)
    print(f"starting from {run_dir}: {len(taken)} of {len(taken) + len(left)} variables taken", flush=True)
    for key in left:
        print(f"  not taken: {key}", flush=True)


def _resolved_here(record):
    """Returns the record with what depends on the machine: precision, XLA, and hyperparameters that ask for weights."""
    from zoo import replicas
    from zoo.registry import get_class

    hyperparameters = get_class(record["arch"]).resolve_hyperparameters(record["hyperparameters"])
    precision = record["precision"]
    if precision == "auto":
        import tensorflow as tf

        details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
        tensor_cores = details and all(each.get("compute_capability", (0,))[0] >= 7 for each in details)
        precision = "mixed_float16" if tensor_cores else "float32"
    return record | {
        "precision": precision, "hyperparameters": hyperparameters, "jit": replicas.jit_compiles(record["jit"])
    }  # fmt: skip


def _agree(run_dir, record):
    """Writes `config.json`, or checks that the one there is of the same run."""
    path = run_dir / "config.json"
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            flat_before, flat_now = _flat(before), _flat(record)
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read ({error}). Use another --run-dir.") from None
        keys = [key for key in {**flat_before, **flat_now} if key.split(".")[0] in IDENTITY]
        if record["recipe"]["learning_rate_decay"] != "linear":
            keys.remove("steps")  # a longer run of the same kind: its first part is the run so far
        different = [key for key in keys if flat_before.get(key) != flat_now.get(key)]
        if different:
            table = "\n".join(
                f"  {key}: {flat_before.get(key)!r} there, {flat_now.get(key)!r} now" for key in different
            )
            raise ValueError(
                f"{run_dir} holds a run of another configuration:\n{table}\n"
                + ("These are other images than at its start. " if "data_fingerprint" in different else "")
                + "Give the same options to go on with it, or another --run-dir (or --name) to start anew."
            )
    from training.export import git_commit, installed_versions

    record = record | {"versions": installed_versions(), "git_commit": git_commit()}
    pictures.save_atomically(path, lambda file: file.write(json.dumps(record, indent=2).encode()))


def _flat(record):
    flat = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": each for inner, each in value.items()})
        else:
            flat[key] = value
    return flat


def make_model(settings, record, num_images, where):
    """Returns a compiled model with fresh weights drawn from the seed, its optimizers as the recipe says."""
    import keras

    from zoo import recomputation, replicas
    from zoo.registry import get_class

    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(record["precision"])
    model = get_class(settings.arch)(settings.image_shape, **settings.hyperparameters)
    if settings.gradient_checkpointing:
        recomputation.recompute_activations(model)
    synchronized = settings.sync_batch_norm and where.num_replicas > 1 and replicas.synchronize_batch_norm(model) > 0
    if synchronized and record["jit"]:
        print("without XLA: it cannot compile batch norm that is synchronized over devices", flush=True)
    model.compile(
        recipe=settings.recipe,
        steps=record["steps"],
        steps_per_epoch=max(1, num_images // settings.batch_size),
        jit_compile=record["jit"] and not synchronized,
        accumulate=settings.accumulate,
    )
    return model


def shown_reals(reals, count=64):
    """Returns some of the images, evenly spread over the set: uint8 `[at most count, height, width, channels]`."""
    return reals.images[:: max(1, len(reals) // count)][:count]


def train(model, settings, record, reals, held_out, stop, where):
    """Runs `model.fit` from the model's step to the last one, with everything that is written on the way."""
    from training import callbacks

    step, steps = model.steps_done, record["steps"]
    num_updates = getattr(model, "discriminator_steps", 1)

    def batches(**shards):
        return data.batches(
            reals,
            record["batch_size"] * num_updates,
            seed=settings.seed,
            start_step=step,
            stop_step=steps if where.strategy is None else None,  # a strategy keeps the shapes of endless ones only
            transform=settings.transform,
            with_labels=settings.conditional,
            num_updates=num_updates,
            **shards,
        )

    each = [stop, callbacks.FiniteLosses(settings.run_dir / "checkpoints")]  # before all that writes
    waiting = data.Waiting() if where.strategy is None else None
    writers = _writers(model, settings, record, reals, held_out, waiting) if where.is_chief else []
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*shuffle=True.*")
            dataset = where.batches(batches)
            dataset = dataset if waiting is None else waiting.of(dataset)
            model.fit(
                dataset, steps_per_epoch=steps - step, epochs=1, callbacks=each + writers, verbose=0, shuffle=False
            )
    finally:  # Keras calls no `on_train_end` after an error
        for callback in (stop, *writers):
            if hasattr(callback, "close"):
                callback.close()
    took = time.monotonic() - started
    share = "" if waiting is None else f", {waiting.seconds / took:.1%} of it waiting for images"
    print(f"{model.steps_done - step:,} steps in {callbacks.duration(took)}{share}", flush=True)


def _writers(model, settings, record, reals, held_out, waiting):
    """Returns the callbacks that measure and write."""
    from training import callbacks, health

    steps, samples = record["steps"], settings.run_dir / "samples"
    images_per_step = record["batch_size"] * getattr(model, "discriminator_steps", 1)
    each = [
        health.Health(
            data.to_model_range(shown_reals(reals)), lambda: callbacks.samples(model), settings.sample_every
        ),  # before the log
        callbacks.MetricsLog(settings.run_dir / "metrics.csv", steps, images_per_step, settings.log_every, waiting),
        callbacks.SampleGrids(samples, settings.sample_every),
        callbacks.Checkpoints(settings.run_dir / "checkpoints", settings.checkpoint_every),
    ]
    if settings.export_every:
        export = lambda: export_model(model, settings, record, held_out)  # noqa: E731
        each.append(callbacks.Exports(export, settings.export_every, steps))
    if importlib.util.find_spec("tensorboard") is not None:
        directory = settings.run_dir / "tensorboard"
        each.append(callbacks.TensorBoardLog(directory, settings.log_every, settings.sample_every))
    return each


def export_model(model, settings, record, held_out):
    """Exports the model as the next version of its name and returns the directory."""
    from training.export import export

    extras = {}
    if settings.data == "emoji" and held_out is not None:
        extras = {"reals": held_out.images[:NUM_HELD_OUT], "credit": data.EMOJI_CREDIT}
    if model.distribute_strategy.num_replicas_in_sync > 1:  # what a strategy made cannot be exported
        from zoo import checkpoint

        checkpoint.save(model, settings.run_dir / "checkpoints")
        model = checkpoint.load_run(settings.run_dir)
    facts = {"arch": settings.arch, "training": _training_record(record)}
    class_names = record["class_names"] if settings.conditional else ()
    saved_model = export(model, settings.export_dir, settings.name, class_names=class_names, record=facts, **extras)
    print(f"exported step {model.steps_done:,} to {saved_model}", flush=True)
    return saved_model


def print_result(settings, saved_model):
    """Tells where everything is and what to do with it."""
    samples = sorted((settings.run_dir / "samples").glob("step_*.png"))
    print(
        f"""
  samples          {samples[-1] if samples else settings.run_dir / "samples"}
  real images      {settings.run_dir / "samples" / "reals.png"}
  progress, losses {settings.run_dir / "progress.png"}, {settings.run_dir / "losses.png"}
  SavedModel       {saved_model}

Try next:
  saved_model_cli run --dir {saved_model} --tag_set serve --signature_def sample \\
      --input_exprs 'seed=[7];truncation=[1.0]{";label=[0]" if settings.conditional else ""}'
  python -m training.fit --recipe photos-small --data YOUR_FOLDER     your own pictures
  python -m training.fit --list                              the other architectures"""
    )


if __name__ == "__main__":
    sys.exit(main())
