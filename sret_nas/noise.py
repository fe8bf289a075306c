"""What libraries log, in a process that is ours alone: the command, and its workers."""

from __future__ import annotations

import logging

import wrapt


def quiet_libraries() -> None:
    """Errors alone are shown of what Optuna and SQLAlchemy log: what fails is told by us.

    Optuna sets its level as it is imported, so that it is told to just after.
    """
    for name in ("sqlalchemy.pool", "sqlalchemy.engine"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    wrapt.when_imported("optuna.logging")(lambda module: module.set_verbosity(module.ERROR))
