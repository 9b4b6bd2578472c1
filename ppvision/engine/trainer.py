"""One update of any Method: its due phases, each an optimizer step over the micro-batches.

A phase is: freeze the other groups; sum the denominators over micro-batches and ranks; per micro-batch forward under
AMP, check the loss, backward; mean of the gradients over the ranks; unscale, check the norm, clip, step. What is not
finite on any rank is a `Fault` on all of them, and undone in one place: batch-norm statistics go back to where they
were, gradients are forgotten, the rest of the update is skipped. Statistics matter as much as weights: `relu(nan)` is
0, so weights and scores can look sane while they are already ruined.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ppvision.engine import distributed
from ppvision.engine.ema import EMA
from ppvision.engine.fault import Fault
from ppvision.engine.group import Group, MakeGroup, make_groups
from ppvision.engine.optimizer import load_optimizer_state, optimizer_state
from ppvision.engine.recompute import enable_recompute
from ppvision.engine.scaler import LossScaler
from ppvision.errors import RunError, UserError
from ppvision.methods.base import Method, Phase


class Trainer:
    """Runs updates. Everything it needs to continue exactly is in `state()` and `files()`.

    Args:
        method: the training algorithm; put into training mode here.
        make_group: called as make_group(name, parameters) for each optimizer name of the phases; gives optimizer and
            schedule.
        seed: of all randomness, which is a function of (seed, step, rank).
        amp: O0 (off), O1 or O2.
        amp_dtype: float16 or bfloat16.
        loss_scale: initial scale under float16.
        clip_norm: largest gradient norm of a group, or none.
        ema: decay of the EMA of `method.averaged()`, or none.
        max_bad_steps: consecutive skipped updates after which the run stops.
        recompute: drop activations inside the blocks the deployables name and compute them again in backward.
        shard_optimizer: divide the optimizer state over the ranks (see `engine.sharding`).
        warn: called with one line worth telling.

    Attributes:
        step: updates made, skipped ones included.
        skipped: of these.
        last_fault: why the last skipped update was skipped.
        stop_signalled: set on any rank, by a signal.
        stop_requested: what the ranks agreed on in the last update.
    """

    def __init__(
        self,
        method: Method,
        make_group: MakeGroup,
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
        self.method = method
        self.seed = seed
        self.amp = amp
        self.amp_dtype = amp_dtype
        self.clip_norm = clip_norm
        self.max_bad_steps = max_bad_steps
        self.recompute = recompute
        self.warn = warn
        self.step = 0
        self.skipped = 0
        self.bad_in_a_row = 0
        self.last_fault: Fault | None = None
        self.stop_signalled = False
        self.stop_requested = False
        method.train()
        if recompute:
            enable_recompute(method)
        self.groups: dict[str, Group] = make_groups(method, make_group, shard_optimizer)
        if amp == "O2":
            # without save_dtype: its hook makes state_dict() give copies, and what is restored or averaged would be
            # lost
            optimizers = [group.optimizer for group in self.groups.values()]
            paddle.amp.decorate(models=method, optimizers=optimizers, level="O2", dtype=amp_dtype)
        scaled = amp != "O0" and amp_dtype == "float16"
        self.scaler = LossScaler(loss_scale if scaled else 1.0, enabled=scaled)
        self._buffers = self._find_buffers()
        distributed.broadcast_(method.trained_state().values())
        self.ema = EMA(method.averaged(), ema) if ema else None
        self._checked: set[str] = set()

    def update(self, micro_batches: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Run every phase that is due and count the step.

        Args:
            micro_batches: batches on the device, as collated.

        Returns:
            Loss terms (`<phase>/<term>` where there are several phases), `grad_norm` per phase, `loss` (the sum of
            the terms of all phases but the lazy ones, so that it is the same sum at every step), averaged over
            micro-batches and ranks. Empty when the update was skipped.

        Raises:
            RunError: too many updates in a row were skipped.
        """
        # randomness is a function of seed, step and rank
        paddle.seed(zlib.crc32(f"{self.seed}/{self.step}/{distributed.rank()}".encode()))
        self.method.begin(self.step, self.seed, distributed.rank())
        # to the device's form: normalised pictures, targets
        batches = [self.method.prepare(batch) for batch in micro_batches]
        # an optimizer step for every phase that is due
        due = [phase for phase in self.method.phases if self.step % phase.every == 0]
        logs: dict[str, dict[str, Tensor]] = {}
        fault = None
        try:
            for phase in due:
                logs[phase.name] = self._run(phase, batches)
        except Fault as found:
            fault = found.with_traceback(None)  # it would hold the tensors of the update
        self.step += 1
        # a fault: nothing more happens
        if fault is not None:
            self._skip(fault, micro_batches, stepped=list(logs))
            return {}
        self.bad_in_a_row = 0
        # teacher momentum, ramps
        self.method.on_update(self.step)
        # EMA of weights and of statistics, which are the same on all ranks before
        if self.ema is not None:
            self.sync_buffers()
            self.ema.update()
        return self._floats(logs)

    def _run(self, phase: Phase, batches: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """One optimizer step of a phase; its terms and `grad_norm`, on the device.

        Raises:
            Fault: something is not finite; weights and statistics are as before.
        """
        group = self.groups[phase.optimizer]
        # forward moves batch-norm statistics
        before = _copies(self._buffers)
        try:
            # forward and backward over the micro-batches
            terms, fault = self._accumulate(phase, group, batches)
            # mean over the ranks, which from here on see the same gradients and decide alike
            self._reduce(phase, group, terms, fault)
            # unscale, check the norm, clip, step
            norm = self._step(phase, group, terms)
        except Fault:
            _restore(self._buffers, before)
            raise
        finally:
            group.clear()
        return terms | norm

    def _accumulate(
        self, phase: Phase, group: Group, batches: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, Tensor], Fault | None]:
        """Gradients and mean terms of all micro-batches, and what is not finite on this rank: not raised before the
        others know of it.
        """
        level = self.amp if self.amp != "O0" else "O1"
        # a lazy phase makes up for the steps it leaves out
        weight = self.scaler.scale * phase.every / len(batches)
        logs: dict[str, Tensor] = {}
        with self._training_only(phase.optimizer):
            # denominators of all micro-batches and ranks together
            normaliser = self._normaliser(phase, batches)
            for batch in batches:
                # forward
                with paddle.amp.auto_cast(enable=self.amp != "O0", level=level, dtype=self.amp_dtype):
                    terms = self.method.losses(phase.name, {**batch, "normaliser": normaliser})
                total = sum(terms.values())
                # before backward: a kernel may write out of bounds when it is given NaN
                if not bool(paddle.isfinite(total).all()):
                    return logs, Fault(phase.name, "loss is not finite", terms)
                # backward; with recompute it runs the forward again and moves the statistics a second time
                moved = _copies(self._buffers) if self.recompute else {}
                (total * weight).backward()
                _restore(self._buffers, moved)
                # mean over micro-batches
                for name, value in terms.items():
                    share = value.detach().astype("float32") / len(batches)
                    logs[name] = logs[name] + share if name in logs else share
        self._report_unused(phase, group)
        # under fp16 a norm that is not finite may be the scale's doing; statistics that are not finite never are
        if self.scaler.scale > 1 and not self._finite_statistics():
            return logs, Fault(phase.name, "batch-norm statistics are not finite", logs)
        return logs, None

    def _reduce(self, phase: Phase, group: Group, terms: Mapping[str, Tensor], fault: Fault | None) -> None:
        """Mean of the gradients over the ranks; the ranks also agree on stopping.

        Raises:
            Fault: on every rank when any rank has one.
        """
        any_fault, any_stop = group.reduce(fault is not None, self.stop_signalled)
        self.stop_requested = any_stop
        if fault is not None:
            raise fault
        if any_fault:
            raise Fault(phase.name, "another rank found a fault", terms, elsewhere=True)

    def _step(self, phase: Phase, group: Group, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One step of the optimizer, at the rate of this update; `grad_norm`, unscaled and not clipped.

        Raises:
            Fault: the norm is not finite; under fp16 this lowers the scale and is no fault of the data.
        """
        if not group.gradients():
            return {}
        # the norm of what the optimizer would get, had there been no loss scale
        norm = group.norm() / self.scaler.scale
        if not bool(paddle.isfinite(norm)):
            overflow = self.scaler.scale > 1
            self.scaler.after(overflow)
            what = "overflow" if overflow else "gradient norm is not finite"
            raise Fault(phase.name, what, terms, overflow=overflow)
        # unscale and clip in one product
        factor = 1.0 / self.scaler.scale
        if self.clip_norm is not None and norm.item() > self.clip_norm:
            factor *= self.clip_norm / (norm.item() + 1e-6)
        group.scale_gradients(factor)
        # weights move
        group.step(self.step)
        self.scaler.after(overflow=False)
        return {"grad_norm": norm}

    def sync_buffers(self) -> None:
        """Make batch-norm statistics the mean over the ranks."""
        distributed.all_reduce_mean(self._buffers.values())

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[dict[str, Any]]:
        """The deployables in eval mode, holding the EMA if there is one; training mode and raw weights return
        afterwards.
        """
        self.sync_buffers()
        nets = self.method.deployables()
        self.method.eval()
        try:
            with self.ema.applied() if self.ema is not None else contextlib.nullcontext(), paddle.no_grad():
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
            "ema_updates": self.ema.updates if self.ema else 0,
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
        with self.ema.applied() if self.ema is not None else contextlib.nullcontext():
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
        if self.ema is not None:
            files["ema.pdparams"] = self.ema.state()
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
        own = self.method.trained_state()
        saved = arrays("method.pdparams")
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
        if self.ema is not None:
            if state["ema_updates"]:
                self.ema.load(arrays("ema.pdparams"), state["ema_updates"])
            else:
                self.ema = EMA(self.method.averaged(), self.ema.decay)
        self.step = state["step"]
        self.skipped = state["skipped"]
        self.bad_in_a_row = state["bad_in_a_row"]
        self.scaler.scale = state["loss_scale"]
        self.scaler.clean = state["loss_scale_clean"]

    def _find_buffers(self) -> dict[str, Tensor]:
        """Floating entries of the state that no optimizer trains: batch-norm statistics."""
        trained = {id(p) for group in self.groups.values() for p in group.parameters.values()}
        state = self.method.trained_state()
        return {k: t for k, t in state.items() if id(t) not in trained and paddle.is_floating_point(t)}

    def _finite_statistics(self) -> bool:
        checks = [paddle.isfinite(b).all() for b in self._buffers.values()]
        return not checks or bool(paddle.stack(checks).all())

    @contextlib.contextmanager
    def _training_only(self, name: str) -> Iterator[None]:
        """The parameters of the other groups need no gradient inside."""
        own = {id(p) for p in self.groups[name].parameters.values()}
        others = [p for group in self.groups.values() for p in group.parameters.values() if id(p) not in own]
        for parameter in others:
            parameter.stop_gradient = True
        try:
            yield
        finally:
            for parameter in others:
                parameter.stop_gradient = False

    def _normaliser(self, phase: Phase, batches: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Mean of the denominators over micro-batches and ranks."""
        with paddle.no_grad():
            counts = [self.method.normaliser(phase.name, batch) for batch in batches]
            mean = {k: sum(c[k] for c in counts).astype("float32") / len(batches) for k in counts[0]}
            distributed.all_reduce_mean(mean.values())
        return mean

    def _report_unused(self, phase: Phase, group: Group) -> None:
        """Tell once per phase what gets no gradient. A lazy phase need not reach everything: another one does."""
        if phase.every > 1 or phase.name in self._checked:
            return
        self._checked.add(phase.name)
        unused = group.without_gradient()
        if unused and len(unused) < len(group.parameters):
            more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
            self.warn(f"phase '{phase.name}': no gradient reaches {', '.join(unused[:5])}{more}; they stay as they are")

    def _skip(self, fault: Fault, micro_batches: Sequence[dict[str, Any]], stepped: Sequence[str]) -> None:
        """Count a skipped update and tell of it; an overflow is neither counted nor told.

        Raises:
            RunError: it is one too many.
        """
        if fault.overflow:
            return
        self.last_fault = fault
        self.skipped += 1
        self.bad_in_a_row += 1
        terms = ", ".join(f"{k} {v}" for k, v in fault.terms.items())
        names = [n for batch in micro_batches for n in batch.get("name", ())]
        rates = ", ".join(f"{n} {g.schedule(self.step - 1)}" for n, g in self.groups.items())
        details = f"{terms}; lr {rates}; samples: {', '.join(names[:8])}"
        line = f"step {self.step}, {fault} ({details})"
        if self.bad_in_a_row >= self.max_bad_steps:
            raise RunError(f"{line}; {self.bad_in_a_row} updates in a row were skipped")
        before = (
            f"; phase {', '.join(stepped)} had stepped already" if stepped else ", weights and statistics as before it"
        )
        self.warn(f"{line}; update skipped{before}")

    def _floats(self, logs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
        """The terms of each phase -> numbers, averaged over ranks, in one transfer; `loss` first."""
        several = len(self.method.phases) > 1
        tensors = {(f"{phase}/{k}" if several else k): v for phase, terms in logs.items() for k, v in terms.items()}
        if not tensors:
            return {}
        values = paddle.stack([v.reshape([]) for v in tensors.values()])
        distributed.all_reduce_mean([values])
        floats = {k: float(v) for k, v in zip(tensors, values.numpy(), strict=True)}
        lazy = tuple(f"{phase.name}/" for phase in self.method.phases if phase.every > 1)
        counted = [v for k, v in floats.items() if not k.endswith("grad_norm") and not k.startswith(lazy)]
        return {"loss": sum(counted), **floats}


def _full(tensor: Tensor) -> Tensor:
    """A floating tensor in float32: what is evaluated and deployed has full precision, however it was trained."""
    return tensor.astype("float32") if paddle.is_floating_point(tensor) else tensor


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: t.detach().clone() for k, t in tensors.items()}


def _restore(tensors: Mapping[str, Tensor], copies: Mapping[str, Tensor]) -> None:
    for key, copy in copies.items():
        tensors[key].set_value(copy)
