"""timm, with the networks of this library registered in it."""

from __future__ import annotations


def registered_timm():
    """timm, with the networks of this library registered in it."""
    import timm

    from hf_condense.models import cifar_nets, convnet, resnet_ap  # noqa: F401  (their import registers them)

    return timm
