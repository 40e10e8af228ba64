"""Copies to a device: tensors that share a buffer, and page-locked memory that is written over."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_condense.data.upload import ALIGNED, Ring, part, parts, to_device, together

META, CPU = torch.device("meta"), torch.device("cpu")
GIVEN = [torch.rand(3, 5), torch.arange(7), torch.tensor(True), torch.rand(2, 2).double().T, torch.ones(0)]


class Device:
    """Copies late: when the host waits for an event, and then all those that were asked for before it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.waits = 0

    def copy(self, place: Tensor) -> Tensor:
        found = torch.full_like(place, 255)
        self.waiting.append((found, place))
        return found

    def event(self) -> Event:
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.upto = device, 0

    def record(self) -> None:
        self.upto = len(self.device.waiting)

    def synchronize(self) -> None:
        self.device.waits += 1
        for found, place in self.device.waiting[: self.upto]:
            if found.numel() and bool((found == 255).all()):
                found.copy_(place)


def test_no_copy_is_written_over_before_it_was_made():
    device = Device()
    ring, found = Ring(torch.zeros(8 * ALIGNED, dtype=torch.uint8), device.event), []
    for number in range(40):
        place = ring.place(5 + 10 * (number % 3))
        found.append(device.copy(place.fill_(number)))
    last = device.event()
    last.record()
    last.synchronize()
    assert all(bool((copy == number).all()) for number, copy in enumerate(found))
    assert 2 < device.waits < 30  # once for each half that is used again, not for each copy


def test_a_place_begins_where_any_type_can_and_too_large_ones_are_refused():
    ring = Ring(torch.zeros(100, dtype=torch.uint8), Device().event)
    places = [ring.place(size) for size in (3, 8, 0, 17)]
    assert all(place.storage_offset() % ALIGNED == 0 for place in places)
    assert ring.place(49) is None


def test_parts_of_a_buffer_are_the_tensors_that_were_put_there():
    starts = [0, 64, 128, 144, 176]
    buffer = torch.zeros(192, dtype=torch.uint8)
    for tensor, there in zip(GIVEN, parts(buffer, GIVEN, starts), strict=True):
        there.copy_(tensor)
    for found, tensor in zip(parts(buffer, GIVEN, starts), GIVEN, strict=True):
        torch.testing.assert_close(found, tensor, rtol=0, atol=0)
    torch.testing.assert_close(part(buffer, GIVEN[0]), GIVEN[0])


def test_tensors_sent_together_keep_their_types_and_shapes():
    for found, tensor in zip(together(GIVEN, META), GIVEN, strict=True):
        assert (found.shape, found.dtype, found.device.type) == (tensor.shape, tensor.dtype, "meta")
    assert together(GIVEN, CPU)[0] is GIVEN[0] and to_device(GIVEN[0], CPU) is GIVEN[0]
