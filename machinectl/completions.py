# SPDX-License-Identifier: LGPL-2.1-or-later
"""Completion scripts for bash and zsh, written from the tables; the build puts them where the shells look.

Names are asked of the client itself, words of verbs and options are in the script: no Python starts for
those.
"""

from __future__ import annotations

from . import keys, limits, signals
from .errors import CommandError
from .helptext import options_of
from .table import OPTIONS, VERBS, Option

_SHELLS = ("bash", "zsh")

# Kinds of words that only the machine knows, as shell code that prints them one to a line.
_NAMES = 'machinectl {} --no-legend --no-pager 2>/dev/null | while read -r name _; do echo "$name"; done'
_ASK = {
    "machines": _NAMES.format("list --all"),
    "images": _NAMES.format("list-images"),
    "limits": f"__machinectl_words images; printf '%s\\n' {' '.join(f'{name}=' for name in limits.USUAL)}",
    "settings": f"__machinectl_words images; printf '%s\\n' {' '.join(f'{name}=' for name in keys.KEYS)}",
    "users": 'for name in $(__machinectl_words machines); do echo "$name"; echo "root@$name"; done',
}


def script(shell: str) -> str:
    """The completion script for a shell. Raises CommandError for one we do not know."""
    if shell not in _SHELLS:
        raise CommandError(f"There is no completion for '{shell}': expected one of {', '.join(_SHELLS)}.")
    return _bash() if shell == "bash" else _zsh()


def _verb_names() -> list[str]:
    return [name for verb in VERBS for name in (verb.name, *verb.aliases)]


def _spellings(option: Option) -> list[str]:
    return [f"--{option.long}"] * bool(option.long) + [f"-{option.short}"] * bool(option.short)


def _words(option: Option) -> str:
    return " ".join(name for _, name in signals.names()) if option.complete == "signals" else option.complete


def _ask_function(given: str) -> str:
    """Prints the words of a kind one to a line; `given`: how the shell splits words of the script."""
    cases = "".join(f"        {kind}) {code} ;;\n" for kind, code in _ASK.items())
    return (
        "__machinectl_words() {\n    local name\n    case $1 in\n"
        + cases
        + f"        verbs) printf '%s\\n' {' '.join(_verb_names())} ;;\n"
        + f"        *) printf '%s\\n' {given} ;;\n"
        + "    esac\n}\n"
    )


def _argument_cases(indent: str, answer: str) -> str:
    """Cases for the word after an option that takes one."""
    lines = []
    for option in OPTIONS:
        if option.metavar and option.help:
            words = _words(option)
            lines.append(
                f"{indent}{'|'.join(_spellings(option))}) {answer.format(words=_quote(words))} ;;\n"
            )
    return "".join(lines)


def _verb_cases(indent: str, answer: str) -> str:
    return "".join(
        f"{indent}{'|'.join((verb.name, *verb.aliases))}) "
        + answer.format(
            words=_quote(verb.complete),
            options=_quote(" ".join(word for option in options_of(verb) for word in _spellings(option))),
        )
        + " ;;\n"
        for verb in VERBS
    )


def _quote(words: str) -> str:
    return f"'{words}'"


def _verb_loop(words: str) -> str:
    """Finds the verb on the line: the first word that is one."""
    names = "|".join(_verb_names())
    return (
        f"    for word in {words}; do\n        case $word in\n            {names}) verb=$word; break ;;\n"
        "        esac\n    done\n"
    )


def _bash() -> str:
    every = " ".join(word for option in OPTIONS if option.help for word in _spellings(option))
    return (
        "# bash completion for machinectl, written by machinectl --completion=bash\n"
        "# SPDX-License-Identifier: LGPL-2.1-or-later\n\n"
        + _ask_function("$1")
        # Not compgen -W: it expands the words, and the name of an image can be a command substitution.
        + "\n__machinectl_reply() {\n"
        "    local word\n"
        "    while read -r word; do\n"
        '        [[ $word == "$cur"* ]] && COMPREPLY+=("$(printf %q "$word")")\n'
        "    done\n"
        "    return 0\n"
        "}\n\n"
        "_machinectl() {\n"
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
        "    local verb= word kind= options=\n"
        "    COMPREPLY=()\n"
        "    if [[ $prev == '=' ]]; then\n"
        "        prev=${COMP_WORDS[COMP_CWORD-2]}\n"
        "    elif [[ $cur == '=' ]]; then\n"
        "        cur=\n"
        "    fi\n"
        "    case $prev in\n" + _argument_cases("        ", "kind={words}") + "        *) prev= ;;\n"
        "    esac\n"
        "    if [[ -n $prev ]]; then\n"
        '        __machinectl_reply < <(__machinectl_words "$kind")\n'
        "        return 0\n"
        "    fi\n"
        + _verb_loop('"${COMP_WORDS[@]:1:COMP_CWORD-1}"')
        + "    case $verb in\n"
        + _verb_cases("        ", "kind={words} options={options}")
        + f"        *) kind=verbs options='{every}' ;;\n"
        "    esac\n"
        "    if [[ $cur == -* ]]; then\n"
        '        __machinectl_reply < <(__machinectl_words "$options")\n'
        "    elif [[ -n $kind ]]; then\n"
        '        __machinectl_reply < <(__machinectl_words "$kind")\n'
        "    fi\n"
        "}\n\n"
        "complete -F _machinectl machinectl\n"
    )


def _zsh_text(text: str) -> str:
    """Text inside '[…]' of an _arguments specification in single quotes."""
    return text.replace("\\", "").replace("'", "").replace("[", "(").replace("]", ")").replace(":", ",")


def _zsh() -> str:
    options = []
    for option in OPTIONS:
        if not option.help:
            continue
        label = "".join(filter(str.isalpha, option.metavar.lower()))
        argument = f":{label}:" if label else ""
        if argument and option.complete:
            argument += f'{{__machinectl_complete "{_words(option)}"}}'
        for spelling in _spellings(option):
            equals = "=" if option.metavar and spelling.startswith("--") else "+" if option.metavar else ""
            options.append(f"        '*{spelling}{equals}[{_zsh_text(option.help)}]{argument}' \\\n")
    verbs = "".join(
        f"        '{name}:{_zsh_text(verb.summary)}'\n"
        for verb in VERBS
        for name in (verb.name, *verb.aliases)
    )
    return (
        "#compdef machinectl\n"
        "# zsh completion for machinectl, written by machinectl --completion=zsh\n"
        "# SPDX-License-Identifier: LGPL-2.1-or-later\n\n"
        + _ask_function("${=1}")  # zsh splits words when told to
        + "\n__machinectl_complete() {\n"
        "    local -a found\n"
        '    found=(${(f)"$(__machinectl_words "$1")"})\n'
        "    compadd -a found\n"
        "}\n\n"
        "__machinectl_verb() {\n"
        "    local -a verbs\n"
        "    local verb= word kind=\n"
        "    verbs=(\n"
        + verbs
        + "    )\n"
        + _verb_loop('"${(@)words[2,CURRENT-1]}"')
        + "    case $verb in\n"
        + _verb_cases("        ", "kind={words}")
        + "        *) _describe -t verbs verb verbs; return ;;\n"
        "    esac\n"
        '    [[ -n $kind ]] && __machinectl_complete "$kind"\n'
        "}\n\n"
        "_arguments -s \\\n"
        + "".join(options)
        + "        '*:argument:__machinectl_verb'\n"
    )  # fmt: skip
