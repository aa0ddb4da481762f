"""The verb `train`: from a config to a run folder with everything in it."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from detr_mini.config.run_folder import locked, new_run_folder, rank, write_text
from detr_mini.cpu_runtime import fast_bfloat16, keep_freed_memory, tiny_numbers_as_zero
from detr_mini.data.auto_settings import AUTO, choose_queries
from detr_mini.data.module import STAGES, DetectionData
from detr_mini.data.workers import lost_worker
from detr_mini.drawing.curves import curves
from detr_mini.errors import CheckpointError, ConfigError, UserError
from detr_mini.evaluation.measure import measure, write_measured
from detr_mini.evaluation.same_predictions import alike_notice
from detr_mini.evaluation.table import table
from detr_mini.models.build import build_part, takes
from detr_mini.pretrained.checkpoints import averaged_weights, operating_point, read_checkpoint
from detr_mini.pretrained.transfer import Start, carry
from detr_mini.training.budget import Budget
from detr_mini.training.callbacks import Bar, CheckpointFiles, Checkpoints, Interrupted, Logging, writing
from detr_mini.training.history import History
from detr_mini.training.image_growth import ImageGrowth
from detr_mini.training.options import TrainerOptions
from detr_mini.training.plan import Trainable, fit_to_time
from detr_mini.training.processes import PeerWatch, how_to_go_on, lost_peer
from detr_mini.training.remarks import few_steps_notice, objects_notice, usable_precision
from detr_mini.training.resume import budget_is_over, check_fits, read_last, repair
from detr_mini.training.task import NEVER, DetectionTask

log = logging.getLogger("detr_mini")


@dataclass(frozen=True)
class Parts:
    """What a config builds, before anything is trained."""

    task: DetectionTask
    data: DetectionData
    options: TrainerOptions


def train(config: DictConfig) -> Path:
    """Train as `config` says (configs/train.yaml), measure the best checkpoint, fill the run folder, and return it.

    The best is the best on val; without val (data.val=null) nothing is chosen: it is the last, its averaged weights.

    `config.resume`: go on in that run folder, where its last.ckpt stands, or from the start where it was killed before
    it had one. UserError where another process works there, or the settings do not fit; the folder is then as it was.
    Raises KeyboardInterrupt after Ctrl-C, when last.ckpt is written. On processes other than the first nothing is
    written.
    """
    resumed = None if config.resume is None else Path(config.resume).expanduser()
    console, first = Console(), rank() == 0
    with ExitStack() as stack:
        checkpoint, changed = None, {}
        if resumed is not None:
            if not resumed.is_dir():
                raise CheckpointError(f"there is no folder {resumed}; resume=RUN takes the folder of a run")
            stack.enter_context(locked(resumed))
            checkpoint = read_last(resumed)
            if checkpoint is None:
                config = cast(DictConfig, OmegaConf.merge(config, {"resume": None}))
        parts = build(config)  # a mistake in the config leaves no folder behind
        if resumed is not None and checkpoint is not None:
            changed = check_fits(resumed, checkpoint, parts.task, parts.data)
        folder = resumed or new_run_folder("outputs", config.name, config.run_folder)
        if resumed is None:
            stack.callback(_remove_if_empty, folder)  # a trainer that this machine cannot run leaves none, either
            stack.enter_context(locked(folder))
        trainer, checkpoints = _trainer(parts, folder, console, config)
        over = checkpoint is not None and budget_is_over(parts.task, checkpoint)
        if first:
            if checkpoint is not None:
                checkpoints.forget = _repair(parts, folder, checkpoint, over)
            _record(parts, folder, config, started=checkpoint is not None)
            stack.enter_context(_logging_to(folder / "run.log"))
            _report(parts.data, folder, console)
            log.info("%s, torch %s, run folder %s", platform.platform(), torch.__version__, folder)
            for key, (before, now) in changed.items():
                log.info("resumed with %s=%s (it was %s)", key, now, before)
        if checkpoint is not None:
            _resume(parts, checkpoint)
        if not over:
            with tiny_numbers_as_zero():
                _fit(trainer, parts, None if checkpoint is None else folder / "last.ckpt")
        if trainer.is_global_zero:
            _finish(parts, folder, console, config, trainer.world_size)
    return checkpoints.folder


def _repair(parts: Parts, folder: Path, checkpoint: dict[str, Any], over: bool) -> bool:
    """Finish what a killed process had begun to write; whether the best so far is lost."""
    lost: list[str | None] = []
    writing(folder / "best.ckpt", lambda: lost.append(repair(folder, checkpoint, parts.task.truth is not None)))
    parts.data.report.notices += [notice for notice in lost if notice]
    if not over:  # metrics.json is there if, and only if, the run is finished and best.ckpt was measured
        (folder / "metrics.json").unlink(missing_ok=True)
    return lost[0] is not None


def _record(parts: Parts, folder: Path, config: DictConfig, started: bool) -> None:
    """The settings: the first that is written, when nothing can be refused any more."""
    if not started:  # as they were given, too: config.yaml has what the data and published weights made of them
        start = folder / ".start.yaml"
        writing(start, write_text, start, OmegaConf.to_yaml(config, resolve=True))
    _write_settings(folder, parts.task.metadata["config"])


def _write_settings(folder: Path, settings: Mapping[str, Any], remark: str = "") -> None:
    text = OmegaConf.to_yaml(OmegaConf.create(dict(settings))) + remark
    writing(folder / "config.yaml", write_text, folder / "config.yaml", text)


def build(config: DictConfig) -> Parts:
    """Seeds everything, then builds backbone, data, model, criterion and optimizer from `config`.

    The number of classes comes from the annotations, normalisation from the backbone, the stride from the model.
    """
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    options = TrainerOptions.of(plain["trainer"])
    computed, other = usable_precision(options.precision, options.accelerator)
    if other is not None:
        options, plain["trainer"]["precision"] = replace(options, precision=computed), computed
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    pl.seed_everything(config.seed, verbose=False)
    start = None if plain.get("init") is None or plain["resume"] is not None else read_checkpoint(plain["init"])
    own = {} if start is None or "weights" not in plain["backbone"] else {"weights": "none"}  # replaced in a moment
    backbone = build_part("backbone", {**plain["backbone"], **own})
    data = build_part(
        "data", plain["data"], mean=backbone.mean, std=backbone.std, stride=backbone.strides[-1], seed=config.seed,
    )  # fmt: skip
    data.setup("fit")
    _choose_queries(plain, data)
    data.report.notices += [other] if other is not None else []
    tokenizer = getattr(data, "tokenizer", None)
    attributes = getattr(data, "attributes", ())
    words = {} if tokenizer is None else {"vocabulary": len(tokenizer), "attributes": len(attributes)}
    parts = {"backbone": backbone, "num_classes": len(data.categories), **words}
    if words and not takes(plain["model"], "vocabulary"):
        raise ConfigError("the data bring captions, which this model does not read; choose model=mini_grounded, or "
                          "data without captions")  # fmt: skip
    model = build_part("model", plain["model"], **parts)
    if hasattr(model, "start"):  # a peer, from weights that its library's users share
        data.report.notices += model.start(data.categories.names)
        plain = model.settled(plain)
    if start is not None:
        ours = Start(plain, data.categories, tokenizer)
        data.report.notices += carry(model, start, str(plain["init"]), ours)
    if tokenizer is not None:
        data.limit_tokens(model.text.max_tokens)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if options.compile:
        model.compile()
    optim = plain["optim"]
    criterion = build_part("criterion", plain["criterion"])

    def make_optimizer(m: nn.Module) -> Any:
        return build_part("optim.optimizer", optim["optimizer"], model=m)

    queries = plain["model"].get("queries")
    full = objects_notice(data.train_set, queries) if isinstance(queries, int) else None
    data.report.notices += [full] if full is not None else []
    growth = ImageGrowth(options.coarse_scale, options.coarse_until, options.coarse_grow)
    fit_to_time(plain, options, data, growth, Trainable(model, criterion, make_optimizer), precision(options))
    task = DetectionTask(
        model=model,
        criterion=criterion,
        make_optimizer=make_optimizer,
        categories=data.categories,
        budget=_budget(options, data),
        seed=config.seed,
        truth=data.sets.get("val"),
        warmup_steps=optim["warmup_steps"],
        clip=optim["clip"],
        average=optim["average"],
        accumulate=options.accumulate,
        growth=growth,
        validations=options.validations,
        operating_point=plain.get("operating_point"),
        metadata={
            "image": data.image,
            "tokeniser": None if tokenizer is None else tokenizer.state(),
            "attributes": list(attributes),
            "recipe": plain["recipe"],
            "train_images": len(data.train_set),
            "config": plain,
        },
    )
    data.progress = lambda: task.epoch_began
    return Parts(task, data, options)


def _choose_queries(plain: dict[str, Any], data: DetectionData) -> None:
    """Put what the data have chosen into the config, for run folder and checkpoint."""
    if plain["model"].get("queries") == AUTO:
        chosen = choose_queries(data.train_set)
        plain["model"]["queries"] = chosen.value
        data.report.choose("model.queries", chosen)


def _budget(options: TrainerOptions, data: DetectionData) -> Budget:
    seconds = None if options.max_minutes is None else options.max_minutes * 60
    return Budget(steps=options.steps(len(data.train_set), data.batch_size), seconds=seconds)


def _resume(parts: Parts, checkpoint: dict[str, Any]) -> None:
    """Tell the data where the checkpoint stands."""
    epoch_loop = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    if epoch["processed"] < epoch["started"]:  # inside an epoch
        parts.data.resume_at(epoch["processed"], epoch_loop["ready"])
    else:
        parts.data.resume_at(epoch["processed"], 0)
    parts.task.images_seen = checkpoint["progress"]["images_seen"]


def _trainer(parts: Parts, folder: Path, console: Console, config: DictConfig) -> tuple[pl.Trainer, Checkpoints]:
    options = parts.options
    logging_callback = Logging(History(folder / "history.csv"), options.log_every_steps)
    checkpoints = Checkpoints(folder, options.save_every_minutes)
    callbacks: list[pl.Callback] = [logging_callback, checkpoints, PeerWatch()]
    if options.progress:
        callbacks.append(Bar(logging_callback, console))
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    try:
        trainer = pl.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=precision(options),  # type: ignore[arg-type]
            max_epochs=-1,  # the task's budget says when it is over
            accumulate_grad_batches=options.accumulate,
            check_val_every_n_epoch=options.validate_every_epochs if options.validations is None else NEVER,
            num_sanity_val_steps=0,  # the loaders were read already; a part of val says nothing
            use_distributed_sampler=False,  # the data module shares the batches
            logger=_loggers(config, folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
            plugins=[CheckpointFiles()],
            default_root_dir=folder,
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the trainer section cannot be used on this machine: {reason}") from error
    return trainer, checkpoints


def precision(options: TrainerOptions) -> str:
    """`options.precision`, auto resolved: bf16-mixed where the device is faster in bfloat16."""
    if options.precision != "auto":
        return options.precision
    if options.accelerator == "cpu":
        fast = fast_bfloat16()
    else:
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if fast else "32-true"


def _loggers(config: DictConfig, folder: Path) -> Any:
    if not config.logger.tensorboard:
        return False
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return False
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


def _report(data: DetectionData, folder: Path, console: Console) -> None:
    path = folder / "data_report.json"
    content = data.report.to_dict()
    if path.is_file():  # resumed: the numbers stand in the config by now
        content["chosen"] = json.loads(path.read_bytes()).get("chosen", {}) | content["chosen"]
    writing(path, write_text, path, json.dumps(content, indent=1))
    console.print(data.report.table())


def _fit(trainer: pl.Trainer, parts: Parts, checkpoint: Path | None) -> None:
    try:
        trainer.fit(parts.task, parts.data, ckpt_path=checkpoint, weights_only=True)
    except Interrupted:
        raise KeyboardInterrupt from None
    except SystemExit as stop:
        if stop.code == 1:  # Lightning's answer to a second Ctrl-C
            raise KeyboardInterrupt from None
        raise  # a cluster's, which starts the job again
    except RuntimeError as error:
        watch = next(callback for callback in trainer.callbacks if isinstance(callback, PeerWatch))  # type: ignore[attr-defined]
        sentence = lost_worker(error) or (lost_peer(error, watch) if trainer.world_size > 1 else None)
        if sentence is None:
            raise
        raise UserError(f"{sentence}; {how_to_go_on(Path(trainer.default_root_dir))}") from error


def _finish(parts: Parts, folder: Path, console: Console, config: DictConfig, world: int) -> None:
    """Measure best.ckpt once, on test where the data has one, else on val; write the rest of the run folder.

    `weights` in metrics.json says what was measured: "best on val", or "last" where there was no val to choose by.
    """
    task, data = parts.task, parts.data
    writing(folder / "curves.png", curves, folder / "history.csv", folder / "curves.png", folder.name)
    best = read_checkpoint(folder / "best.ckpt")
    about = {
        "split": None,
        "weights": "best on val" if best["best"].get("step") == best["global_step"] else "last",
        "val/AP": best["best"]["score"],
        "best_epoch": best["best"]["epoch"],
        "train_seconds": round(task.budget.elapsed, 2),
        "images_per_second": task.images_seen * world / max(task.budget.elapsed, 1e-9),
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "seed": config.seed,
        "recipe": config.recipe,
        "git_commit": _git_commit(),
    }
    split = next((name for name in ("test", "val") if data.splits[name]), None)
    if split is None:
        log.info("the data have neither val nor test: nothing is measured")
        return
    if about["weights"] == "last":
        console.print("no val to choose by: the last averaged weights are measured")
    data.setup(STAGES[split])
    data.trainer = None  # the other processes are done: here are all images, and not this one's share
    model: nn.Module = task.averaged.model
    model.load_state_dict(averaged_weights(best))
    loader = data.test_dataloader() if split == "test" else data.val_dataloader()
    how = {"progress": parts.options.progress, "threshold": best.get("threshold")}
    point = operating_point(best)
    _write_settings(folder, task.metadata["config"], f"# chosen on val, and kept in best.ckpt: {asdict(point)}\n")
    device = next(model.parameters()).device  # Lightning has moved the task to the CPU, and not what it averaged
    measured = measure(model, loader, data.sets[split], task.categories, device, point=point, **how)  # type: ignore[arg-type]
    title = f"{folder.name} · {split}"
    write_measured(folder, measured, {**about, "split": split}, title, threshold=point.threshold)
    table(measured.scores, f"{folder} on {split}", console)
    few = few_steps_notice(best["global_step"] if task.global_step == 0 else task.global_step)
    for remark in (few, None if few else alike_notice([*measured.found.values()])):
        if remark is not None:
            console.print(remark, markup=False)
            log.warning(remark)
    console.print(f"written to {folder}")
    log.info("augmentation cut %d boxes away", data.boxes_cropped_away)
    log.info("AP %s, AP50 %s on %s", measured.scores.metrics["AP"], measured.scores.metrics["AP50"], split)


def _git_commit() -> str | None:
    """The commit of the code, where it lies in a git checkout."""
    here = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """What is logged inside goes to `path`, too; so does what ends it."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); check the folder's rights") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [log, logging.getLogger("pytorch_lightning")]
    log.setLevel(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        log.error("ended by %s: %s", type(error).__name__, error)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
