"""stub"""
from edgetl.cli.command import Outcome, command
@command()
def demo() -> Outcome:
    """x"""
    raise NotImplementedError
