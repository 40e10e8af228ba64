"""Peaks of devices by name, from their makers' data sheets, for estimates of runs on machines that are not here."""

from __future__ import annotations

from dataclasses import dataclass

from hf_condense.config import check

# Shares of the peaks that convolutional networks reach in eager mode. Assumed, the same for every device: measured
# shares differ by network and batch from a third to four fifths.
PRODUCTS_REACHED, BANDWIDTH_REACHED = 0.5, 0.8
CONTEXT = 0.6e9  # bytes that the libraries of a GPU take before the first tensor


@dataclass(frozen=True)
class Device:
    """Peaks of a device.

    Args:
        title: as its maker calls it.
        fp32, tf32, bf16: 1e12 floating-point operations a second of dense products (no sparsity; sums in float32); None
            where it has none.
        bandwidth: of its memory, in 1e9 bytes a second; memory: its size, in 1e9 bytes.
        source: data sheet.
    """

    title: str
    fp32: float
    tf32: float | None
    bf16: float | None
    bandwidth: float
    memory: float
    source: str

    def products(self, precision: str) -> float:
        """Operations a second of products that a network can count on; float32 means float32, never TF32."""
        peak = self.bf16 if precision == "bf16" and self.bf16 else self.fp32
        return PRODUCTS_REACHED * peak * 1e12

    @property
    def moved(self) -> float:
        """Bytes a second that a network can count on."""
        return BANDWIDTH_REACHED * self.bandwidth * 1e9

    @property
    def precision(self) -> str:
        """What `--precision auto` takes there."""
        return "bf16" if self.bf16 else "fp32"


# Compared with public copies of the data sheets in November 2026. Tensor-core peaks that these print with sparsity (H100:
# 989 and 1,979 TFLOPS of TF32 and bf16; L4: 120 and 242; 4090: 165 and 330) stand here without it, as half of that.
DEVICES = {
    "h100": Device("NVIDIA H100 SXM 80GB", 66.9, 494.7, 989.4, 3350, 80, "NVIDIA H100 Tensor Core GPU datasheet"),
    "a100": Device("NVIDIA A100 SXM 80GB", 19.5, 156, 312, 2039, 80, "NVIDIA A100 Tensor Core GPU datasheet"),
    "4090": Device("NVIDIA GeForce RTX 4090", 82.6, 82.6, 165.2, 1008, 24, "NVIDIA Ada GPU Architecture whitepaper"),
    "l4": Device("NVIDIA L4", 30.3, 60, 121, 300, 24, "NVIDIA L4 Tensor Core GPU datasheet"),
    "t4": Device("NVIDIA T4", 8.1, None, None, 320, 16, "NVIDIA T4 Tensor Core GPU datasheet"),
}
HERE = "cpu"  # the processor of this machine, which is timed


def device_named(name: str) -> Device | None:
    """The device of this name; None for the processor of this machine.

    Raises:
        ConfigError: another name.
    """
    check(name == HERE or name in DEVICES, "device", name, ", ".join([*DEVICES, f"{HERE} (that of this machine)"]))
    return DEVICES.get(name)
