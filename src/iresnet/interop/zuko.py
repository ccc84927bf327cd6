"""Flows and residual blocks as zuko's lazy flows and transforms, to be mixed with its own.

>>> from iresnet.interop.zuko import LazyBijection, LazyFlow           # doctest: +SKIP
>>> flow = LazyFlow(iresnet.dense_flow(3, context=5))                  # doctest: +SKIP
>>> flow(c).log_prob(x), flow(c).rsample((64,))                        # doctest: +SKIP

A lazy transform holds the module, and its parameters are bound when it is called with a context, once for all that is then asked
of the result. The modules are shared and not copied: what zuko's flow trains is the flow that was given, which
:func:`iresnet.save` writes.

References
----------
zuko (Rozet et al., 2022), doi 10.5281/zenodo.7625672
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution

from ..bases import Base
from ..bijections.base import Bijection
from ..errors import UserError
from ..flow import Flow
from ..numerics.fixed_point import Solver
from ..numerics.logdet import LogDet
from .distributions import BijectionTransform, latent_of, transform_of

try:
    import zuko
except ImportError as error:
    raise UserError("iresnet.interop.zuko needs zuko: pip install 'iresnet[zuko]'") from error

__all__ = ["LazyBase", "LazyBijection", "LazyFlow"]


class LazyBijection(zuko.lazy.LazyTransform):
    """A bijection, such as one residual block, as zuko's lazy transform, data to latent.

    Parameters
    ----------
    bijection : of rows of ``shape``.
    context : width of the context; with 0 a context is ignored, as zuko's unconditional transforms do, so that other
        transforms of the same flow can have one.
    embed : what the context goes through first; None for nothing.
    shape : of one row, which is checked; None for vectors of any width.
    train_logdet, eval_logdet : estimators of the log-determinant by the module's mode; None for those of
        :class:`~iresnet.flow.Flow`.
    solver : of inverses; None for ``Picard()``.
    """

    def __init__(
        self,
        bijection: Bijection,
        context: int = 0,
        *,
        embed: nn.Module | None = None,
        shape: tuple[int, ...] | None = None,
        train_logdet: LogDet | None = None,
        eval_logdet: LogDet | None = None,
        solver: Solver | None = None,
    ) -> None:
        super().__init__()
        self.bijection, self.embed, self.context, self.shape = bijection, embed, context, shape
        self.train_logdet, self.eval_logdet, self.solver = train_logdet, eval_logdet, solver

    def forward(self, c: Tensor | None = None) -> BijectionTransform:
        """The transform at the context c (*, C).

        Raises
        ------
        ValueError
            If the context is missing or has another width.
        """
        if not self.context:
            c = None
        elif c is None or c.shape[-1] != self.context:
            got = "none" if c is None else f"shape {tuple(c.shape)}"
            raise ValueError(f"this transform needs a context of width {self.context}, got {got}")
        if c is not None and self.embed is not None:
            c = self.embed(c)
        logdet = self.train_logdet if self.training else self.eval_logdet
        return transform_of(self.bijection, c, shape=self.shape, logdet=logdet, solver=self.solver)

    def extra_repr(self) -> str:
        return f"context={self.context}, train_logdet={self.train_logdet}, eval_logdet={self.eval_logdet}"


class LazyBase(zuko.lazy.LazyDistribution):
    """A base distribution of latents as zuko's lazy distribution; ``context`` is its width, or 0 if it knows of none."""

    def __init__(self, base: Base, context: int = 0) -> None:
        super().__init__()
        self.base, self.context = base, context

    def forward(self, c: Tensor | None = None) -> Distribution:
        return latent_of(self.base, c if self.context else None)


class LazyFlow(zuko.lazy.Flow):
    """A whole flow as zuko's: ``lazy(c)`` is its ``NormalizingFlow``, with ``log_prob``, ``rsample``, ``rsample_and_log_prob``.

    Estimators and the solver are those of the flow when it is wrapped.

    Parameters
    ----------
    flow : whitened and initialised where that is wanted; its modules are shared.
    """

    def __init__(self, flow: Flow) -> None:
        if not isinstance(flow, Flow):
            raise TypeError(f"LazyFlow wraps an iresnet.Flow, got {type(flow).__name__}; a single bijection is for LazyBijection")
        transform = LazyBijection(
            flow.bijection,
            flow.context,
            embed=flow.embed,
            shape=flow.shape,
            train_logdet=flow.train_logdet,
            eval_logdet=flow.eval_logdet,
            solver=flow.solver,
        )
        super().__init__(transform, LazyBase(flow.base, flow.context))
        self.train(flow.training)

    def forward(self, c: Tensor | None = None) -> zuko.distributions.NormalizingFlow:
        """The distribution at the context c (*, C) or None.

        Raises
        ------
        ValueError
            If the context is missing, has another width, or is given to a flow that has none.
        """
        if c is not None and not self.transform.context:
            raise ValueError("this flow is unconditional: build it with context=C to give it one")
        return super().forward(c)
