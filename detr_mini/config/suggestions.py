"""The setting that a user means who types another tool's name for it, or a part of ours."""

from __future__ import annotations

from collections.abc import Collection

from detr_mini.errors import nearest

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "data.batch_size": ("batch", "bs", "batchsize", "train_batch_size", "per_device_train_batch_size", "batch_size"),
    "batch_size": ("batch", "bs", "batchsize"),
    "data.eval_batch_size": ("val_batch_size", "test_batch_size", "batch_size", "batch"),
    "optim.optimizer.lr": ("lr", "lr0", "learning_rate", "learningrate", "base_lr", "eta"),
    "optim.optimizer.weight_decay": ("wd", "decay"),
    "optim.optimizer.backbone_scale": ("backbone_lr", "lr_backbone"),
    "optim.warmup_steps": ("warmup", "warmup_epochs", "warmup_iters", "num_warmup_steps"),
    "optim.average": ("ema", "ema_decay", "use_ema"),
    "optim.clip": ("clip_norm", "grad_clip", "gradient_clip_val", "clip_max_norm", "max_grad_norm"),
    "optim": ("optimizer", "optimiser", "opt"),
    "trainer.max_epochs": ("epochs", "epoch", "num_epochs", "num_train_epochs", "n_epochs"),
    "trainer.max_steps": ("steps", "iters", "iterations", "max_iter", "num_steps"),
    "trainer.max_minutes": ("minutes", "time", "max_time", "hours", "budget"),
    "trainer.accelerator": ("device", "accelerator", "cuda", "gpu"),
    "trainer.devices": ("gpus", "num_gpus", "nproc_per_node"),
    "trainer.precision": ("amp", "fp16", "bf16", "half", "dtype"),
    "trainer.accumulate": ("accumulate_grad_batches", "gradient_accumulation_steps", "grad_accum"),
    "trainer.validate_every_epochs": ("eval_every", "val_interval", "check_val_every_n_epoch", "eval_interval"),
    "data.size": ("size", "imgsz", "img_size", "image_size", "imgsize", "resolution", "input_size", "img"),
    "size": ("imgsz", "img_size", "image_size", "imgsize", "resolution"),
    "data.workers": ("workers", "num_workers", "n_workers"),
    "data.root": ("root", "dataset", "path", "data_path", "data_dir", "dataset_dir", "data_root", "folder", "dir"),
    "data.hold_out": ("val_split", "validation_split", "val_share", "split"),
    "data.cache_megabytes": ("cache",),
    "data.limit_train": ("limit", "max_images", "fraction"),
    "model.queries": ("num_queries", "n_queries", "max_objects", "max_det", "num_object_queries"),
    "model.dim": ("hidden_dim", "d_model", "embed_dim"),
    "model.heads": ("nheads", "num_heads", "n_heads"),
    "augment": ("augmentation", "aug", "augmentations"),
    "init": ("weights", "pretrained", "checkpoint", "ckpt", "pretrained_weights", "finetune_from", "load"),
    "run_folder": ("output", "out", "output_dir", "save_dir", "project", "outdir", "folder"),
    "threshold": ("conf", "confidence", "score", "score_threshold", "conf_thres", "score_thr", "min_score"),
    "suppress_iou": ("iou", "nms", "iou_thres", "nms_iou", "nms_threshold"),
    "source": ("image", "images", "img", "input", "file", "files", "folder", "path", "picture", "pictures"),
    "checkpoint": ("model", "weights", "ckpt", "run", "run_folder", "init", "load"),
    "output": ("out", "output_dir", "save_dir", "outdir", "dest", "destination", "folder"),
    "caption": ("prompt", "text", "query", "sentence", "names", "classes"),
    "to": ("format", "form"),
}
"""Our setting, and its names in other tools or in short."""


def suggest(key: str, known: Collection[str]) -> str:
    """`"; did you mean 'x'?"` with the setting in `known` that `key` most probably means, or an empty string."""
    last = key.rpartition(".")[2].lower().replace("-", "_")
    section = key.partition(".")[0]
    same = [path for path in known if path.rpartition(".")[2] == last and path != key]
    meant = [path for path, names in ELSEWHERE.items() if last in names and path in known]
    inside = [path for path in (*same, *meant) if "." in key and path.startswith(f"{section}.")]
    found = inside or meant or (same if len(same) == 1 else [])
    close = nearest(key, known)
    if inside or not close or ("." not in key and found):
        return (
            f"; did you mean '{min(found, key=lambda path: (path.count('.'), found.index(path)))}'?" if found else close
        )
    return close
