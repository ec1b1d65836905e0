"""PFStorer for ComfyUI: restores a person's face as that person."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's door (V3). Imports lazily, so that the folder can be collected by other tools."""
    from .nodes import PFStorerExtension

    return PFStorerExtension()
