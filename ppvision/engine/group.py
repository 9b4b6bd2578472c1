"""What one optimizer trains: parameters, their gradients, rate and step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import paddle
from paddle import Tensor

from ppvision.engine import distributed
from ppvision.engine.optimizer import trainable
from ppvision.engine.schedule import Schedule
from ppvision.engine.sharding import Sharded
from ppvision.errors import UserError
from ppvision.methods.base import Method

MakeGroup = Callable[[str, dict[str, Tensor]], tuple[paddle.optimizer.Optimizer, Schedule]]


@dataclass
class Group:
    """Parameters by structured name, and what steps them."""

    parameters: dict[str, Tensor]
    optimizer: paddle.optimizer.Optimizer
    schedule: Schedule
    sharded: Sharded | None = None

    @property
    def stepped(self) -> dict[str, Tensor]:
        """The parameters whose optimizer state is on this rank."""
        return self.parameters if self.sharded is None else self.sharded.own

    def gradients(self) -> list[Tensor]:
        """Of the parameters that have one."""
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def without_gradient(self) -> list[str]:
        """Names of the parameters that have none."""
        return [k for k, p in self.parameters.items() if p.grad is None]

    def reduce(self, *flags: bool) -> list[bool]:
        """Average the gradients over the ranks, and tell of each flag whether any rank has set it.

        Every rank sends every parameter, so none can hang on a missing gradient.
        """
        if distributed.world_size() == 1:
            return list(flags)
        parameters = list(self.parameters.values())
        # a zero gradient in the place of a missing one
        used = paddle.to_tensor([float(p.grad is not None) for p in parameters])
        for parameter in parameters:
            if parameter.grad is None:
                (parameter * 0).sum().backward()
        # one message for all
        raised = paddle.to_tensor([float(flag) for flag in flags])
        distributed.all_reduce_mean([raised, used, *(p.grad for p in parameters)])
        # missing on every rank: weight decay must not move it, as it does not with one process
        for parameter, share in zip(parameters, used.numpy(), strict=True):
            if share == 0:
                parameter.clear_gradient(False)
        return [bool(value > 0) for value in raised.numpy()]

    def norm(self) -> Tensor:
        """Euclidean norm of all gradients together, float32 []."""
        squares = [g.astype("float32").square().sum() for g in self.gradients()]
        return paddle.stack(squares).sum().sqrt()

    def scale_gradients(self, factor: float) -> None:
        """Multiply every gradient."""
        if factor == 1.0:
            return
        for gradient in self.gradients():
            gradient.set_value(gradient * factor)

    def step(self, number: int) -> None:
        """Step every parameter that has a gradient, at the rate of update `number`."""
        self.optimizer.set_lr(self.schedule(number))
        if self.sharded is None:
            self.optimizer.step()
        else:
            self.sharded.step(self.optimizer)

    def clear(self) -> None:
        """Forget the gradients."""
        self.optimizer.clear_grad(set_to_zero=False)


def make_groups(method: Method, make: MakeGroup, shard: bool) -> dict[str, Group]:
    """The groups of a Method, by optimizer name.

    Args:
        method: in training mode.
        make: gives the optimizer and the schedule of a group.
        shard: divide the optimizer state over the ranks.

    Raises:
        UserError: a group has nothing to train, or a phase names a group that is not there.
    """
    names = {id(p): k for k, p in method.named_parameters()}
    frozen = {id(p) for part in method.frozen for p in getattr(method, part).parameters()}
    groups = {}
    for name, layer in method.param_groups().items():
        parameters = {names.get(id(p), k): p for k, p in trainable(layer).items() if id(p) not in frozen}
        if not parameters:
            raise UserError(f"optimizer '{name}' has nothing to train")
        sharded = Sharded(parameters) if shard and distributed.world_size() > 1 else None
        groups[name] = Group(parameters, *make(name, parameters), sharded)
    for phase in method.phases:
        if phase.optimizer not in groups:
            raise UserError(
                f"{type(method).__name__}: phase '{phase.name}' names optimizer '{phase.optimizer}', which trains "
                "nothing"
            )
    return groups
