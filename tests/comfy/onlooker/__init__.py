"""A node pack for tests: what nodes put out, to the last bit, and prompts that are cancelled at a place.

POST /onlooker {"cancel_at": n} cancels the next prompt when it looks the n-th time whether it was cancelled,
0 not at all; it answers with how often the last prompt looked.
"""

import dataclasses
import hashlib
from typing import Any

import comfy.model_management as mm
import torch
from aiohttp import web
from server import PromptServer


def fed(digest: Any, value: Any) -> None:
    """Feed a value, and all that is in it, to a digest; raises TypeError where it has no bytes of its own."""
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    elif hasattr(value, "tensors"):  # an adapter
        fed(digest, [value.tensors(), value.header.to_metadata()])
    elif isinstance(value, dict):
        fed(digest, sorted(value.items()))
    elif dataclasses.is_dataclass(value):
        fed(digest, vars(value))
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)} values".encode())
        for one in value:
            fed(digest, one)
    elif value is None or isinstance(value, (str, int, float)):
        digest.update(repr(value).encode())
    else:
        raise TypeError(f"a {type(value).__name__} has no bytes to compare")


class Onlook:
    """Shows a digest of anything."""

    RETURN_TYPES = ()
    FUNCTION = "look"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - the host's name
        return {"required": {"value": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, **_: Any) -> bool:  # noqa: N802
        return True

    def look(self, value: Any) -> dict[str, Any]:
        digest = hashlib.sha256()
        fed(digest, value)
        return {"ui": {"digest": [digest.hexdigest()]}}


class Looks:
    """In place of the mutex about the host's flag: counts who looks at it, and sets it at last."""

    def __init__(self, mutex: Any) -> None:
        self.mutex, self.count, self.cancel_at = mutex, 0, 0

    def __enter__(self) -> None:
        self.mutex.acquire()
        self.count += 1
        if self.count == self.cancel_at:
            mm.interrupt_processing = True

    def __exit__(self, *_: object) -> None:
        self.mutex.release()


looks = Looks(mm.interrupt_processing_mutex)
mm.interrupt_processing_mutex = looks


@PromptServer.instance.routes.post("/onlooker")
async def reset(request: Any) -> Any:
    with looks.mutex:
        before, looks.count = looks.count, 0
        looks.cancel_at = (await request.json())["cancel_at"]
    return web.json_response({"looked": before})


NODE_CLASS_MAPPINGS = {"Onlook": Onlook}
