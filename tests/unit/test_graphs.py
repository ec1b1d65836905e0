"""Evaluations that are recorded and replayed, by a stand-in for CUDA graphs that replays no Python."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pfstorer_core as pf
from pfstorer_core import Identity, Restorer
from pfstorer_core.models import graphs as module
from pfstorer_core.models.arguments import exchanged
from pfstorer_core.models.graphs import SHAPES, WARM_UP, CUDACapture, Graphs
from pfstorer_core.personalization.lora.adapter import LoRAAdapter, LoRAHeader
from pfstorer_core.personalization.lora.layers import flat
from pfstorer_core.personalization.pfstorer.adapter import IdentityAdapter
from pfstorer_core.personalization.pfstorer.train import IdentityLoss
from pfstorer_core.personalization.photos import Photos
from pfstorer_core.personalization.reference_attention.references import References, ReferenceSettings
from pfstorer_core.personalization.weights import LowRank, changeable
from pfstorer_core.restorers.changes import NO_CHANGES

from .recorder import Elsewhere, Recorder
from .small import small_diffbir, small_prior, small_restorer

PHOTOS = list(torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1)))
LQ = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(2))

Make = Callable[[Restorer], Sequence[Identity]]


class Scale(nn.Module):
    """Something with a weight, and a branch."""

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]), requires_grad=False)

    def forward(self, x: Tensor, add: bool = False, **beside: Any) -> Tensor:
        scaled = x * self.weight
        return scaled + 1 if add else scaled


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def test_what_is_given_is_copied_to_where_it_was() -> None:
    scale = Scale()
    capture = Recorder(scale)
    with Graphs(capture) as run:
        x = values(1, 2)
        assert [run(scale.forward, x).tolist() for _ in range(3)] == [[2, 4]] * 3
        x += 10
        assert run(scale.forward, x).tolist() == [22, 24], "changed in place"
        with torch.inference_mode():
            assert run(scale.forward, x + 1).tolist() == [24, 26], "nobody counts its changes"
        assert run(scale.forward, values(5, 6)).tolist() == [10, 12], "another tensor"
        assert run(scale.forward, torch.tensor([[3.0, 1.0], [4.0, 2.0]])[:, 0]).tolist() == [6, 8], "a view"
        scale.weight.fill_(3)
        assert run(scale.forward, x).tolist() == [33, 36], "a weight that changed where it is"
    assert capture.recorded == 1
    assert capture.replayed == 6
    assert x.tolist() == [11, 12], "nothing is written to what is given"


def test_a_result_outlives_the_next_replay() -> None:
    scale = Scale()
    with Graphs(Recorder(scale)) as run:
        found = [run(scale.forward, values(k)) for k in range(4)]
    assert [float(each) for each in found] == [0, 2, 4, 6]


def test_in_the_end_nothing_is_kept() -> None:
    scale, held = Scale(), list[weakref.ref[Tensor]]()

    class Watching(Recorder):
        def __call__(self, function: Any, arguments: Any) -> Any:
            held.extend(map(weakref.ref, arguments))
            return super().__call__(function, arguments)

    with Graphs(Watching(scale)) as run:
        run(scale.forward, values(1))
        run(scale.forward, values(2))
        assert [each() is None for each in held] == [False]
    gc.collect()
    assert [each() for each in held] == [None]
    assert run(scale.forward, values(3)).tolist() == [6], "called as it is"


@pytest.mark.parametrize(
    "other",
    [
        lambda run, scale: run(scale.forward, values(1, 2), True),
        lambda run, scale: run(scale.forward, values(1, 2, 3), False),
        lambda run, scale: run(scale.forward, values(1, 2).double(), False),
        lambda run, scale: run(Scale(5).forward, values(1, 2), False),
        lambda run, scale: run(scale.half_of, values(1, 2), False),
    ],
    ids=["branch", "shape", "dtype", "object", "function"],
)
def test_what_differs_is_no_replay(other: Callable[[Graphs, Any], Tensor]) -> None:
    class Both(Scale):
        def half_of(self, x: Tensor, _: bool) -> Tensor:
            return x * self.weight / 4

    scale = Both()
    capture = Recorder(scale)
    with Graphs(capture) as run:
        for _ in range(2):
            run(scale.forward, values(1, 2), False)
        found = other(run, scale)
    assert capture.replayed == 1
    assert torch.equal(found, other(lambda function, *given: function(*given), scale))  # type: ignore[arg-type]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()]


def summed(x: Tensor) -> Tensor:
    return x + x.sum().item()


def drawn(x: Tensor) -> Tensor:
    return x + torch.randn(2)


def with_table(x: Tensor) -> Tensor:
    return x + TABLE


def from_python(x: Tensor) -> Tensor:
    return x + torch.tensor([1.0, 2.0])


TABLE = values(3, 4)


@pytest.mark.parametrize(
    ("function", "reason"),
    [(summed, "_local_scalar_dense"), (with_table, "nobody gave"), (from_python, "lift_fresh")],
)
def test_what_cannot_be_recorded_is_called(
    function: Callable[[Tensor], Tensor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    capture = Recorder()
    with Graphs(capture) as run:
        found = [run(function, values(k, 1)) for k in range(4)]
    assert [each.tolist() for each in found] == [function(values(k, 1)).tolist() for k in range(4)]
    assert capture.closed
    (line,) = told(caplog)
    assert reason in line


def test_a_replay_would_draw_nothing_anew() -> None:
    with pytest.raises(RuntimeError, match="randn"):
        Recorder()(drawn, [values(1, 2)])


def test_hooks_and_gradients_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    scale = Scale()
    capture = Recorder(scale)
    with Graphs(capture) as run:
        x = values(1).requires_grad_()
        for k in range(3):
            assert run(lambda x, hook: hook(x), values(k), lambda x: x + k).tolist() == [2 * k]  # noqa: B023
            assert run(scale.forward, x).requires_grad
        scale.weight.requires_grad_()
        for _ in range(3):
            assert run(scale.forward, values(1)).requires_grad, "a weight's"
    assert capture.replayed == 0
    assert len(told(caplog)) == 2 + 1


def test_shapes_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    scale = Scale()
    capture = Recorder(scale)
    with Graphs(capture, most=2) as run:
        for _ in range(3):
            for count in range(1, 5):
                assert run(scale.forward, torch.ones(count)).tolist() == [2] * count
    assert (capture.recorded, capture.replayed) == (2, 4)
    assert told(caplog) == ["Without a CUDA graph: 2 shapes are recorded already."]


def test_shapes_that_never_come_back_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    scale = Scale()
    capture = Recorder(scale)
    with Graphs(capture) as run:
        for count in range(1, 2 * SHAPES):
            run(scale.forward, torch.ones(count))
        assert len(run._seen) == SHAPES
        for _ in range(3):
            run(scale.forward, torch.ones(1))
    assert capture.replayed == 3, "what was seen early is still recorded"
    assert told(caplog) == ["Without a CUDA graph: shapes differ from call to call."]


def test_short_memory_leaves_it_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    scale = Scale()
    capture = Recorder(scale, room=False)
    with Graphs(capture) as run:
        assert [run(scale.forward, values(k)).tolist() for k in range(3)] == [[0], [2], [4]]
    assert capture.recorded == 0
    assert told(caplog) == ["Without a CUDA graph: memory is short."]


# --- restoring


@pytest.fixture(scope="module")
def adapter(restorer: Restorer) -> IdentityAdapter:
    """Of blocks that change something."""
    objective = IdentityLoss(restorer, Photos.of(restorer, PHOTOS), pf.AdapterTraining(bf16=False))
    made = objective.adapter("", 0, [])
    for block in made.blocks.values():
        nn.init.constant_(block.gamma, 0.5)
    return made


def lora(restorer: Restorer, seed: int) -> Identity:
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for layer, weight in list(changeable(restorer.unet).items())[::7]:
        up = 0.1 * torch.randn(len(weight), 2, *[1] * (weight.ndim - 2), generator=generator)
        down = torch.randn(2, *weight.shape[1:], generator=generator)
        layers[flat(layer)] = LowRank(up, down, 1.0)
    return Identity(LoRAAdapter(LoRAHeader(base=restorer.fingerprint, prediction_type="v"), layers))


def area(identity: Identity) -> Identity:
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    return replace(identity, area=left)


@pytest.mark.parametrize(
    ("options", "people"),
    [
        ({}, ()),
        ({"tile": 64, "upscale": 6, "tile_batch": 2}, ()),
        ({"cfg": 3.0, "prompt": "a face", "negative_prompt": "blurry"}, ()),
        ({"sampler": "ddim"}, ("adapter",)),
        ({}, ("noised",)),
        ({"tile": 64, "upscale": 5}, ("lora",)),
        ({}, ("lora", "another lora")),
        ({}, ("adapter", "lora in a part")),
        ({}, ("references",)),
        ({}, ("led references",)),
    ],
    ids=str,
)
def test_a_restoration_is_the_same_bit_for_bit(
    restorer: Restorer, adapter: IdentityAdapter, options: dict[str, Any], people: tuple[str, ...]
) -> None:
    noised = replace(adapter, header=replace(adapter.header, reference_timestep="noised"))
    leading = ReferenceSettings(cfg=1.5)
    makers: dict[str, Callable[[], Identity]] = {
        "adapter": lambda: Identity(adapter),
        "noised": lambda: Identity(noised),
        "lora": lambda: lora(restorer, 1),
        "another lora": lambda: lora(restorer, 2),
        "lora in a part": lambda: area(lora(restorer, 1)),
        "references": lambda: Identity(References.of(restorer, PHOTOS)),
        "led references": lambda: Identity(References.of(restorer, PHOTOS, settings=leading)),
    }
    given: dict[str, Any] = {"steps": 6, "identities": [makers[who]() for who in people], **options}
    capture = Recorder(restorer.unet)
    expected = pf.restore(restorer, LQ, **given)
    assert torch.equal(pf.restore(restorer, LQ, **given, graphs=capture), expected)
    assert capture.closed
    assert capture.replayed > capture.recorded >= 1


@pytest.mark.parametrize("make", [small_diffbir, lambda: small_diffbir("v2.1"), small_prior])
def test_other_restorers_too(make: Callable[[], Restorer]) -> None:
    restorer = make()
    capture = Recorder(restorer.unet)
    expected = pf.restore(restorer, LQ, steps=5, cfg=2.0)
    assert torch.equal(pf.restore(restorer, LQ, steps=5, cfg=2.0, graphs=capture), expected)
    assert capture.replayed > capture.recorded >= 1


@pytest.mark.parametrize(
    ("make", "who"),
    [
        (small_restorer, "nobody"),
        (small_restorer, "adapter"),
        (small_restorer, "lora"),
        (small_diffbir, "lora"),
        (small_prior, "references"),
    ],
)
def test_an_evaluation_waits_for_no_device_and_brings_nothing_there(
    make: Callable[[], Restorer], who: str, adapter: IdentityAdapter
) -> None:
    """On the device "meta", which knows shapes alone, and so cannot tell the CPU any number."""
    restorer = make()
    known: dict[str, Callable[[], Identity]] = {
        "adapter": lambda: Identity(adapter),
        "lora": lambda: lora(restorer, 1),
        "references": lambda: Identity(References.of(restorer, PHOTOS), 0.5),
    }
    changes = known[who]().bound(restorer).prepare(500) if who in known else NO_CHANGES

    def to_meta(tensor: Tensor) -> Tensor:
        return tensor.to("meta")

    changes, _ = exchanged(changes, to_meta)
    for influence in (each for at in changes.sites.values() for each in at):
        influence.block.to("meta")
    restorer = replace(restorer, null_context=restorer.null_context.to("meta"))
    restorer.unet.to("meta")
    x, t = torch.zeros(2, 4, 8, 8, device="meta"), torch.full((2,), 500, device="meta")
    with torch.no_grad(), Elsewhere():
        found = restorer.denoise(x, t, restorer.condition(x), changes=changes)
    assert found.shape == x.shape


def test_what_is_stopped_leaves_nothing(restorer: Restorer, adapter: IdentityAdapter) -> None:
    def stop(step: Any) -> None:
        if step.number == 3:
            raise KeyboardInterrupt

    capture = Recorder(restorer.unet)
    with pytest.raises(KeyboardInterrupt):
        pf.restore(restorer, LQ, steps=6, identities=[Identity(adapter)], on_step=stop, graphs=capture)
    assert capture.recorded
    assert capture.closed


def test_off_by_default_and_only_for_cuda(restorer: Restorer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    base = pf.restore(restorer, LQ, steps=3)
    assert told(caplog) == []
    assert torch.equal(pf.restore(restorer, LQ, steps=3, graphs=True), base)
    (line,) = told(caplog)
    assert "cpu" in line


# --- CUDA's way, as far as it can be told without a device


class Stream:
    """A stream that waits for others."""

    def __init__(self, name: str = "side") -> None:
        self.name = name

    def wait_stream(self, other: "Stream") -> None:
        CALLS.append(f"{self.name} waits for {other.name}")


CALLS: list[str] = []
OWN = Stream("own")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `CUDACapture` calls; the streams that work goes to are noted in `CALLS`."""
    CALLS.clear()
    current = [OWN]

    @contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        before = current[0]
        current[0] = chosen
        try:
            yield
        finally:
            current[0] = before

    class Recording:
        def __init__(self, graph: Any, pool: Any, on: Stream, capture_error_mode: str) -> None:
            self.begins = f"{pool} {capture_error_mode}"
            self.on = on

        def __enter__(self) -> None:
            CALLS.append(self.begins)
            current[0] = self.on

        def __exit__(self, kind: Any, *_: Any) -> None:
            if kind:  # as CUDA's, which then leaves its stream the current one
                raise RuntimeError("the capture was invalidated\nmore")
            CALLS.append("end")
            current[0] = OWN

    fake = SimpleNamespace(
        Stream=Stream,
        stream=stream,
        graph=Recording,
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: CALLS.append("replay")),
        graph_pool_handle=lambda: "pool",
        device=lambda _: nullcontext(),
        current_stream=lambda *_: current[0],
        synchronize=lambda _: CALLS.append("synchronize"),
        empty_cache=lambda: CALLS.append("empty"),
        memory_reserved=lambda _: 7,
        memory_allocated=lambda _: 3,
        mem_get_info=lambda _: (4, 80),
        current=current,
    )
    monkeypatch.setattr(module.torch, "cuda", fake)
    return fake


