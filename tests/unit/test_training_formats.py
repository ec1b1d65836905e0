"""What a training's weights are kept in."""

import pytest
import torch

from pfstorer_core.training.formats import calculates_bf16, training_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)
FORMATS = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize("stored", FORMATS)
def test_weights_are_in_a_format_that_gradients_fit(
    stored: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training_dtype(stored, CPU) == (stored if stored in FORMATS[:2] else torch.float32)
    for capability, expected in (((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16), ((7, 5), torch.float32)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert training_dtype(stored, CUDA) == expected
        assert calculates_bf16(CUDA) == (expected == torch.bfloat16)
    assert training_dtype(stored, torch.device("mps")) == torch.float32
