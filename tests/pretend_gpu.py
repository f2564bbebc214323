"""A GPU that is not there: tensors that say "cuda:0" hold their numbers on the CPU.

    python tests/pretend_gpu.py script.py flags                  # a script on two of them
    pretend_gpu.install(); ...; pretend_gpu.state.waits          # in a process of its own, for good

Each operation on a GPUTensor comes through `__torch_dispatch__`, is checked by CUDA's rules and
runs on the CPU: what depends on data runs to its end, and fp32 gives the CPU's bits. It needs a
CUDA build of PyTorch, but neither a GPU nor a driver.

Checked: devices of operands and indices, .numpy(), autocast's CUDA rules (PyTorch's own), layouts
for fused optimizers, use in forked workers, threads (each begins on GPU 0), values read on the host
before their copy was waited for, memory. Counted, by line: where the host waits for the GPU.

Not checked: speed, CUDA's own numbers, cuDNN, NCCL (gloo takes its place), streams and races on the
GPU, SyncBatchNorm, the engine of autograd and DistributedDataParallel (small ones take their place,
since theirs ask CUDA for streams), files with tensors of a GPU (refused here; CUDA writes them).
"""

import collections
import contextlib
import os
import runpy
import sys
import threading
import types
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ROOT = str(Path(__file__).resolve().parent.parent) + os.sep
# Operators whose CUDA kernels have the host wait: the size of their result depends on the data.
WAITING = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
           "equal", "_local_scalar_dense", "repeat_interleave"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPYING = {"copy_", "_to_copy", "_foreach_copy_"}
TAKES_HOST_SCALARS = {"where", "fill_", "masked_fill", "masked_fill_"}  # beside pointwise ones


class State:
    """The pretended machine, and what was counted on it."""

    def __init__(self, gpus: int):
        self.gpus = gpus
        self.process, self.thread = os.getpid(), threading.local()
        self.waits = collections.Counter()  # (what for, line of this project) -> times
        self.unfinished = []  # (tensor of the host, its values): copies nobody has waited for
        self.memory = self.peak = 0  # bytes

    def wait(self, reason: str) -> None:
        """Count that the host waits, which finishes all copies."""
        self.waits[reason, _line()] += 1
        for tensor, values in self.unfinished:
            tensor.copy_(values)
        self.unfinished = []

    def allocate(self, host: torch.Tensor) -> None:
        """Count the memory of a tensor until nothing has its storage any more."""
        storage = host.untyped_storage()
        if not hasattr(storage, "is_counted"):
            size, storage.is_counted = storage.nbytes(), True
            self._count(size)
            weakref.finalize(storage, self._count, -size)

    def _count(self, size):
        self.memory += size
        self.peak = max(self.peak, self.memory)


state: State | None = None


def _line():
    """Return the innermost line of this project on the stack."""
    frame = sys._getframe()
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and name != __file__ and "/.venv/" not in name:
            return f"{name[len(ROOT):]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class GPUTensor(torch.Tensor):
    """A tensor on a pretended GPU; `host` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host, gpu):
        if os.getpid() != state.process:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess.")
        state.allocate(host)
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, device=torch.device("cuda", gpu))
        tensor.host, tensor.gpu = host, gpu
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    def numpy(self, **_):
        raise TypeError(f"can't convert {self.device} device type tensor to numpy.")

    def tolist(self):
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol):
        raise TypeError("a tensor on a GPU is about to be pickled; its file would want the GPU")

    def __getitem__(self, index):
        return super().__getitem__(_without_lists(index, self.device))

    def __setitem__(self, index, value):
        super().__setitem__(_without_lists(index, self.device), value)


def _without_lists(index, device):
    """Return an index with tensors for lists, which C++ would make where no mode sees them."""
    if isinstance(index, tuple):
        return tuple(_without_lists(part, device) for part in index)
    return torch.tensor(index, device=device) if isinstance(index, list) else index


class Mode(TorchDispatchMode):
    """Catches what makes tensors on a GPU out of nothing; each thread has one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


# ---- The rules ----

