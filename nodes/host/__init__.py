"""The bridge to ComfyUI: what the nodes share, and no node."""
