"""Scripts with which a shell completes verbs and settings. They ask nothing at completion time, so they are instant."""

from __future__ import annotations

import re
from collections.abc import Iterator

from detr_mini.config.files import config_folder, options
from detr_mini.errors import ConfigError, nearest
from detr_mini.help_texts import VERBS, groups_of

SHELLS = ("bash", "zsh", "fish")

BASH = """\
# detr-mini completion for bash: eval "$(detr-mini completion bash)"
_detr_mini() {{
  local cur="${{COMP_LINE:0:COMP_POINT}}" verb words
  cur="${{cur##*[[:space:]]}}"
  local one="${{COMP_WORDS[1]}}" two="${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}"
  case "$two" in
{two}
    *) case "$one" in
{one}
      *) words="{verbs}" ;;
      esac ;;
  esac
  [ "$COMP_CWORD" -le 1 ] && words="{verbs}"
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [[ "$cur" == *=* && "$COMP_WORDBREAKS" == *"="* ]]; then
    COMPREPLY=("${{COMPREPLY[@]#"${{cur%=*}}="}}")
    [ ${{#COMPREPLY[@]}} -eq 0 ] && COMPREPLY=($(compgen -f -- "${{cur#*=}}"))
  fi
  [[ "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace
  return 0
}}
complete -F _detr_mini detr-mini
"""
ZSH = """\
# detr-mini completion for zsh: source <(detr-mini completion zsh)
autoload -U +X bashcompinit && bashcompinit
"""


def script(shell: str) -> str:
    """The script for a shell, for its start file. ConfigError for a shell that is not known."""
    if shell not in SHELLS:
        raise ConfigError(f"there is no completion for '{shell}'{nearest(shell, SHELLS)}; choose one of "
                          f"{', '.join(SHELLS)}")  # fmt: skip
    if shell == "fish":
        return "\n".join(_fish()) + "\n"
    starts = sorted({verb.partition(" ")[0] for verb in VERBS})
    one = [f'      {verb}) words="{" ".join(_words(verb))}" ;;' for verb in VERBS if " " not in verb]
    for start in starts:
        seconds = [verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{start} ")]
        one += [f'      {start}) words="{" ".join(seconds)}" ;;'] if seconds else []
    two = [f'    "{verb}") words="{" ".join(_words(verb))}" ;;' for verb in VERBS if " " in verb]
    text = BASH.format(two="\n".join(two), one="\n".join(one), verbs=" ".join(starts))
    return (ZSH if shell == "zsh" else "") + text


def _words(verb: str) -> list[str]:
    """`key=` for the settings of a verb's own file, and `group=option` for the files that it may choose."""
    text = (config_folder() / f"{VERBS[verb].config}.yaml").read_text(encoding="utf-8")
    chosen, hidden = groups_of(VERBS[verb].config), ["defaults", "hydra", "explicit"]
    if re.search(r"^  - train$", text, re.MULTILINE):  # it takes the settings of a training, in folders of its own
        text += (config_folder() / "train.yaml").read_text(encoding="utf-8")
        hidden += ["run_folder", "resume", "name"]
    keys = [*dict.fromkeys(re.findall(r"^(\w+):", text, re.MULTILINE))]
    keys = [key for key in keys if key not in (*hidden, *chosen)]
    return [f"{key}=" for key in keys] + [f"{group}={option}" for group in chosen for option in options(group)]


def _fish() -> Iterator[str]:
    yield "# detr-mini completion for fish: detr-mini completion fish | source"
    yield "complete -c detr-mini -f"
    for start in sorted({verb.partition(" ")[0] for verb in VERBS}):
        yield f"complete -c detr-mini -n __fish_use_subcommand -a {start}"
        for verb in VERBS:
            first, _, second = verb.partition(" ")
            if first != start:
                continue
            seen = f"__fish_seen_subcommand_from {first}"
            if second:
                yield f"complete -c detr-mini -n '{seen}' -a {second}"
                seen += f"; and __fish_seen_subcommand_from {second}"
            yield f"complete -c detr-mini -n '{seen}' -a '{' '.join(_words(verb))}'"
