"""Two devices on one CPU: tensors with real values that say where they are, and an error wherever two of them meet.

torch's own FakeTensorMode knows devices but no values, so that hardly anything of an analysis can run in it. Here
numbers are computed on the CPU, and only the place is made up; "lazy" is a kind of device that every build of torch
can name and index.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

FIRST, SECOND = torch.device("lazy:0"), torch.device("lazy:1")
# As on a GPU: a copy crosses devices, and what is indexed takes indices that lie on the CPU.
_CROSSES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_INDEXES = (torch.ops.aten.index, torch.ops.aten.index_put_, torch.ops.aten.index_put, torch.ops.aten._index_put_impl_)


class Placed(torch.Tensor):
    """A tensor whose values lie on the CPU and that is on another device for all that see it."""

    value: torch.Tensor

    @staticmethod
    def __new__(cls, value: torch.Tensor, device: torch.device) -> "Placed":
        """A tensor of this shape, said to be on the device."""
        made: Placed = torch.Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=device,
        )
        made.value = value
        return made

    def tolist(self) -> Any:
        """The values; torch has them for no class but its own."""
        return self.value.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Run what is called outside of the mode, too."""
        return _run(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Makers(TorchFunctionMode):
    """What puts numbers onto a device by itself, below all operations, puts them onto the CPU first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return made if device is None else made.to(device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            states, index, *given = args
            parts = index if isinstance(index, tuple) else (index,)
            index = tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts)
            number = [part if isinstance(part, torch.Tensor) else torch.tensor(part).to(states.dtype) for part in given]
            return func(states, index, *number)
        return func(*args, **kwargs)


@contextmanager
def two_devices() -> Iterator[None]:
    """While it lasts tensors can be made on, and moved to, `lazy:0` and `lazy:1`."""
    with _Makers(), _Operations():  # type: ignore[no-untyped-call]
        yield


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [part for part in tree.tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
    meeting = given[:1] if func in _CROSSES else [part for part in given if part.ndim or part.device.type != "cpu"]
    if func.overloadpacket in _INDEXES:
        indices = [part for part in tree.tree_leaves(args[1]) if isinstance(part, torch.Tensor)]
        free = {id(part) for part in indices if part.device.type == "cpu"}
        meeting = [part for part in meeting if id(part) not in free]
    places = {part.device for part in meeting}
    if len(places) > 1:
        raise RuntimeError(f"{func}: tensors on {', '.join(sorted(map(str, places)))}, expected one device")
    device = torch.device(kwargs.get("device") or next(iter(places), "cpu"))
    values, named = tree.tree_map_only(Placed, lambda part: part.value, (args, kwargs))
    if "device" in named:
        named["device"] = torch.device("cpu")
    found = func(*values, **named)
    if device.type == "cpu":
        return found
    placed = tree.tree_map_only(torch.Tensor, lambda part: Placed(part, device), found)
    return return_and_correct_aliasing(func, args, kwargs, placed)


def spread(module: nn.Module, layers_path: str) -> nn.Module:
    """The model with the upper half of its blocks on the second device, and what follows them, in place; hooks as
    accelerate's `dispatch_model` attaches them, which itself reads addresses of weights."""
    from accelerate.hooks import attach_align_device_hook_on_blocks

    decoder_path = layers_path.rpartition(".")[0]
    blocks: Any = module.get_submodule(layers_path)
    places = {f"{layers_path}.{i}": FIRST if 2 * i < len(blocks) else SECOND for i in range(len(blocks))}
    for name, _ in module.get_submodule(decoder_path).named_children():
        if (path := f"{decoder_path}.{name}") != layers_path:
            places[path] = SECOND if name in ("norm", "ln_f") else FIRST
    places["lm_head"] = SECOND
    for path, device in places.items():
        _move(module.get_submodule(path), lambda tensor, device=device: tensor.to(device))  # type: ignore[misc]
    attach_align_device_hook_on_blocks(
        module,
        execution_device={**places, "": FIRST},
        offload=dict.fromkeys(places, False),
        skip_keys=module._skip_keys_device_placement,
    )
    return module


def _move(module: nn.Module, to: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(to(weight.data), requires_grad=False)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = to(buffer)
