"""`detr-mini demo`: a page in the browser to try one detector, or two side by side."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from detr_mini.deploy.load import load
from detr_mini.errors import ConfigError, UserError, install


def demo(config: DictConfig) -> None:
    """Serve the page with `config.checkpoint` (one, or a list of two) until Ctrl-C."""
    given = config.checkpoint
    paths = [str(each) for each in given] if isinstance(given, ListConfig) else [str(given)]
    if not 1 <= len(paths) <= 2 or given is None:
        raise ConfigError(f"checkpoint has {len(paths)} entries; give one, or two that are shown side by side")
    if not 0 <= config.port <= 65535:
        raise ConfigError(f"port is {config.port}; it must be from 0 to 65535")
    try:
        from detr_mini.pages.demo import Demo
        from detr_mini.pages.serve import bound, serve
    except ModuleNotFoundError as error:
        raise UserError(f"demo needs the package {error.name}, which is not installed; install it with: "
                        f"{install('app')}") from error  # fmt: skip
    bound(config.host, config.port).close()  # a port in use is said before checkpoints are read
    names = [Path(path).expanduser().resolve().name if Path(path).expanduser().exists() else path for path in paths]
    titles = names if len(set(names)) == len(names) else paths
    serve(Demo([(title, load(path, config.device)) for title, path in zip(titles, paths, strict=True)]),
          config.host, config.port)  # fmt: skip
