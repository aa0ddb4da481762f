"""What `detr-mini --help` prints. Nothing heavy is imported here, so that help appears at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from detr_mini.config.files import config_folder, groups, options


@dataclass(frozen=True)
class Verb:
    """How help describes a verb of the command line."""

    summary: str
    config: str
    """The verb's file in configs/."""
    examples: tuple[str, ...]
    keys: str = ""
    """The settings that most people use, one a line. If it is empty, help shows every setting of the file."""


RECIPE_KEYS = """\
  experiment=NAME           a complete recipe; 'finetune' is the one for your own images
  data.root=FOLDER          your images and annotations: COCO, Pascal VOC, YOLO and other formats
  trainer.max_minutes=30    how long to train; or trainer.max_epochs, trainer.max_steps
  trainer=cpu|gpu|ddp       where to train
  init=CHECKPOINT           start from the weights of another detector, whatever its categories
  keep_categories=true      also keep the categories of init= that these data do not label
  backgrounds=FOLDER        images that contain none of the objects, added to the training images
  pseudo=FOLDER             images without labels: detections of init= with a high score are used as labels
  augment=NAME              how images may be flipped and rotated
  backbone=NAME model=NAME optim=NAME
  debug=fast|overfit        a complete run in seconds; training on eight images
  seed=0"""

TRAIN_KEYS = f"""{RECIPE_KEYS}
  name=NAME                 runs are written to outputs/NAME/<date and time>, or to run_folder=FOLDER
  resume=RUN                continue an interrupted run; resume=auto: continue run_folder if it has begun"""

SWEEP_KEYS = """

many runs, compared in one table and one chart:
  -m seed=0,1,2 optim=muon,adamw        every combination
  sweep=joblib sweep.jobs=2             two runs at a time; they share the cores
  sweep=optuna sweep.trials=20          a search: 'optim.optimizer.lr=tag(log, interval(0.002, 0.05))'
  sweep=submitit                        one SLURM job for each run
  sweep.folder=FOLDER                   where to write; an existing sweep there is continued"""

DATA_KEYS = """\
  data.root=FOLDER          the dataset; its format and splits are detected automatically
  data=coco|voc|yolo        the format, if detection fails; add data.train.images=... and so on
  data.first_pixel=auto     VOC only: whether pixels count from 1 or from 0"""

PLACING = "  images=copy               or link (hard links), or none (annotations only)\n"

HEADINGS = {
    "train": "Train and use a detector",
    "data check": "Prepare data",
    "data label": "Label with a detector's help",
    "data shapes": "Generate data",
    "benchmark datasets": "Measure a recipe and its speed",
}
"""Lines of the overview, each above a verb."""