def dispatch(func, args, kwargs):
    """Check an operation, run it on the CPU, and put its results where they belong."""
    leaves = tree_leaves((args, kwargs))
    on_gpu = [leaf for leaf in leaves if isinstance(leaf, GPUTensor)]
    on_host = [leaf for leaf in leaves
               if isinstance(leaf, torch.Tensor) and not isinstance(leaf, GPUTensor)]
    device, name = kwargs.get("device"), func._schema.name.partition("::")[2]
    target = _gpu_of(device) if device is not None or not on_gpu else on_gpu[0].gpu
    if not on_gpu and target is None:
        return func(*args, **kwargs)
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with Mode():  # inference mode does not take it apart
            return func.decompose(*args, **kwargs)
    _check_devices(func, name, args, on_gpu, on_host)
    non_blocking = kwargs.get("non_blocking", len(args) > 2 and name == "copy_" and args[2])
    _count_waits(name, args, target, on_gpu, on_host, non_blocking)
    host_args, host_kwargs = tree_map(
        lambda leaf: leaf.host if isinstance(leaf, GPUTensor) else leaf, (args, kwargs))
    if device is not None:
        host_kwargs |= {"device": torch.device("cpu")}
    host_kwargs.pop("pin_memory", None)
    result = func(*host_args, **host_kwargs)
    if func.namespace == "c10d":  # NCCL's part, done by gloo; it changes its arguments
        return (args[0], *result[1:]) if isinstance(result, tuple) else result
    if name == "_to_copy" and target is None:
        return _copy_to_host(result, on_gpu[0].host, non_blocking)
    changed = {id(tensor.host): tensor for tensor in on_gpu}  # operations in place return these

    def placed(value):
        if target is None or not isinstance(value, torch.Tensor):
            return value
        return changed[id(value)] if id(value) in changed else GPUTensor(value.detach(), target)

    is_view = any(entry.alias_info and not entry.alias_info.is_write
                  for entry in func._schema.returns)
    # What inference mode sees of a tensor from outside is as that tensor.
    is_outside = is_view and isinstance(args[0], torch.Tensor) and not args[0].is_inference()
    with torch.inference_mode(torch.is_inference_mode_enabled() and not is_outside):
        return tree_map(placed, result)


def _gpu_of(device):
    """Return the number of the GPU that a device stands for, None for another device."""
    device = torch.device("cpu" if device is None else device)
    if device.type != "cuda":
        return None
    number = _current() if device.index is None else device.index
    if number >= state.gpus:
        raise torch.AcceleratorError("CUDA error: invalid device ordinal")
    return number


def _check_devices(func, name, args, on_gpu, on_host):
    """Raise what CUDA raises for operands that do not lie together."""
    fault = len({tensor.gpu for tensor in on_gpu}) > 1 and name not in COPYING
    if name in INDEXING:  # a tensor on a GPU takes indices of the host too, which are copied
        values = args[2] if len(args) > 2 else args[0]
        fault |= not isinstance(args[0], GPUTensor)
        fault |= not isinstance(values, GPUTensor) and values.numel() != 1
    elif on_gpu and name not in COPYING:
        takes_scalars = torch.Tag.pointwise in func.tags or name in TAKES_HOST_SCALARS
        written = [arg for arg, entry in zip(args, func._schema.arguments)
                   if entry.alias_info is not None and entry.alias_info.is_write]
        fault |= any(tensor.dim() or not takes_scalars or any(tensor is arg for arg in written)
                     for tensor in on_host)
    if fault:
        raise RuntimeError("Expected all tensors to be on the same device, but found at least two "
                           f"devices, cuda:0 and cpu! ({func})")
    if name.startswith("_fused_"):
        for tensors in zip(*(part for part in args[:4] if part)):
            if len({(tensor.dtype, tensor.stride()) for tensor in tensors}) > 1:
                raise RuntimeError("params, grads, exp_avgs, and exp_avg_sqs must have same dtype, "
                                   f"device, and layout: {[t.stride() for t in tensors]}")


def _count_waits(name, args, target, on_gpu, on_host, non_blocking):
    """Count where the host waits for the GPU to come as far, or for a copy."""
    if name in WAITING:
        state.wait(name)
    elif name in COPYING and (target is None or on_host and on_gpu or not on_gpu):
        to_host = target is None or not isinstance(args[0], GPUTensor) and bool(on_gpu)
        is_pinned = to_host and name == "_to_copy" or all(t.is_pinned() for t in on_host)
        if not (non_blocking and is_pinned):  # a pageable copy is staged
            state.wait("copy to the host" if to_host else "copy to the GPU")
    elif name in INDEXING:
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                state.wait("boolean index")  # a nonzero inside
            elif index is not None and not isinstance(index, GPUTensor):
                state.wait("index of the host")


def _copy_to_host(result, host, non_blocking):
    """Return a copy for the host; one that is under way holds anything until it is waited for."""
    if result.data_ptr() == host.data_ptr():
        result = result.clone()
    if non_blocking:
        state.unfinished.append((result, result.clone()))
        result.fill_(torch.nan if result.is_floating_point() else -1)
    return result


# ---- In the place of what asks CUDA for streams ----

_after_backward = []  # callables


