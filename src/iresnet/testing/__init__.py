"""The laws of this package as functions, for people who add a part: each raises ``AssertionError`` with a telling message.

A new layer, activation, estimator, solver or bijection is right when the laws of its kind hold for it:

==================  ======================================================================================================
kind                laws
==================  ======================================================================================================
norm bound          :func:`check_norm_bound` over :func:`adversarial_matrices`
activation          :func:`check_activation`
branch              :func:`check_branch` (:func:`check_lipschitz`, :func:`worst_slopes`), over :func:`rescaled` weights
log-determinant     :func:`check_logdet`, :func:`check_logdet_gradient`, :func:`check_roulette`
bound branch        :func:`check_rounding`
solver              :func:`check_solution`, :func:`check_refusal`, :func:`check_implicit_gradient`, :func:`check_row_alone`
bijection           :func:`check_inverse_logdet`, :func:`check_chain_rule`
flow                :func:`check_integral`, :func:`check_parameter_gradients`, :func:`check_unchanged`, :func:`check_copies`
==================  ======================================================================================================

Reference values come from elsewhere than what is tested: singular values in float64, Jacobians by autograd, Newton's method.
"""

from __future__ import annotations

from .inverses import check_implicit_gradient, check_refusal, check_rounding, check_row_alone, check_solution, newton
from .lipschitz import check_branch, check_lipschitz, jacobian, randomized, rescaled, worst_slopes
from .logdets import check_logdet, check_logdet_gradient, check_roulette, true_logdet
from .modules import check_copies, check_parameter_gradients, check_unchanged, same
from .norms import adversarial_matrices, check_activation, check_norm_bound
from .volumes import check_chain_rule, check_integral, check_inverse_logdet

__all__ = [
    "adversarial_matrices",
    "check_activation",
    "check_branch",
    "check_chain_rule",
    "check_copies",
    "check_implicit_gradient",
    "check_integral",
    "check_inverse_logdet",
    "check_lipschitz",
    "check_logdet",
    "check_logdet_gradient",
    "check_norm_bound",
    "check_parameter_gradients",
    "check_refusal",
    "check_roulette",
    "check_rounding",
    "check_row_alone",
    "check_solution",
    "check_unchanged",
    "jacobian",
    "newton",
    "randomized",
    "rescaled",
    "same",
    "true_logdet",
    "worst_slopes",
]
