"""`kubeautoml completion SHELL`: print what a shell must read to complete `kubeautoml` on TAB."""

from __future__ import annotations

from argcomplete.shell_integration import shellcode

from kubeautoml.cli.parser import VerbParser

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = ("kubeautoml", "kubectl-automl")


def parser() -> VerbParser:
    made = VerbParser(
        "completion",
        __doc__,
        "source <(kubeautoml completion bash)                   # in ~/.bashrc",
        "source <(kubeautoml completion zsh)                    # in ~/.zshrc, after compinit",
        "kubeautoml completion fish > ~/.config/fish/completions/kubeautoml.fish",
        program="kubeautoml",
    )
    made.description = (
        f"{made.description} `kubectl automl` is completed by kubectl's own completion, which finds the program "
        "kubectl_complete-automl on the PATH: it is installed beside this one."
    )
    made.add_argument("shell", choices=SHELLS, help="the shell")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    print(shellcode(PROGRAMS, shell=args.shell))
    return 0