@torch.no_grad()
def _backward(roots, gradients, *_, **__):
    """Do what the engine of autograd does: nodes by sequence number, in the calling thread."""
    inputs_left, received, stack = collections.Counter(), {}, [root.grad_fn for root in roots]
    while stack:
        node = stack.pop()
        if node not in received:
            received[node] = {}
            following = [node for node, _ in node.next_functions if node is not None]
            inputs_left.update(following)
            stack += following

    def give(node, place, gradient):
        expected, sums = node._input_metadata[place], received[node]
        if gradient.shape != expected.shape:
            gradient = gradient.sum_to_size(expected.shape)
        gradient = gradient.to(expected.dtype)
        sums[place] = sums[place] + gradient if place in sums else gradient

    for root, gradient in zip(roots, gradients):
        give(root.grad_fn, root.output_nr, gradient)
    ready = [root.grad_fn for root in roots]
    while ready:
        node = max(ready, key=lambda node: node._sequence_nr())  # leaves have the highest
        ready.remove(node)
        sums, results = received.pop(node), (None,) * len(node.next_functions)
        if sums:
            results = node(*(sums.get(place) for place in range(len(node._input_metadata))))
            results = results if isinstance(results, tuple) else (results,)
        for (following, place), gradient in zip(node.next_functions, results):
            if following is not None:
                if gradient is not None:
                    give(following, place, gradient)
                inputs_left[following] -= 1
                if not inputs_left[following]:
                    ready.append(following)
    while _after_backward:
        _after_backward.pop()()


class DataParallel(nn.Module):
    """DistributedDataParallel in its simplest form: mean gradients after each backward pass."""

    def __init__(self, module: nn.Module, **_):
        super().__init__()
        self.module, self.averages = module, True

    def forward(self, *inputs):
        if self.averages:
            _after_backward.append(self.average)
        return self.module(*inputs)

    def average(self):
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad /= dist.get_world_size()
                dist.all_reduce(parameter.grad)

    @contextlib.contextmanager
    def no_sync(self):
        self.averages = False
        yield
        self.averages = True


def _stream(device=None):
    event = types.SimpleNamespace(synchronize=lambda: state.wait("event"))
    return types.SimpleNamespace(record_event=lambda: event)


def _pin(tensor, device=None):
    pinned = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)
    pinned.has_pages_locked = True
    return pinned


def _in_python(make):
    """Return `torch.tensor` or `torch.as_tensor`, which C++ runs past every mode."""
    def made(data, *args, device=None, **kwargs):
        tensor = make(data, *args, **kwargs)
        return tensor if device is None else tensor.to(device)
    return made


def _current():
    return getattr(state.thread, "gpu", 0)


def _use(device):
    state.thread.gpu = _gpu_of(device)


def install(gpus: int = 1) -> None:
    """Put pretended GPUs into this process, for good; a second call is another machine."""
    global state
    was_installed, state = state is not None, State(gpus)
    if was_installed:
        return
    torch._C._ensureCUDADeviceGuardSet()
    torch.__future__.set_swap_module_params_on_conversion(True)  # .to keeps parameters as objects
    torch.backends.cudnn.enabled = False  # its operators have no CPU side
    engine, run = torch.autograd._engine_run_backward, threading.Thread.run
    begin = dist.init_process_group

    def run_backward(roots, *args, **kwargs):
        run = _backward if isinstance(roots[0], GPUTensor) else engine
        return run(roots, *args, **kwargs)

    def run_thread(self):
        with Mode():
            run(self)

    replaced = {
        torch.autograd: {"_engine_run_backward": run_backward},
        threading.Thread: {"run": run_thread},
        torch: {name: _in_python(getattr(torch, name)) for name in ("tensor", "as_tensor")},
        torch.Tensor: {"pin_memory": _pin, "is_pinned": lambda tensor, device=None: hasattr(
            tensor, "has_pages_locked")},
        nn.parallel: {"DistributedDataParallel": DataParallel},
        dist: {"init_process_group": lambda backend, **options: begin("gloo", **options)},
        torch.cuda: {
            "_lazy_init": lambda: None, "is_available": lambda: True,
            "device_count": lambda: state.gpus, "current_device": _current,
            "set_device": _use, "get_device_capability": lambda device=None: (8, 0),
            "is_bf16_supported": lambda including_emulation=True: True,
            "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
            "set_rng_state": lambda value, device=None: None, "current_stream": _stream,
            "synchronize": lambda device=None: state.wait("synchronize"),
            "max_memory_allocated": lambda device=None: state.peak},
        torch.accelerator: {
            "is_available": lambda: True, "set_device_index": _use,
            "current_device_index": _current,
            "current_accelerator": lambda check_available=False: torch.device("cuda")}}
    if "utils.distributed" in sys.modules:  # a fork of a process that has imported it
        replaced[sys.modules["utils.distributed"]] = replaced[nn.parallel]
    for owner, functions in replaced.items():
        for name, function in functions.items():
            setattr(owner, name, function)
    Mode().__enter__()


if __name__ == "__main__":
    sys.modules["pretend_gpu"] = sys.modules["__main__"]
    install(gpus=2)
    sys.argv.pop(0)
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