VERBS: Mapping[str, Verb] = {
    "train": Verb(
        "train a detector and measure it", "train",
        ("detr-mini train experiment=finetune data.root=my_photos", "detr-mini train experiment=quickstart",
         "detr-mini train resume=outputs/quickstart",
         "detr-mini train -m experiment=bccd data.root=cells seed=0,1,2 optim=muon,adamw sweep=joblib"),
        TRAIN_KEYS + SWEEP_KEYS,
    ),
    "predict": Verb(
        "find objects in images: COCO records and drawn images", "predict",
        ("detr-mini predict checkpoint=outputs/quickstart source=photos",
         "detr-mini predict checkpoint=outputs/quickstart source=photos/a.jpg threshold=0.4 explain=true",
         "detr-mini predict checkpoint=outputs/quickstart source=plate.tif tiles=auto",
         "detr-mini predict checkpoint=outputs/quickstart source=clip.mp4 track=true"),
    ),
    "evaluate": Verb(
        "measure a checkpoint by COCO's metrics", "evaluate",
        ("detr-mini evaluate checkpoint=outputs/quickstart",
         "detr-mini evaluate checkpoint=outputs/quickstart data.root=other split=test report=true",
         "detr-mini evaluate checkpoint=outputs/quickstart subset.categories=[star] subset.share=0.5"),
    ),
    "compare": Verb(
        "find out which differences between runs are real", "compare",
        ("detr-mini compare runs=[outputs/a,outputs/b]", "detr-mini compare runs=outputs/my_sweep",
         "detr-mini compare runs=[outputs/datasets/before,outputs/datasets/after]"),
    ),
    "report": Verb(
        "write one HTML page about a run, or about several", "report",
        ("detr-mini report run=outputs/quickstart output=quickstart.html",
         "detr-mini report run=[outputs/a,outputs/b]", "detr-mini report run=outputs/my_sweep"),
    ),
    "demo": Verb(
        "try a detector on your images, in the browser", "demo",
        ("detr-mini demo", "detr-mini demo checkpoint=outputs/quickstart",
         "detr-mini demo checkpoint=[outputs/a,outputs/b] port=9000"),
    ),
    "export": Verb(
        "write a checkpoint for other programs: ONNX, OpenVINO, torch or safetensors", "export",
        ("detr-mini export checkpoint=outputs/quickstart output=quickstart.onnx",
         "detr-mini export checkpoint=outputs/quickstart output=quickstart_openvino format=openvino precision=fp16",
         "detr-mini export checkpoint=outputs/quickstart output=quickstart.safetensors"),
    ),
    "data check": Verb(
        "list every fault of a dataset; fix=true writes a fixed copy", "data_check",
        ("detr-mini data check data.root=my_photos", "detr-mini data check data.root=my_photos fix=true"),
        "  fix=true                  write a fixed copy to output=FOLDER; the dataset itself is never changed\n"
        "  report=FILE               write every fault as JSON\n"
        "  pixels=false              do not decode the images; check only the start and end of each file\n" + DATA_KEYS,
    ),
    "data stats": Verb(
        "describe a dataset: counts, sizes and shapes, as tables and a chart", "data_stats",
        ("detr-mini data stats data.root=my_photos",),
        "  output=FOLDER             where to write stats.json and stats.png\n" + DATA_KEYS,
    ),
    "data split": Verb(
        "divide a dataset into train, val and test", "data_split",
        ("detr-mini data split data.root=my_photos output=split val=0.2 test=0.1 seed=0",),
        "  output=FOLDER             a new folder\n"
        "  val=0.2 test=0            shares of the images; the rest is train. Every category is divided in\n"
        "                            proportion, and copies of one image stay together\n"
        "  all=true                  also divide a dataset that already has splits\n" + PLACING + DATA_KEYS,
    ),
    "data subset": Verb(
        "take a part of a dataset, by categories, ids, count or share", "data_subset",
        ("detr-mini data subset data.root=my_photos output=some count=100 seed=0",
         "detr-mini data subset data.root=data/coco output=pets categories=[cat,dog] share=0.1 splits=[train]"),
        "  output=FOLDER             a new folder\n"
        "  categories=[cat,dog]      only these boxes, and only images that have one\n"
        "  ids=[139,000285.jpg]      image ids or file names\n"
        "  count=100 or share=0.1    a random part with every category in proportion; same seed, same part\n"
        "  splits=[train]            the splits to cut; the others stay complete (null: cut all)\n"
        + PLACING + DATA_KEYS,
    ),
    "data convert": Verb(
        "convert annotations between COCO, VOC, YOLO, CVAT and Label Studio", "data_convert",
        ("detr-mini data convert data.root=my_voc to=coco output=my_coco",),
        "  to=NAME                   the new format: coco, voc, yolo, cvat or label_studio\n"
        "  output=FOLDER             a new folder\n" + PLACING + DATA_KEYS,
    ),
    "data shard": Verb(
        "write a dataset as a few large files, for shared disks and object stores", "data_shard",
        ("detr-mini data shard data.root=data/coco data=coco output=coco_shards",
         "detr-mini data shard data.root=my_photos output=my_shards shard_megabytes=256 split=[train,val]"),
        "  output=FOLDER             a new folder\n"
        "  shard_megabytes=64        size of a shard; larger ones mean fewer files\n"
        "  split=[train,val]         the splits to write (null: all)\n" + DATA_KEYS,
    ),
    "data label": Verb(
        "pre-label new images with a detector, for correction in a labelling tool", "data_label",
        ("detr-mini data label checkpoint=outputs/first source=new_photos output=to_correct format=label_studio",
         "detr-mini data label checkpoint=outputs/first source=new_photos output=to_correct format=cvat threshold=0.4"),
    ),
    "data corrections": Verb(
        "count the corrections that people made to pre-labels", "data_corrections",
        ("detr-mini data corrections prelabels=to_label data.root=corrected",),
        "  prelabels=FOLDER          the folder that 'data label' or 'data next' wrote\n"
        "  report=FILE               write the counts of each image as JSON\n" + DATA_KEYS,
    ),
    "data next": Verb(
        "choose which images to label next", "data_next",
        ("detr-mini data next checkpoint=outputs/first source=new_photos count=50 output=to_label",
         "detr-mini data next checkpoint=outputs/first source=new_photos output=to_label labelled=old_photos "
         "format=cvat"),
    ),
    "data doubt": Verb(
        "find labels that are probably wrong", "data_doubt",
        ("detr-mini data doubt data.root=my_photos output=outputs/doubts",
         "detr-mini data doubt data.root=my_photos folds=5 trainer.max_minutes=20 format=cvat",
         "detr-mini data doubt data.root=my_photos checkpoint=outputs/first split=val"),
        "  output=FOLDER             for doubts.json, doubts.jpg, a task for your tool, and the folds' runs\n"
        "  folds=3                   detectors to train, each without one part of train, for trainer.max_minutes each\n"
        "  checkpoint=CHECKPOINT     a detector (or a list) to use instead; it was trained without the split\n"
        "  split=train               the labels to check; another split needs checkpoint=...\n"
        "  format=label_studio       format of the task: label_studio, cvat, coco, yolo or voc\n"
        "  shown=200                 number of doubts that are written, most certain first\n" + RECIPE_KEYS,
    ),
    "data shapes": Verb(
        "draw synthetic scenes of coloured shapes, with COCO annotations", "data_shapes",
        ("detr-mini data shapes root=data/shapes train=4000 val=400 test=400",),
    ),
    "data scene": Verb(
        "draw one synthetic scene, with captions to try a detector on", "data_scene",
        ("detr-mini data scene seed=3 output=scene.png",),
    ),
    "data refer": Verb(
        "generate captions from the boxes of a dataset", "data_refer",
        ("detr-mini data refer root=cells split=val 'names={RBC: red cell, WBC: white cell}' complete=[WBC]",),
    ),
    "data ground": Verb(
        "link the nouns of captions to boxes (written in MDETR's format)", "data_ground",
        ("detr-mini data ground root=data/coco output=data/coco_grounded",
         "detr-mini data ground root=flickr30k captions=mdetr.json 'boxes={images: images}'"),
    ),
    "benchmark datasets": Verb(
        "train one recipe on every dataset below a folder: is it better on all of them?", "benchmark_datasets",
        ("detr-mini benchmark datasets root=my_sets minutes=10 seeds=[0,1] folder=outputs/datasets/before",
         "detr-mini benchmark datasets root=my_sets overrides=[data.size=256] folder=outputs/datasets/smaller",
         "detr-mini compare runs=[outputs/datasets/before,outputs/datasets/smaller]"),
    ),
    "benchmark learning_curve": Verb(
        "train on growing shares of the data: would more images help?", "learning_curve",
        ("detr-mini benchmark learning_curve experiment=finetune data.root=my_photos shares=[0.1,0.3,1]",),
        "  shares=[0.1,0.2,0.5,1.0]  shares of the training images\n"
        "  output=FOLDER             where to write the chart and the runs; an unfinished curve is continued\n"
        + RECIPE_KEYS,
    ),
    "benchmark step": Verb(
        "time each part of a training step", "benchmark_step",
        ("detr-mini benchmark step", "detr-mini benchmark step experiment=finetune data.root=my_photos steps=10"),
        "  steps=30 warmup=5         steps that are timed, and steps before them that are not\n"
        "  matrix=2048               side of the matrix product that the step's speed is compared with\n" + RECIPE_KEYS,
    ),
    "benchmark latency": Verb(
        "time a detector in torch, ONNX Runtime and OpenVINO, in float32, bfloat16 and int8", "benchmark_latency",
        ("detr-mini benchmark latency checkpoint=outputs/first",
         "detr-mini benchmark latency checkpoint=outputs/first picture=photo.jpg batch=[1] 'forms=[torch,onnx]'"),
    ),
    "benchmark detr": Verb(
        "time our DETR against transformers', with the same weights", "benchmark_detr",
        ("detr-mini benchmark detr", "detr-mini benchmark detr device=gpu compile=true precisions=[bfloat16]"),
    ),
    "benchmark attention": Verb(
        "measure time and memory of every kind of attention", "benchmark_attention",
        ("detr-mini benchmark attention", "detr-mini benchmark attention sizes=[256,1024] backward=true"),
    ),
}  # fmt: skip


