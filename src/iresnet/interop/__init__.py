"""Floor 3: this package inside other programs, one small file for each: torch.distributions, zuko, the hub, ONNX.

Nothing here is imported by ``import iresnet``; each module says which extra it needs.
"""
