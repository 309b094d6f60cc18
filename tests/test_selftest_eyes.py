"""The self-test through the simulator's eyes: RapidOCR reads the very pixels that would reach the encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from typing_extensions import override

from kobold_reader.kobold import ServerPool, choose_family
from kobold_reader.reading.selftest import self_test
from tests.card_reader import DRAWN_BY, SEED
from tests.kobold_simulator import BrainRequest, EyesBrain, KoboldSimulator

pytestmark = pytest.mark.slow


class CardEyes(EyesBrain):
    """Looks only where an answer is wanted: the ruled sheets are counted, not read."""

    @override
    def answer(self, request: BrainRequest) -> str:
        return "A ruled sheet." if request.body["max_length"] == 1 else super().answer(request)


@pytest.fixture(scope="module")
def eyes() -> CardEyes:
    return CardEyes()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "visionmaxres_px", "finest_pt", "coarsest_pt"),
    [
        ({"visionmaxres": 512}, 512, 10, 18),
        ({"visionmaxres": 1024}, 1024, 5, 8),
        ({"visionmaxres": 2048}, 2048, 4, 6),
        ({"visionmaxres": 2048, "mrope": True}, 2048, 4, 6),
        ({"visionmaxres": 2048, "model": "llava-v1.5-7b", "projector": "mlp"}, None, 14, 30),
        ({"visionmaxres": 1024, "model": "gemma-3-12b-it", "projector": "gemma3"}, None, 6, 10),
        ({"version": "1.76", "model": "MiniCPM-V-2_6", "projector": "resampler"}, 2048, 4, 7),
    ],
    ids=["512", "1024", "2048", "2048 m-rope", "encoder 336", "encoder 896", "1.76"],
)
def test_the_smallest_print_and_the_servers_limit_come_out_right(
    make_simulator: Callable[..., KoboldSimulator],
    monkeypatch: pytest.MonkeyPatch,
    eyes: CardEyes,
    options: dict[str, Any],
    visionmaxres_px: int | None,
    finest_pt: int,
    coarsest_pt: int,
) -> None:
    monkeypatch.setattr(DRAWN_BY, lambda _: SEED)
    simulator = make_simulator(brain=eyes, **options)
    with ServerPool([simulator.url]) as pool, pool.lease() as lease:
        found = self_test(lease, choose_family(lease.info))
    assert found.visionmaxres_px == visionmaxres_px
    assert found.smallest is not None
    assert finest_pt <= found.smallest.size_pt <= coarsest_pt
    assert found.letter_px is not None
    assert 3.0 < found.letter_px < 6.5, "RapidOCR needs letters of about 4 px, wherever they come from"
