"""Imports distilled sets of other projects into the folder format of this library; no code in their files is run."""

from hf_condense.hub.importing.artefact import import_set

__all__ = ["import_set"]
