"""stub"""
from edgetl.cli.command import Outcome, command
@command()
def doctor() -> Outcome:
    """x"""
    raise NotImplementedError
