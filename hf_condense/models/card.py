"""Renders the card of a published network from its facts with the templates in `models/cards/`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_condense.data.licenses import license_keys
from hf_condense.text import markdown, shortened

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "cards"
LONGEST_NAME = 80  # characters of a class name in a card


@dataclass(frozen=True)
class ModelCardFacts:
    """The facts on the card of one network.

    Args:
        name: its name as given by the user; also the timm architecture unless `architecture` differs.
        library: "timm" or "transformers", which loads the folder.
        dataset: id of the dataset it was trained on; empty where that is not known.
        top1: share of test images it gets right (0 to 1).
        epochs: of the training on that dataset; 0 for published weights taken as they are.
        source: {"id", "revision", "pretrained"} of the weights it started from.
        kind, epoch, ratio, macs: see `PoolMember`.
        license: of the weights; that of the dataset where they were trained from scratch, None where not known.
        repo_id: Hub repository that holds it, or None while it is a folder.
    """

    name: str
    library: str
    architecture: str
    dataset: str
    class_names: tuple[str, ...]
    image_size: int
    channels: int
    parameters: int
    top1: float
    epochs: int
    source: dict
    sha256: str
    license: str | None = None
    kind: str = "base"
    epoch: int | None = None
    ratio: float | None = None
    macs: int | None = None
    repo_id: str | None = None


def render(facts: ModelCardFacts, template: str = "base_model", **more: Any) -> str:
    """The card as Markdown with its YAML head, from `models/cards/<template>.md.jinja`; `more` is for that template."""
    shown = {
        "title": public_name(facts.name),
        "started_from": public_name(facts.source["id"]),
        "hub_id": _hub_id(facts),
        "licensed": licensed(facts.license),
    }
    named = {"class_names": [shortened(name, LONGEST_NAME) for name in facts.class_names]}
    return environment().get_template(f"{template}.md.jinja").render(markdown(asdict(facts) | named | shown | more))


def environment() -> Environment:
    """The template environment of all cards; a missing fact is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    places = FileSystemLoader(TEMPLATES)
    return Environment(loader=places, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def licensed(license: str | None) -> dict[str, str]:
    """The keys of a card that name a license; none where it is not known."""
    return license_keys(license) if license else {}


def public_name(name: str) -> str:
    """A model's name without the path of a local folder."""
    path = name.removeprefix("local-dir:").removeprefix("transformers:")
    return Path(path).name if path.startswith(("/", "./", "../", "~")) else name


def _hub_id(facts: ModelCardFacts) -> str | None:
    """The Hub repository that the weights came from, or None."""
    id = facts.source["id"]
    elsewhere = id.startswith("torchvision/") or id != public_name(id) or "/" not in id
    return id.partition("@")[0] if facts.source["pretrained"] and not elsewhere else None
