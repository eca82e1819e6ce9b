"""stub"""
from edgetl.cli.command import Outcome, command
@command()
def data() -> Outcome:
    """x"""
    raise NotImplementedError
