"""What went wrong, in one sentence a user can act on."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(ValueError):
    """Bad input: the message says what, where and what to do. The command line prints it and exits with code 2."""
