"""Verdicts on any number of images: cheap methods first, costly ones only for what is still open."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lbp.bounded import BoundedModule
from lbp.errors import InvalidInputError
from lbp.graph import BoundNode
from lbp.nn import evaluation_mode
from lbp.perturbations import PerturbationLpNorm
from lbp.settings import Settings
from lbp.verification.answers import answers
from lbp.verification.batches import images_at_once
from lbp.verification.checks import check_images, checked_classes
from lbp.verification.close_calls import CloseCalls
from lbp.verification.falsify import AttackSettings, falsify, predicted_classes
from lbp.verification.margins import certainly_above, margin_bounds
from lbp.verification.real_margins import RealMargins
from lbp.verification.search import smallest_margin
from lbp.verification.verdicts import ImageVerdict
from lbp.verification.verify import Rounding, Strategy, bound_options, method_names

CASCADE = ("IBP", "CROWN-IBP", "LBP", "CROWN-LBP", "CROWN")
"""The methods of a cascade unless others are named, cheapest first."""

_CHEAP = ("IBP", "CROWN-IBP")
"""Methods that cost less than an attack and therefore run before it."""

_CLEAN, _ATTACK, _BOTH_LBP = "clean", "attack", "LBP and CROWN-LBP"


class CascadeSettings(Settings):
    """What decides the verdicts.

    Attributes:
        eps: radius, in units of the data.
        norm: p of the ball; None is infinity.
        clip: valid range of the data, with which every ball is intersected.
        methods: names as `verify` takes them; run from the cheapest on.
        strategy: bounding lines of the activations.
        rounding: what the bounds account for, as `verify` takes it.
        attack: what is tried to falsify images, once the methods that are cheaper have left them open; None: nothing.
            Only for the l_inf norm.
    """

    eps: float = Field(ge=0.0)
    norm: float | None = Field(default=None, ge=1.0)
    clip: tuple[float, float] | None = (0.0, 1.0)
    methods: tuple[str, ...] = CASCADE
    strategy: Strategy = "tight"
    rounding: Rounding = "outward"
    attack: AttackSettings | None = AttackSettings(steps=40, restarts=2, queries=200)


def run_cascade(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    settings: CascadeSettings,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int | None = None,
    memory_budget: int | str | None = None,
    on_verdicts: Callable[[list[ImageVerdict]], None] | None = None,
) -> list[ImageVerdict]:
    """Verifies images by one method after the other until their verdict is known.

    Every stage collects the images that the stages before it leave open until they fill a batch, so that costly methods
    run on full batches and verdicts are known as early as possible. A margin bound that is NaN, infinite or (with
    `rounding="nearest"`) above 0 by no more than rounding verifies nothing. CROWN bounds only the hidden neurons that
    intervals leave open and keeps the tighter of both bounds (`sparse_intermediate_bounds` of `BoundedModule`), so that
    it verifies at least what the textbook method does. What only the roundings of float32 leave open is decided in
    float64 (`lbp.verification.close_calls`). CROWN-LBP takes the bounds of the hidden layers over from LBP
    where those are intervals.

    Clean predictions and counterexamples are evaluations of the network in the full precision of its dtype. With
    `rounding="outward"`, whose certificates speak of the network in real arithmetic, an image is falsified only by a
    point that float64 shows to be misclassified there as well (`lbp.verification.real_margins`); what it cannot tell
    leaves the image open. A clean prediction is not evaluated again.

    Args:
        model: network to logits; run in evaluation mode and put back as it was.
        x: all images [N, *shape], float32 or float64 as the model's weights.
        labels: int64 [N].
        settings: methods, region and attack.
        indices: of the images to verify; by default all.
        batch_size: images at a time; by default as many as each method can take within the memory budget.
        memory_budget: bytes, or text like "4GiB", that bounds may take; None: half of the memory that is free. Does not
            change verdicts beyond rounding.
        on_verdicts: called with the verdicts that have become known, after every batch.

    Returns:
        the verdicts in the order in which they became known.

    Raises:
        InvalidInputError: images, labels or indices that do not fit; an attack for another norm than infinity.
        UnsupportedArgumentError: unknown method.
        UnsupportedLayerError: the model has a layer without bounds.
        UnanalysedRoundingError: a layer, or an environment, whose rounding errors are not known.
    """
    if settings.attack is not None and settings.norm not in (None, math.inf):
        raise InvalidInputError(f"the attacks search l_inf balls, the norm is {settings.norm:g}; verify without attack")
    check_images(model, x, labels, batch_size, indices)
    todo = list(range(len(x))) if indices is None else list(indices)
    if not todo:
        return []
    with evaluation_mode(model), torch.no_grad():
        return _Cascade(model, x, labels, settings, memory_budget).run(todo, batch_size, on_verdicts)


class _Cascade:
    """The stages, the images that wait before each, and what is known of them."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        labels: Tensor,
        settings: CascadeSettings,
        memory_budget: int | str | None,
    ) -> None:
        self._model = model
        self._x = x
        self._labels = labels
        self._settings = settings
        self._memory_budget = memory_budget
        self._region = PerturbationLpNorm(
            eps=settings.eps, norm=math.inf if settings.norm is None else settings.norm, clip=settings.clip
        )
        weights = next(model.parameters(), None)
        self._device = x.device if weights is None else weights.device
        self._options = bound_options(settings.strategy, memory_budget, textbook=False, rounding=settings.rounding)
        self._net = BoundedModule(model, x[:1].to(self._device), bound_opts=self._options)
        self._close_calls: CloseCalls | None = None
        self._classes = 0
        self._at_image: dict[int, float] = {}
        self._waiting: dict[int, ImageVerdict] = {}

    def _stages(self) -> list[str]:
        """Names of the stages in the order of their cost."""
        methods = method_names(self._settings.methods, sort=True)
        cheap = [name for name in methods if name in _CHEAP]
        attack = [] if self._settings.attack is None else [_ATTACK]
        costly = [name for name in methods if name not in cheap]
        if {"LBP", "CROWN-LBP"} <= set(costly):
            costly[costly.index("LBP")] = _BOTH_LBP
            costly.remove("CROWN-LBP")
        return [_CLEAN, *cheap, *attack, *costly]

    def run(
        self,
        todo: Iterable[int],
        batch_size: int | None,
        on_verdicts: Callable[[list[ImageVerdict]], None] | None,
    ) -> list[ImageVerdict]:
        """Moves images from stage to stage; the last stage that has a full batch goes first."""
        names = self._stages()
        sizes = {name: images_at_once(self._net, _batch_like(name), batch_size) for name in names}
        queues = {name: deque[int]() for name in names}
        queues[names[0]].extend(todo)
        finished: list[ImageVerdict] = []
        while any(queues.values()):
            full = [name for name in names if len(queues[name]) >= sizes[name]]
            name = full[-1] if full else next(name for name in names if queues[name])
            batch = [queues[name].popleft() for _ in range(min(sizes[name], len(queues[name])))]
            self._stage(name, batch)
            following = names[names.index(name) + 1 :]
            known = [index for index in batch if not following or self._waiting[index].verdict != "open"]
            if following:
                queues[following[0]].extend(index for index in batch if self._waiting[index].verdict == "open")
            verdicts = [self._waiting.pop(index) for index in known]
            finished += verdicts
            if verdicts and on_verdicts is not None:
                on_verdicts(verdicts)
        return finished

    def _stage(self, name: str, batch: list[int]) -> None:
        started = time.perf_counter()
        index = torch.tensor(batch, device=self._x.device)
        x, labels = self._x[index].to(self._device), self._labels[index.to(self._labels.device)].to(self._device)
        if name == _CLEAN:
            self._predict(batch, x, labels)
        elif name == _ATTACK:
            self._attack(batch, x, labels)
        elif name == _BOTH_LBP:
            self._bound_by_lbp(batch, x, labels)
        else:
            self._bound(name, batch, x, labels)
        share = (time.perf_counter() - started) / len(batch)
        for image in batch:
            self._change(image, seconds=self._waiting[image].seconds + share)

    def _predict(self, batch: list[int], x: Tensor, labels: Tensor) -> None:
        logits = answers(self._model, x)
        self._classes = checked_classes(logits, labels)
        predictions = predicted_classes(logits)
        self._at_image.update(zip(batch, smallest_margin(logits, labels).tolist(), strict=True))
        for image, label, prediction in zip(batch, labels.tolist(), predictions.tolist(), strict=True):
            wrong: dict[str, Any] = {} if label == prediction else {"verdict": "misclassified", "by": _CLEAN}
            self._waiting[image] = ImageVerdict(index=image, label=label, prediction=prediction, **wrong)

    def _bound_by_lbp(self, batch: list[int], x: Tensor, labels: Tensor) -> None:
        """Bounds a batch by LBP, and what that leaves open by CROWN-LBP with the same bounds of the hidden layers.

        Hidden bounds that are no intervals stay with their images: by overflow NaN, or crossed by rounding.
        """
        self._bound("LBP", batch, x, labels)
        left = [place for place, image in enumerate(batch) if self._waiting[image].verdict == "open"]
        nodes = self._net.get_layers_requiring_bounds()
        ordered = _ordered(nodes, len(batch))
        known = [place for place in left if ordered[place]]
        hidden = {node.name: _chosen(node, known) for node in nodes}
        for places, given in ((known, hidden), ([place for place in left if not ordered[place]], None)):
            if places:
                self._bound("CROWN-LBP", [batch[place] for place in places], x[places], labels[places], given)

    def _bound(
        self,
        name: str,
        batch: list[int],
        x: Tensor,
        labels: Tensor,
        hidden: dict[str, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        bounds = margin_bounds(
            self._net, x, labels, num_classes=self._classes, perturbation=self._region,
            method=name if hidden is None else "backward", interm_bounds=hidden,
        )  # fmt: skip
        bounds = self._settled(bounds, name, batch, x, labels).cpu()
        verified = certainly_above(bounds, rounding=self._settings.rounding).all(dim=1)
        for image, bound, holds in zip(batch, bounds.amin(1).tolist(), verified.tolist(), strict=True):
            self._change(image, margins=self._waiting[image].margins | {name: bound if math.isfinite(bound) else None})
            if holds:
                self._change(image, verdict="verified", by=name)

    def _settled(self, bounds: Tensor, name: str, batch: list[int], x: Tensor, labels: Tensor) -> Tensor:
        if self._close_calls is None:
            self._close_calls = CloseCalls(self._model, x[:1], self._options, self._region, self._classes)
        at_image = torch.tensor([self._at_image[image] for image in batch], device="cpu")
        return self._close_calls.settled(bounds, x, labels, at_image, name)

    @cached_property
    def _real_margins(self) -> RealMargins:
        return RealMargins(self._model, self._x[:1].to(self._device), self._classes, self._memory_budget)

    def _attack(self, batch: list[int], x: Tensor, labels: Tensor) -> None:
        outward = self._settings.rounding == "outward"
        found = falsify(
            self._model, x, labels, self._settings.eps, clip=self._settings.clip, settings=self._settings.attack,
            indices=batch, confirm=self._real_margins.certainly_misclassified if outward else None,
        )  # fmt: skip
        margins, classes = found.margins.tolist(), found.predictions.tolist()
        for image, attack, margin, label in zip(batch, found.found_by, margins, classes, strict=True):
            self._change(image, attack_margin=margin if math.isfinite(margin) else None, attack_class=label)
            if attack is not None:
                self._change(image, verdict="falsified", by=attack)

    def _change(self, image: int, **values: object) -> None:
        self._waiting[image] = self._waiting[image].model_copy(update=values)


def _batch_like(stage: str) -> str:
    """The method whose batches a stage takes over: a pass through the network costs what interval bounds cost."""
    return {_CLEAN: "IBP", _ATTACK: "IBP", _BOTH_LBP: "CROWN-LBP"}.get(stage, stage)


def _ordered(nodes: Sequence[BoundNode], images: int) -> list[bool]:
    """Whether all bounds of nodes are intervals, image by image of the batch that was bounded last; NaN is none."""
    found = torch.ones(images, dtype=torch.bool, device="cpu")
    for node in nodes:
        lower, upper = _chosen(node, list(range(images)))
        found &= (lower <= upper).flatten(1).all(1).cpu()
    return found.tolist()


def _chosen(node: BoundNode, places: list[int]) -> tuple[Tensor, Tensor]:
    """The bounds of a node for some images of the batch that was bounded last."""
    assert node.lower is not None
    assert node.upper is not None
    return node.lower[places], node.upper[places]
