"""Whether gradients pass through everything that a reading was computed by."""

from captum_dexar.attention_gradients.graph_nodes import graph_nodes
from torch import Tensor


def check_differentiable(reading: Tensor, layer: int) -> None:
    """Raises if an operation has no backward pass.

    PyTorch warns of it and goes on without that operation's part of the gradient.

    Args:
        reading (Tensor): what is to be differentiated, 0-d
        layer (int): index of the decoder layer that is read

    Raises:
        RuntimeError: there is such an operation.
    """
    for node in graph_nodes(reading):
        if node.name().endswith("NotImplemented"):
            raise RuntimeError(
                f"Decoder layer {layer} runs an operation that has no backward pass, "
                "so that its attributions would be wrong. Kernels for quantised "
                "weights can be such: those of bitsandbytes for 4 bits are, on a CPU "
                "with AVX512-BF16. Load the model otherwise."
            )
