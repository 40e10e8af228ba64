"""What scores here and now, and the date: the parts of an entry that no one claims."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from hf_condense.hub.provenance import git_state, portable
from hf_condense.leaderboard.result import Provenance


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def provenance() -> Provenance:
    """What scores here and now."""
    git = git_state()
    return Provenance(
        library=f"hf-condense {metadata.version('hf-condense')}",
        commit=git and git["commit"],
        torch=torch.__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        command=shlex.join([Path(sys.argv[0]).name, *portable(sys.argv[1:])])[:300],
    )
