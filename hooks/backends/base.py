"""What a backend must do: say which torch module runs, and read activations in its own way."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..sites import Site


class Backend(ABC):
    """A way to reach a model's inside. Splicing and sweeps run on `module()`; `read` is the backend's own."""

    name: str

    @abstractmethod
    def module(self) -> nn.Module:
        """The Hugging Face causal language model that runs, evaluated as it is, never changed."""

    @abstractmethod
    def read(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        sites: Sequence[Site],
        rows: Int[Tensor, "rows 2"],
    ) -> dict[Site, Float[Tensor, "rows d_model"]]:
        """The activations of one teacher-forced pass at `rows` (batch index, position), one tensor a site.

        ids: right-padded; mask: true where a token stands.
        """


def position_ids(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Positions that count tokens and skip padding: learned positions are silently wrong without them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