def test_it_is_warmed_up_beside_and_recorded_into_one_pool(cuda: Any) -> None:
    def doubled(x: Tensor) -> Tensor:
        CALLS.append(f"runs on {cuda.current[0].name}")
        return 2 * x

    with Graphs(CUDACapture(torch.device("cuda"))) as run:
        for _ in range(3):
            run(doubled, values(1))
        expected = [
            "runs on own", "side waits for own", *["runs on side"] * WARM_UP, "own waits for side",
            "pool thread_local", "runs on side", "end", "replay", "replay",
        ]  # fmt: skip
        assert expected == CALLS
        CALLS.clear()
        cuda.mem_get_info = lambda _: (3, 80)
        for _ in range(2):
            run(doubled, values(1, 2))
        assert CALLS == ["runs on own"] * 2, "a byte less than it takes is free"
    assert CALLS[2:] == ["synchronize", "empty"]


def test_a_recording_that_fails_leaves_no_stream_behind(cuda: Any, caplog: pytest.LogCaptureFixture) -> None:
    def waiting(x: Tensor) -> Tensor:
        if "pool thread_local" in CALLS and cuda.current[0] is not OWN:
            raise RuntimeError("operation not permitted when stream is capturing")
        return 2 * x

    with Graphs(CUDACapture(torch.device("cuda"))) as run:
        assert [run(waiting, values(k)).tolist() for k in range(3)] == [[0], [2], [4]]
        assert cuda.current == [OWN]
        assert CALLS[-2:] == ["synchronize", "empty"]
    assert told(caplog) == ["Without a CUDA graph: the recording failed: the capture was invalidated."]
