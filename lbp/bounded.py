"""BoundedModule: a model whose outputs can be bounded over a region of inputs."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lbp.bound_arguments import check_arguments, named_bounds, needed_nodes
from lbp.cached_bounds import CachedBounds, input_stamp_of, is_same_input, stamp_of
from lbp.checks import check_has_values, check_same_kind, checked_specification, single_tensor
from lbp.errors import InvalidInputError, StaleBoundsError, UnsupportedArgumentError
from lbp.files import write_atomically
from lbp.graph import BoundNode, Network, build_network, pre_activations
from lbp.graph.batch_norm import recorded_statistics
from lbp.graph.registry import BatchStatistics
from lbp.graph.structure import Snapshot, Structure, refuse_hidden, structure_of
from lbp.linear import Interval, Region
from lbp.methods import Problem, Solution, parse_method, solve
from lbp.methods.coefficients import NodeCoefficients, linear_coefficients, wanted_coefficients
from lbp.methods.computation import Computation
from lbp.methods.memory import images_within
from lbp.methods.options import (
    budget_of,
    by_work,
    check_options,
    only_open,
    rounding_of,
    rows_of,
    strategy_of,
    windows_of,
)
from lbp.ops._calls import refuse_forward_mode
from lbp.perturbations import BoundedTensor, region_of

__all__ = ["BoundedModule", "BoundedTensor"]

Bounds = tuple[Tensor | None, Tensor | None]
BoundsWithCoefficients = tuple[Tensor | None, Tensor | None, dict[str, dict[str, NodeCoefficients]]]

_KEPT_NETWORKS = 8
"""How many states of a model (training and evaluation, say) keep their trace."""


class BoundedModule(nn.Module):
    """Certified bounds of a model's outputs over a region of inputs (IBP, CROWN, LBP and their relatives).

    The model is traced by torch.fx as it is called with one input; its parameters and buffers are shared and read at
    every call, so training the model moves the bounds, and gradients of bounds reach the model. The batch size may
    change from call to call. The state dict is the model's. Modules may be replaced and their settings changed; forward
    hooks are refused. Cached bounds know the versions of all tensors, but a change through `.data`, or by the replay of
    a CUDA graph that updates parameters, leaves no version behind: pass x again after one.

    Args:
        model: any module that torch.fx can trace, made of supported layers; an unsupported one is named in the error.
        global_input: an example input [B, *shape], a tensor or a tuple of one; its values do not matter.
        bound_opts: options, see `set_bound_opts`.
        device: moves the model there; "auto" or None leaves it where it is.
        verbose: without effect.
        custom_ops: not supported, must be empty.

    Raises:
        UnsupportedLayerError: the model holds an operation without bounds.
        InvalidInputError: the model does not run on inputs of that shape, or an option is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        global_input: Tensor | tuple[Tensor, ...],
        bound_opts: Mapping[str, Any] | None = None,
        device: str | torch.device | None = "auto",
        verbose: bool = False,
        custom_ops: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InvalidInputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if isinstance(model, BoundedModule):
            raise InvalidInputError("model is a BoundedModule already; take the model that it was made of")
        if custom_ops:
            raise UnsupportedArgumentError("custom_ops is not implemented")
        example = single_tensor(global_input, "global_input")
        if device is not None and device != "auto":
            device = _known_device(device)
            model, example = model.to(device), example.to(device)
        # The model's own dictionaries: the same parameters under the same names, whoever changes them.
        self.__dict__.update(
            _parameters=model._parameters,
            _buffers=model._buffers,
            _modules=model._modules,
            _non_persistent_buffers_set=model._non_persistent_buffers_set,
            _model=model,
            _example=example.detach(),
            _statistics={},
            _networks={},
            _latest=None,
            _cache=None,
            _passed=None,
            _passed_another=False,
            bound_opts=check_options({} if bound_opts is None else bound_opts),
            training=model.training,
        )
        if not self._like().is_meta:
            check_has_values("global_input", example)
        self._network()

    _model: nn.Module
    _example: Tensor
    _statistics: BatchStatistics
    _networks: dict[Structure, Network]
    _latest: tuple[Snapshot, Network] | None
    _cache: CachedBounds | None
    _passed: BoundedTensor | None
    _passed_another: bool
    bound_opts: dict[str, Any]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the model's output, and keep the batch statistics that bounds in training mode use.

        A BoundedTensor becomes the input of a later `compute_bounds` without one.

        Args:
            inputs: as for the model.
        """
        with recorded_statistics(self._model, self._statistics):
            output: Tensor = self._model(*inputs)
        if inputs and isinstance(inputs[0], Tensor):
            self._note_input(inputs[0])
        return output

    def _note_input(self, x: Tensor) -> None:
        """Keep what the model is called with, for bounds without an input: a BoundedTensor, or that it is another."""
        if torch.compiler.is_compiling():
            return
        self._passed = x if isinstance(x, BoundedTensor) else None
        self._passed_another = self._cache is not None and not is_same_input(x, self._cache.x)

    def __call__(self, *args: Any, method_opt: str = "forward", **kwargs: Any) -> Any:
        """Call `forward`, or `compute_bounds` with `method_opt="compute_bounds"`.

        Raises:
            InvalidInputError: another value of method_opt.
        """
        if method_opt == "compute_bounds":
            return self.compute_bounds(*args, **kwargs)
        if method_opt != "forward":
            raise InvalidInputError(f"method_opt must be 'forward' or 'compute_bounds', got {method_opt!r}")
        return super().__call__(*args, **kwargs)

    def set_bound_opts(self, new_opts: Mapping[str, Any]) -> None:
        """Change options.

        Args:
            new_opts: names and values; `activation_bound_option` ("adaptive", which None means too, "tight",
                "constant", "same-slope", "zero-lb", "one-lb") chooses the bounding lines, `crown_batch_size` the rows
                of coefficients handled at once, `memory_budget` the bytes that bounds may take. `conv_mode` "patches"
                keeps rows of hidden layers as windows, "matrix" whole; by default they are windows, except for forward
                bounds (LBP) where whole rows are less work, as on small images. Bounds are the same to rounding, but
                for the hidden neurons that CROWN leaves out with "patches" alone, unless `sparse_intermediate_bounds`
                is False. With it (the default) CROWN substitutes back only hidden neurons that intervals leave open,
                image by image, lets a row go where the bounds of a layer that it passes decide its neuron, and keeps
                the tighter of all bounds found; with "matrix" every neuron has its row, down to the input. False,
                for it or `sparse_conv_intermediate_bounds` or `sparse_intermediate_bounds_with_ibp`, gives textbook
                CROWN, every hidden neuron bounded by back-substitution down to the input and nothing else. `rounding`
                is what `compute_bounds` takes where its argument of that name is None. Other options that scripts for
                auto_LiRPA set are accepted where they cannot change a result.

        Raises:
            InvalidInputError: an unknown name (the valid ones are listed) or value.
            UnsupportedArgumentError: an option that would change results and is not implemented.
        """
        self.bound_opts.update(check_options(new_opts))

    def compute_bounds(
        self,
        x: Tensor | tuple[Tensor, ...] | None = None,
        aux: Any = None,
        C: Tensor | None = None,
        method: str | None = "backward",
        IBP: bool = False,
        forward: bool = False,
        bound_lower: bool = True,
        bound_upper: bool = True,
        reuse_ibp: bool = False,
        reuse_alpha: bool = False,
        return_A: bool = False,
        needed_A_dict: Mapping[str, Sequence[str] | str] | None = None,
        final_node_name: str | None = None,
        average_A: bool = False,
        interm_bounds: Mapping[str, Sequence[Tensor]] | None = None,
        reference_bounds: Mapping[str, Sequence[Tensor]] | None = None,
        intermediate_constr: Any = None,
        alpha_idx: Any = None,
        aux_reference_bounds: Any = None,
        need_A_only: bool = False,
        cutter: Any = None,
        decision_thresh: Any = None,
        update_mask: Any = None,
        ibp_nodes: Any = None,
        cache_bounds: bool = False,
        memory_budget: int | str | None = None,
        rounding: str | None = None,
    ) -> Bounds | BoundsWithCoefficients:
        """Bound the output, or linear functions of it, over the region of the input.

        Args:
            x: a BoundedTensor [B, *shape], alone or in a tuple. None: the BoundedTensor that the model was last called
                with, if it has been called since, or else the input of the latest `compute_bounds`, and for methods
                that end in back-substitution also the bounds of the hidden layers found then (IBP first, then `x=None,
                method="backward"`, is CROWN-IBP). Refused once the model has been called with another tensor that is
                not bounded.
            C: specification [B, S, n_out] (B may be 1), merged into the last affine layer; None for the outputs
                themselves.
            method: "IBP", "CROWN-IBP", "LBP" = "forward", "CROWN-LBP" = "forward+backward", "CROWN" = "backward",
                "Relaxed-CROWN-v" (v = 1, 2, ...), not case-sensitive. None with `IBP=True` is IBP.
            IBP: bounds of hidden layers by IBP.
            forward: bounds of hidden layers by LBP.
            bound_lower: whether the lower bound is wanted. Back-substitution leaves out a side that is not wanted; IBP
                and LBP give both all the same.
            bound_upper: whether the upper bound is wanted.
            reuse_ibp: take the bounds of the hidden layers from the latest call, which must have had the same x.
            return_A: return linear bounds as well; not for IBP.
            needed_A_dict: {node: [nodes below it]}, or {node: node below it}, for which linear bounds are returned; the
                output in terms of the input unless given.
            final_node_name: bound this node instead of the output.
            interm_bounds: {name: (lower, upper)}, bounds of hidden layers to use as they are. What is given for the
                input is not used: its region is that of x.
            reference_bounds: {name: (lower, upper)}, bounds of which the tighter of them and the computed ones is used;
                likewise.
            need_A_only: return (None, None, linear bounds).
            memory_budget: bytes, or text like "4GiB", that the tensors made for the bounds may take (without
                gradients); rows and images are split accordingly, which changes bounds by rounding, and where that
                decides between two lines of an activation by their difference (docs/rounding.md, section 13). None: the
                option of that name, or half of the memory that is free.
            rounding: "outward": bounds that hold in exact arithmetic for the network with the stored parameters,
                whatever the computation rounds; "nearest" (the default): bounds that may be wrong by a few units in
                the last place of the numbers that are added up; "inference": outward, and so far that every evaluation
                of the network in its own floating-point format lies within them (docs/rounding.md). None: the option of
                that name.
            cache_bounds: without effect; bounds of the hidden layers are always kept for the next call.
            aux: must be None, as must the following: not implemented, and refused by name.
            reuse_alpha: must be False.
            average_A: must be False.
            intermediate_constr: must be None.
            alpha_idx: must be None.
            aux_reference_bounds: must be None.
            cutter: must be None.
            decision_thresh: must be None.
            update_mask: must be None.
            ibp_nodes: must be None.

        Returns:
            lower and upper bounds: [B, S] with C, else in the output's shape; None for a side left out. With `return_A`
            a third value `A[node][node below]` with "lA", "uA" [B, S, *shape] and "lbias", "ubias" [B, S].

        Raises:
            InvalidInputError: a bad value, shape, dtype or device, or no side wanted.
            UnsupportedArgumentError: an unknown method, or an argument that is not implemented.
            StaleBoundsError: cached bounds are asked for, but parameters, mode or input have changed.
            UnknownNodeError: a name that no node has.
            NotImplementedError: forward-mode differentiation, by `torch.func.jvp` or `torch.autograd.forward_ad`.
        """
        check_arguments(locals())
        refuse_forward_mode("compute_bounds")
        scheme = parse_method(method, ibp=IBP, forward=forward)
        level = rounding_of(self.bound_opts, rounding)
        structure, network = self._traced()
        for guard in network.guards:
            guard()
        output = network.output if final_node_name is None else network[final_node_name]
        if output.size == 0:
            raise InvalidInputError(
                f"compute_bounds: {output.name!r} has shape {list(output.shape)} per example: there is nothing to bound"
            )
        x, region, cached = self._input(x, structure, network, level, reuse=scheme.is_backward, reuse_given=reuse_ibp)
        budget, asked = budget_of(self.bound_opts, memory_budget, region.lower.device)
        problem = Problem(
            network,
            output,
            region,
            specification=None if C is None else checked_specification(C, region.lower, output.size, output.name),
            sides="both" if bound_lower and bound_upper else "lower" if bound_lower else "upper",
            strategy=strategy_of(self.bound_opts),
            given=named_bounds("interm_bounds", interm_bounds, network, region.lower),
            reference=named_bounds("reference_bounds", reference_bounds, network, region.lower),
            rows=rows_of(self.bound_opts),
            windows=windows_of(self.bound_opts),
            by_work=by_work(self.bound_opts),
            only_open=only_open(self.bound_opts),
            budget=budget,
            budget_is_strict=asked,
            known=cached,
            rounding=level,
        )
        wanted = wanted_coefficients(network, output, scheme, needed_nodes(needed_A_dict)) if return_A else {}
        solution = solve(problem, scheme, keep_linear=output in wanted)
        self._keep(x, structure, problem, solution, reused=bool(cached))
        lower, upper = solution.lower, solution.upper
        if C is None and output is network.output:
            lower, upper = (
                None if side is None else side.reshape(-1, *network.output_shape) for side in (lower, upper)
            )
        if not return_A:
            return lower, upper
        coefficients = linear_coefficients(problem, solution, wanted)
        return (None, None, coefficients) if need_A_only else (lower, upper, coefficients)

    def images_within(
        self, method: str | None = "backward", *, rows: int | None = None, memory_budget: int | str | None = None
    ) -> int:
        """Return how many images `compute_bounds` takes at a time, larger batches being split; at least one.

        Args:
            method: as for `compute_bounds`.
            rows: of the specification; None: one for each output.
            memory_budget: as for `compute_bounds`.

        Raises:
            InvalidInputError: a budget that somebody asked for and that is too small for one image.
            UnsupportedArgumentError: an unknown method.
        """
        network, like = self._network(), self._like()
        budget, asked = budget_of(self.bound_opts, memory_budget, like.device)
        computation = Computation(
            parse_method(method),
            network.output,
            rows,
            like.dtype.itemsize,
            windows=windows_of(self.bound_opts),
            by_work=by_work(self.bound_opts),
            rounding=rounding_of(self.bound_opts, None),
        )
        return images_within(budget, network, computation, strict=asked)

    def nodes(self) -> list[BoundNode]:
        """Return all nodes in topological order."""
        return list(self._network().nodes)

    def activations(self) -> list[BoundNode]:
        """Return the activation nodes in topological order.

        Each has `.name`, `.pre_activation` (a node with `.lower` and `.upper` after `compute_bounds`); ramps also have
        `.ramp_parameters()`, their present `(r, eta)`.
        """
        return list(self._network().activations)

    def __getitem__(self, name: str) -> BoundNode:
        """Return the node of that name.

        Raises:
            UnknownNodeError: there is none.
        """
        return self._network()[name]

    @property
    def final_name(self) -> str:
        """Name of the output node."""
        return self._network().output.name

    @property
    def input_name(self) -> list[str]:
        """Names of the input nodes."""
        return [self._network().input.name]

    @property
    def output_name(self) -> list[str]:
        """Names of the output nodes."""
        return [self.final_name]

    def get_layers_requiring_bounds(self) -> list[BoundNode]:
        """Return the nodes whose bounds must be known before an activation can be enclosed by lines."""
        return list(pre_activations(self._network().nodes))

    def save_intermediate(self, save_path: str | os.PathLike[str] | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the bounds that the latest `compute_bounds` left on the nodes, and save them.

        These are the input's, the output's and those of all pre-activations; a method may leave others as well.

        Args:
            save_path: file, as `torch.save` writes it; None: not saved.

        Returns:
            {name: (lower, upper)}, which `interm_bounds` takes.

        Raises:
            StaleBoundsError: nothing has been computed in the present mode.
            OutputError: the file cannot be written.
        """
        bounds = {
            node.name: (node.lower.detach(), node.upper.detach())
            for node in self._network().nodes
            if node.lower is not None and node.upper is not None
        }
        if not bounds:
            raise StaleBoundsError("save_intermediate: no bounds yet in the present mode; call compute_bounds first")
        if save_path is not None:
            content = io.BytesIO()
            torch.save(bounds, content)
            write_atomically(Path(save_path), content.getvalue())
        return bounds

    def train(self, mode: bool = True) -> BoundedModule:
        """Put the model in training or evaluation mode."""
        self._model.train(mode)
        self.training = mode
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's state dict."""
        return self._model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load the model's state dict."""
        return self._model.load_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._model._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to past calls, so that copies and pickles hold the model and the options alone."""
        past: dict[str, Any] = {"_statistics": {}, "_networks": {}, "_latest": None, "_cache": None}
        return self.__dict__ | past | {"_passed": None, "_passed_another": False}

    def _network(self) -> Network:
        """Return the graph for the model as it is: modules may have been replaced, modes and settings changed."""
        return self._traced()[1]

    def _traced(self) -> tuple[Structure, Network]:
        """Return the model's present structure, and its graph."""
        if self._latest is not None and self._latest[0].holds():
            return self._latest[0].structure, self._latest[1]
        refuse_hidden(self._model)
        structure = structure_of(self._model)
        if structure not in self._networks:
            network = build_network(self._model, self._example.to(self._like()), self._statistics)
            # Tracing gives lazy modules their shape, which changes the structure.
            structure = structure_of(self._model)
            if len(self._networks) == _KEPT_NETWORKS:
                self._networks.pop(next(iter(self._networks)))
            self._networks[structure] = network
        network = self._networks[structure]
        self._latest = Snapshot(structure), network
        return structure, network

    def _like(self) -> Tensor:
        """Return a tensor with the dtype and device of the model."""
        tensors = chain(self._model.parameters(), self._model.buffers())
        return next((t for t in tensors if t.is_floating_point()), self._example)

    def _input(
        self,
        x: Tensor | tuple[Tensor, ...] | None,
        structure: Structure,
        network: Network,
        level: str,
        *,
        reuse: bool,
        reuse_given: bool,
    ) -> tuple[Tensor, Region, dict[BoundNode, Interval]]:
        """Return the input, its region and the cached bounds of hidden layers to use."""
        cache = self._cache
        if x is None and not reuse_given:
            x = self._passed
        if x is None or reuse_given:
            if cache is None:
                raise InvalidInputError("compute_bounds: x=None and reuse_ibp=True need an earlier call with an input")
            if x is None and self._passed_another:
                raise StaleBoundsError(
                    "compute_bounds: x=None, but since the latest bounds the model has been called with another input; "
                    "pass x"
                )
            if x is not None and single_tensor(x, "x") is not cache.x:
                raise StaleBoundsError("compute_bounds: reuse_ibp=True, but x is not the input of the latest call")
            hidden = {}
            if reuse:
                hidden = cache.hidden(stamp_of(structure, self._statistics, cache.x), level)
            return cache.x, cache.region_for(level), hidden
        x = single_tensor(x, "x")
        check_same_kind("the input x", x, self._like(), "the model")
        if tuple(x.shape[1:]) != network.input.shape:
            expected = ", ".join(map(str, network.input.shape))
            raise InvalidInputError(f"the input x must have shape [B, {expected}], got {list(x.shape)}")
        return x, region_of(x, outward=level != "nearest"), {}

    def _keep(self, x: Tensor, structure: Structure, problem: Problem, solution: Solution, *, reused: bool) -> None:
        """Leave the bounds on the nodes, and those of hidden layers for the next call."""
        if problem.specification is None and solution.lower is not None and solution.upper is not None:
            problem.bounds[problem.output] = (solution.lower, solution.upper)
        for node in problem.network.nodes:
            if node in problem.bounds:
                node.lower, node.upper = problem.bounds[node]
            elif not reused:
                node.lower = node.upper = None
        hidden = {node: problem.bounds[node] for node in problem.pre_activations if node in problem.bounds}
        if reused and self._cache is not None:
            hidden = self._cache.bounds | hidden
        self._passed, self._passed_another = None, False
        stamp = stamp_of(structure, self._statistics, x)
        self._cache = CachedBounds(x, problem.region, hidden, stamp, problem.rounding, input_stamp_of(x))


def _known_device(name: str | torch.device) -> torch.device:
    """Return the device of a name, after checking that PyTorch has it."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InvalidInputError(f'device must be "auto", None or a device such as cpu or cuda, got {name!r}') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError(f"device={name!r}: there is no CUDA device that PyTorch can use")
    return device
