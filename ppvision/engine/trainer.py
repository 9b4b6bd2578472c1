"""One update of any Method: its due phases, each an optimizer step over the micro-batches.

Order within a phase: freeze the other groups, copy the buffers, sum the denominators over micro-batches and ranks,
then per micro-batch forward under AMP, check the loss, back-propagate; average gradients over ranks, unscale, check
the norm, clip, step, clear. A non-finite loss or norm on any rank restores the buffers on all and skips the rest of
the update: `relu(nan)` is 0, so weights and scores can look sane while batch-norm statistics are already ruined.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ppvision.engine import distributed
from ppvision.engine.ema import Average
from ppvision.engine.optimizer import load_optimizer_state, optimizer_state, trainable
from ppvision.engine.schedule import Schedule
from ppvision.engine.sharding import Sharded
from ppvision.errors import RunError, UserError
from ppvision.methods.base import Method, Phase


@dataclass
class Group:
    """What one optimizer trains."""

    parameters: dict[str, Tensor]
    optimizer: paddle.optimizer.Optimizer
    schedule: Schedule
    sharded: Sharded | None = None

    @property
    def stepped(self) -> dict[str, Tensor]:
        """The parameters whose optimizer state is on this rank."""
        return self.parameters if self.sharded is None else self.sharded.own

    def update(self) -> None:
        """Step every parameter that has a gradient."""
        if self.sharded is None:
            self.optimizer.step()
        else:
            self.sharded.step(self.optimizer)


@dataclass
class LossScaler:
    """Dynamic loss scale for fp16: halved on overflow, doubled after `growth_interval` clean steps. Scale 1 means
    off.
    """

    scale: float = 1.0
    growth_interval: int = 2000
    clean: int = 0

    def after(self, overflow: bool, enabled: bool) -> None:
        """Adapt the scale after a step."""
        if overflow:
            self.scale, self.clean = max(self.scale / 2, 1.0), 0
        elif enabled:
            self.clean += 1
            if self.clean >= self.growth_interval:
                self.scale, self.clean = self.scale * 2, 0


@dataclass(frozen=True)
class Fault:
    """Why an update was skipped."""

    phase: str
    what: str
    terms: dict[str, float]
    overflow: bool = False  # fp16 only: the scale was too high, which is no fault of the data
    elsewhere: bool = False  # another rank's data


class Trainer:
    """Runs updates. Everything it needs to continue exactly is in `state()`.

    Args:
        method: the training algorithm; put into training mode here.
        make_group: called as make_group(name, parameters) for each optimizer name of the phases; gives optimizer and
            schedule.
        seed: of all randomness, which is a function of (seed, step, rank).
        amp: O0 (off), O1 or O2.
        amp_dtype: float16 or bfloat16.
        loss_scale: initial scale under float16.
        clip_norm: largest gradient norm of a group, or none.
        ema: decay of the average of the deployables, or none.
        max_bad_steps: consecutive skipped updates after which the run stops.
        recompute: drop activations inside the blocks the deployables name and compute them again in backward.
        shard_optimizer: divide the optimizer state over the ranks (see `engine.sharding`).
        warn: called with one line worth telling.
    """

    def __init__(
        self,
        method: Method,
        make_group: Callable[[str, dict[str, Tensor]], tuple[paddle.optimizer.Optimizer, Schedule]],
        *,
        seed: int = 0,
        amp: str = "O0",
        amp_dtype: str = "float16",
        loss_scale: float = 65536.0,
        clip_norm: float | None = None,
        ema: float | None = None,
        max_bad_steps: int = 10,
        recompute: bool = False,
        shard_optimizer: bool = False,
        warn: Callable[[str], None] = print,
    ):
        self.method, self.seed, self.amp, self.amp_dtype = method, seed, amp, amp_dtype
        self.clip_norm, self.max_bad_steps, self.warn = clip_norm, max_bad_steps, warn
        self.step, self.bad_in_a_row, self.skipped = 0, 0, 0
        self.last_fault: Fault | None = None
        self.stop_wanted = False  # set on any rank, by a signal
        self.stop_requested = False  # what the ranks agreed on in the last update
        method.train()
        self.recompute = enable_recompute(method) if recompute else False
        self.groups: dict[str, Group] = {}
        names = {id(p): k for k, p in method.named_parameters()}
        for name, layer in method.param_groups().items():
            frozen = {id(p) for part in method.frozen for p in getattr(method, part).parameters()}
            parameters = {names.get(id(p), k): p for k, p in trainable(layer).items() if id(p) not in frozen}
            if not parameters:
                raise UserError(f"optimizer '{name}' has nothing to train")
            self.groups[name] = Group(parameters, *make_group(name, parameters))
            if shard_optimizer and distributed.world_size() > 1:
                self.groups[name].sharded = Sharded(parameters)
        for phase in method.phases:
            if phase.optimizer not in self.groups:
                raise UserError(
                    f"{type(method).__name__}: phase '{phase.name}' names optimizer '{phase.optimizer}', "
                    "which trains nothing"
                )
        if amp == "O2":
            # without save_dtype: its hook makes state_dict() give copies, and what is restored or averaged would be
            # lost
            optimizers = [group.optimizer for group in self.groups.values()]
            paddle.amp.decorate(models=method, optimizers=optimizers, level="O2", dtype=amp_dtype)
        self.scaler = LossScaler(loss_scale if amp != "O0" and amp_dtype == "float16" else 1.0)
        trained = {id(p) for group in self.groups.values() for p in group.parameters.values()}
        self._buffers = {
            k: t for k, t in method.trained_state().items() if id(t) not in trained and paddle.is_floating_point(t)
        }
        distributed.broadcast_(method.trained_state().values())
        self.average = Average(method.deployables(), ema) if ema else None
        self._checked: set[str] = set()

    def update(self, micro_batches: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Run every phase that is due and count the step.

        Args:
            micro_batches: batches on the device, as collated.

        Returns:
            Loss terms (`<phase>/<term>` where there are several phases), `grad_norm` per phase, `loss` (the sum of
            all terms), averaged over micro-batches and ranks. Empty when the update was skipped.

        Raises:
            RunError: too many updates in a row were skipped.
        """
        paddle.seed(zlib.crc32(f"{self.seed}/{self.step}/{distributed.rank()}".encode()))
        self.method.begin(self.step, self.seed, distributed.rank())
        batches = [self.method.prepare(batch) for batch in micro_batches]
        logs: dict[str, Tensor] = {}
        fault = None
        for phase in self.method.phases:
            if self.step % phase.every == 0:
                fault = self._run(phase, batches, logs)
                if fault is not None:
                    break
        self.step += 1
        if fault is not None:
            if not fault.overflow:
                stepped = [
                    p.name
                    for p in self.method.phases[: self.method.phases.index(phase)]
                    if f"{p.name}/grad_norm" in logs
                ]
                self._count(fault, micro_batches, stepped)
            return {}
        self.bad_in_a_row = 0
        self.method.on_update(self.step)
        if self.average is not None:
            if distributed.world_size() > 1:
                self.average_buffers()
            self.average.update()
        return _floats(logs)

    def average_buffers(self) -> None:
        """Make batch-norm statistics the mean over the ranks."""
        distributed.average_(self._buffers.values())

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[dict[str, Any]]:
        """The deployables in eval mode, holding the average if there is one; training mode and raw weights return
        afterwards.
        """
        self.average_buffers()
        nets = self.method.deployables()
        self.method.eval()
        try:
            with self.average.applied() if self.average is not None else contextlib.nullcontext(), paddle.no_grad():
                yield nets
        finally:
            self.method.train()

    def state(self) -> dict[str, Any]:
        """Plain values for `state.json`."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
            "loss_scale": self.scaler.scale,
            "loss_scale_clean": self.scaler.clean,
            "ema_updates": self.average.updates if self.average else 0,
        }

    def optimizer_arrays(self) -> dict[str, np.ndarray]:
        """Content of `optimizer.pdopt`. With a sharded optimizer every rank must call it: each has a part."""
        arrays = {
            f"{name}|{key}": value
            for name, group in self.groups.items()
            for key, value in optimizer_state(group.stepped, group.optimizer).items()
        }
        return distributed.join_arrays(arrays) if any(g.sharded for g in self.groups.values()) else arrays

    def files(self, optimizers: Mapping[str, np.ndarray] | None = None) -> dict[str, dict[str, Any]]:
        """File name -> tensors of a checkpoint; `optimizers` is what `optimizer_arrays` gave, if it was called."""
        nets = self.method.deployables()
        with self.average.applied() if self.average is not None else contextlib.nullcontext():
            deployed = {
                (key if len(nets) == 1 else f"{name}.{key}"): _full(tensor.detach()).clone()
                for name, net in nets.items()
                for key, tensor in net.state_dict().items()
            }
        files = {
            "model.pdparams": deployed,
            "method.pdparams": self.method.trained_state(),
            "optimizer.pdopt": dict(self.optimizer_arrays() if optimizers is None else optimizers),
        }
        if self.average is not None:
            files["ema.pdparams"] = self.average.state()
        return files

    def load(self, state: Mapping[str, Any], arrays: Callable[[str], dict[str, np.ndarray]], source: str) -> None:
        """Continue from a checkpoint.

        Args:
            state: what `state()` gave.
            arrays: file name -> arrays by key.
            source: the checkpoint, for messages.

        Raises:
            UserError: the checkpoint belongs to another recipe.
        """
        own, saved = self.method.trained_state(), arrays("method.pdparams")
        wrong = [k for k in own if k not in saved or tuple(saved[k].shape) != tuple(own[k].shape)] + [
            k for k in saved if k not in own
        ]
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise UserError(
                f"{source}: does not fit this recipe ({', '.join(wrong[:5])}{more}); "
                "resume with the recipe that made it"
            )
        for key, tensor in own.items():
            tensor.set_value(paddle.to_tensor(saved[key]).astype(tensor.dtype))
        optimizers = arrays("optimizer.pdopt")
        for name, group in self.groups.items():
            own_state = {k.removeprefix(f"{name}|"): v for k, v in optimizers.items() if k.startswith(f"{name}|")}
            load_optimizer_state(group.parameters, group.optimizer, own_state, source, own=group.stepped)
        if self.average is not None:
            if state["ema_updates"]:
                self.average.load(arrays("ema.pdparams"), state["ema_updates"])
            else:
                self.average = Average(self.method.deployables(), self.average.decay)
        self.step, self.skipped, self.bad_in_a_row = state["step"], state["skipped"], state["bad_in_a_row"]
        self.scaler.scale, self.scaler.clean = state["loss_scale"], state["loss_scale_clean"]

    def _run(self, phase: Phase, batches: Sequence[dict[str, Any]], logs: dict[str, Tensor]) -> Fault | None:
        group = self.groups[phase.optimizer]
        group.optimizer.set_lr(group.schedule(self.step))
        prefix = f"{phase.name}/" if len(self.method.phases) > 1 else ""
        kept = _copies(self._buffers)
        bad: dict[str, Tensor] | None = None
        with self._training_only(phase.optimizer):
            normaliser = self._normaliser(phase, batches)
            for batch in batches:
                with paddle.amp.auto_cast(
                    enable=self.amp != "O0", level=self.amp if self.amp != "O0" else "O1", dtype=self.amp_dtype
                ):
                    terms = self.method.losses(phase.name, {**batch, "normaliser": normaliser})
                total = sum(terms.values())
                if not bool(paddle.isfinite(total).all()):
                    bad = terms
                    break
                moved = _copies(self._buffers) if self.recompute else None
                (total * (self.scaler.scale * phase.every / len(batches))).backward()
                if moved is not None:  # backward ran the forward again and moved the statistics a second time
                    _restore(self._buffers, moved)
                for name, value in terms.items():
                    share = value.detach().astype("float32") / len(batches)
                    logs[prefix + name] = logs[prefix + name] + share if prefix + name in logs else share
        self._report_unused(phase, group)
        # under fp16 a norm that is not finite may be the scale's doing; statistics that are not finite never are
        ruined = bad is not None or (self.scaler.scale > 1 and not self._finite_statistics())
        faulty = self._average_gradients(group, ruined)
        norm, gradients = None, [p.grad for p in group.parameters.values() if p.grad is not None]
        if not faulty and gradients:
            norm = (
                paddle.stack([g.astype("float32").square().sum() for g in gradients]).sum().sqrt() / self.scaler.scale
            )
            finite = bool(paddle.isfinite(norm))
            overflow = not finite and self.scaler.scale > 1
            factor = 1.0 / self.scaler.scale
            if finite:
                logs[prefix + "grad_norm"] = norm
                if self.clip_norm is not None and norm.item() > self.clip_norm:
                    factor *= self.clip_norm / (norm.item() + 1e-6)
                if factor != 1.0:
                    for gradient in gradients:
                        gradient.set_value(gradient * factor)
                group.update()
            self.scaler.after(overflow, self.amp != "O0" and self.amp_dtype == "float16")
            if overflow:
                group.optimizer.clear_grad(set_to_zero=False)
                _restore(self._buffers, kept)
                return Fault(phase.name, "overflow", {}, overflow=True)
            faulty = not finite
        group.optimizer.clear_grad(set_to_zero=False)
        if not faulty:
            return None
        _restore(self._buffers, kept)
        terms = {k: float(v.detach().astype("float32").item()) for k, v in (bad or logs).items()}
        if bad is not None:
            what = "loss is not finite"
        elif ruined:
            what = "batch-norm statistics are not finite"
        else:
            what = "gradient norm is not finite" if norm is not None else "another rank found a fault"
        return Fault(phase.name, what, terms, elsewhere=not ruined and norm is None)

    def _finite_statistics(self) -> bool:
        checks = [paddle.isfinite(b).all() for b in self._buffers.values()]
        return not checks or bool(paddle.stack(checks).all())

    @contextlib.contextmanager
    def _training_only(self, name: str) -> Iterator[None]:
        others = [p for n, group in self.groups.items() if n != name for p in group.parameters.values()]
        own = {id(p) for p in self.groups[name].parameters.values()}
        others = [p for p in others if id(p) not in own]
        for parameter in others:
            parameter.stop_gradient = True
        try:
            yield
        finally:
            for parameter in others:
                parameter.stop_gradient = False

    def _normaliser(self, phase: Phase, batches: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        with paddle.no_grad():
            counts = [self.method.normaliser(phase.name, batch) for batch in batches]
            mean = {k: sum(c[k] for c in counts).astype("float32") / len(batches) for k in counts[0]}
            distributed.average_(mean.values())
        return mean

    def _report_unused(self, phase: Phase, group: Group) -> None:
        if phase.name in self._checked:
            return
        self._checked.add(phase.name)
        unused = [k for k, p in group.parameters.items() if p.grad is None]
        if unused and len(unused) < len(group.parameters):
            more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
            self.warn(f"phase '{phase.name}': no gradient reaches {', '.join(unused[:5])}{more}; they stay as they are")

    def _average_gradients(self, group: Group, bad: bool) -> bool:
        """Average over ranks; True when any rank is bad. Every rank sends every parameter, so none can hang on a
        missing gradient.
        """
        if distributed.world_size() == 1:
            self.stop_requested = self.stop_wanted
            return bad
        parameters = list(group.parameters.values())
        used = paddle.to_tensor([float(p.grad is not None) for p in parameters])
        for parameter in parameters:
            if parameter.grad is None:
                (parameter * 0).sum().backward()
        flags = paddle.to_tensor([float(bad), float(self.stop_wanted)])
        distributed.average_([flags, used, *(p.grad for p in parameters)])
        for parameter, share in zip(parameters, used.numpy(), strict=True):
            if share == 0:  # on no rank: weight decay must not move it, as it does not with one process
                parameter.clear_gradient(False)
        any_bad, any_stop = (v > 0 for v in flags.numpy())
        self.stop_requested = bool(any_stop)
        return bool(any_bad)

    def _count(self, fault: Fault, micro_batches: Sequence[dict[str, Any]], stepped: Sequence[str]) -> None:
        self.last_fault = fault
        self.skipped += 1
        self.bad_in_a_row += 1
        terms = ", ".join(f"{k} {v}" for k, v in fault.terms.items())
        names = [n for batch in micro_batches for n in batch.get("name", ())]
        rates = ", ".join(f"{n} {g.schedule(self.step - 1)}" for n, g in self.groups.items())
        details = f"{terms}; lr {rates}; samples: {', '.join(names[:8])}"
        line = f"step {self.step}, phase '{fault.phase}': {fault.what} ({details})"
        if self.bad_in_a_row >= self.max_bad_steps:
            raise RunError(f"{line}; {self.bad_in_a_row} updates in a row were skipped")
        before = (
            f"; phase {', '.join(stepped)} had stepped already" if stepped else ", weights and statistics as before it"
        )
        self.warn(f"{line}; update skipped{before}")


def enable_recompute(method: Method) -> bool:
    """Wrap the blocks that the deployables name in `recompute_blocks` so that their activations are computed again in
    backward.

    Raises:
        UserError: a deployable names none.
    """
    from paddle.distributed.fleet.utils import recompute

    for net in method.deployables().values():
        blocks = getattr(net, "recompute_blocks", ())
        if not blocks:
            raise UserError(f"train.recompute: {type(net).__name__} names no blocks to recompute; set it to false")
        for name in blocks:
            block = sublayer(net, name)
            block.forward = _recomputing(block, block.forward, recompute)
    return True


def _recomputing(block: Any, forward: Callable[..., Any], recompute: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        tensors = paddle.utils.flatten(args)
        # without an input that needs a gradient the re-entrant form would give the block's parameters none
        if not block.training or all(t.stop_gradient for t in tensors):
            return forward(*args)
        kind: list[type] = []

        def run(*inputs: Tensor) -> Any:
            out = forward(*paddle.utils.pack_sequence_as(args, list(inputs)))
            kind.append(type(out))
            return tuple(out) if isinstance(out, list) else out

        # the re-entrant form takes and gives tensors only, but the other one crashes Paddle 3.1.1 and 3.2.2
        out = recompute(run, *tensors, use_reentrant=True)
        return list(out) if kind[0] is list else out

    return call


def sublayer(net: Any, name: str) -> Any:
    """The part of a network called "blocks.3.attn"."""
    for part in name.split("."):
        net = getattr(net, part) if not part.isdigit() else net[int(part)]
    return net


def _full(tensor: Tensor) -> Tensor:
    """A floating tensor in float32: what is evaluated and deployed has full precision, however it was trained."""
    return tensor.astype("float32") if paddle.is_floating_point(tensor) else tensor


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: t.detach().clone() for k, t in tensors.items()}


def _restore(tensors: Mapping[str, Tensor], copies: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        tensor.set_value(copies[key])


def _floats(logs: Mapping[str, Tensor]) -> dict[str, float]:
    """One transfer for all; averaged over ranks; `loss` is the sum of the terms."""
    if not logs:
        return {}
    values = paddle.stack([v.reshape([]) for v in logs.values()])
    distributed.average_([values])
    out = {k: float(v) for k, v in zip(logs, values.numpy(), strict=True)}
    return {"loss": sum(v for k, v in out.items() if not k.endswith("grad_norm")), **out}
