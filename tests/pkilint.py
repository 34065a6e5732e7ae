"""pkilint's commands, run in this process."""

import contextlib
import importlib
import io
import warnings
from pathlib import Path


def pkilint(command: str, file: Path, *options: str) -> tuple[int, str]:
    """Exit status and findings of `lint_crl` and its like, from warnings on."""
    lint = importlib.import_module(f"pkilint.bin.{command}")
    shown = io.StringIO()
    with (
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(shown),
        warnings.catch_warnings(action="ignore", category=ResourceWarning),  # it closes no file
    ):
        status = lint.main(["lint", *options, "-s", "WARNING", str(file)])
    return status, shown.getvalue()
