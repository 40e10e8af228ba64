"""Publishes expert trajectories as a model repository, so that trajectory matching can reuse them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_condense.files import check_inside, read_json
from hf_condense.hub.card import hub_dataset
from hf_condense.hub.commits import Commit
from hf_condense.hub.visibility import Target
from hf_condense.models.card import environment, licensed
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.text import markdown


def push_experts(
    folder: Path | str,
    repo_id: str,
    source: dict[str, Any],
    *,
    private: bool | None = None,
    public: bool = False,
    dry_run: bool = False,
    **options: Any,
) -> Commit:
    """Publishes a folder of experts in one commit: safetensors, manifest and a card. `--expert_folder REPO` reads it.

    Args:
        folder: of `train_experts`; every checksum is tested before anything is sent.
        source: {"id", "license"} of the images that they were trained on. As for distilled sets, experts of a source
            with restricted terms are private and gated unless `public`.
        options: `revision`, `create_pr`, as for `commits.commit`.

    Raises:
        ArtefactError: the folder is damaged.
        HubError: the Hub refuses, or cannot be reached.
    """
    folder = Path(folder)
    buffer = ExpertBuffer.open(folder, verify=True)
    files: dict[str, Path | bytes] = {
        path.name: check_inside(folder, path) for path in sorted(folder.glob("expert-*.safetensors"))
    }
    files["manifest.json"] = json.dumps(read_json(folder / "manifest.json"), indent=2).encode()
    card = (
        environment()
        .get_template("experts.md.jinja")
        .render(
            licensed=licensed(source.get("license")),
            dataset=hub_dataset(source["id"]) or "",
            source=markdown(source["id"]),
            buffer=buffer,
            recipe=markdown(buffer.manifest["recipe"]),
            repo_id=repo_id,
        )
    )
    files["README.md"] = card.encode()
    target = Target.of_source(source, private, public, dry_run)
    return target.send(repo_id, "model", files, f"{buffer.experts} expert trajectories on {source['id']}", **options)
