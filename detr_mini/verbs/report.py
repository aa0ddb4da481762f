"""`detr-mini report`: one HTML file about a run, or about several side by side."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from detr_mini.errors import ConfigError
from detr_mini.pages.report import find_runs, write_report


def report(config: DictConfig) -> Path:
    """Write the report of `config.run` to `config.output`; the file. It opens from disk and loads nothing."""
    if not config.run:
        raise ConfigError("run is empty; add run=outputs/RUN (see 'detr-mini report --help')")
    output = Path(config.output).expanduser()
    if output.is_dir() or output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"output is {output}; it must be a file that ends in .html")
    runs = find_runs([*map(str, config.run)] if isinstance(config.run, ListConfig) else str(config.run))
    size = write_report(runs, output)
    print(f"written to {output}: {size / 1e6:.1f} MB")
    return output