def overview() -> str:
    """What `detr-mini --help` prints: three commands to begin with, then every verb."""
    width = max(map(len, VERBS))
    lines = [
        "detr-mini: an object detector that trains in minutes", "",
        "  detr-mini train experiment=quickstart                          train on synthetic scenes, in five minutes",
        "  detr-mini train experiment=finetune data.root=my_photos        train on your own images",
        "  detr-mini predict checkpoint=outputs/quickstart source=photos  find objects in images", "",
        "usage: detr-mini VERB key=value ...",
    ]  # fmt: skip
    for name, verb in VERBS.items():
        if name in HEADINGS:
            lines += ["", HEADINGS[name]]
        lines.append(f"  {name:{width}}  {verb.summary}")
    return "\n".join(
        [
            *lines,
            "",
            "detr-mini VERB --help lists a verb's settings; detr-mini --version prints the version;",
            "detr-mini completion bash|zsh|fish prints a script that lets your shell complete verbs and settings.",
        ]
    )


def help_for(name: str) -> str:
    """What `detr-mini VERB --help` prints: examples, then settings."""
    verb = VERBS[name]
    lines = [f"detr-mini {name}: {verb.summary}", "", *(f"  {example}" for example in verb.examples), ""]
    if verb.keys:
        lines += ["settings:", verb.keys, "", "choices:"]
        lines += [f"  {group}={'|'.join(options(group))}" for group in groups_of(verb.config)]
    else:
        lines += ["settings and their defaults:", *_settings(config_folder() / f"{verb.config}.yaml")]
    many = "" if name == "train" else "; -m seed=0,1,2 runs it once for each value"
    return "\n".join([*lines, "", f"--config prints every setting instead of running{many}."])


def groups_of(config: str) -> list[str]:
    """The folders of configs/ that a verb's file chooses from, in alphabetical order."""
    text = (config_folder() / f"{config}.yaml").read_text(encoding="utf-8")
    if config != "train" and re.search(r"^  - train$", text, re.MULTILINE):
        return [group for group in groups_of("train") if group != "sweep"]
    chosen = {*re.findall(r"^  - (\w+): ", text, re.MULTILINE), *(["sweep"] if config == "train" else [])}
    return sorted(chosen.intersection(groups()))


def _settings(file: Path) -> Iterator[str]:
    """The lines of a config that a user may set, with their comments."""
    skipping = False
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            skipping = line.startswith(("defaults:", "hydra:"))
        if line and not skipping and not line.startswith("#"):
            yield f"  {line.replace('???', '(required)')}"
