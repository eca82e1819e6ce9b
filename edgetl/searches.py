"""Where a function turns, in as few calls as possible: of a real number and of a whole one."""

import sys
from collections.abc import Callable


def falling_root(
    function: Callable[[float], float],
    guess: float,
    step: float,
    ends: tuple[float, float],
    within: float = 1e-17,
) -> float:
    """Where a falling function turns from above zero to zero or less: at most `within` above that point.

    It counts as positive at the lower end and as negative at the upper one, and is not called there. Steps
    outward from `guess`, then interpolates (Chandrupatla 1997, Advances in Engineering Software 28:145-149).
    """
    x, y = guess, function(guess)
    while True:
        far, far_y = (min(x + step, ends[1]), -1.0) if y > 0 else (max(x - step, ends[0]), 1.0)
        if far in ends or ((far_y := function(far)) > 0) != (y > 0):
            break
        x, y, step = far, far_y, 4 * step
    old, old_y, part = far, far_y, 0.5
    while abs(far - x) > (least := max(within, 4 * sys.float_info.epsilon * max(abs(x), abs(far)))):
        new = x + min(max(part, 0.4 * least / abs(far - x)), 1 - 0.4 * least / abs(far - x)) * (far - x)
        new_y = function(new)
        if (new_y > 0) == (y > 0):
            old, old_y = x, y
        else:
            old, old_y, far, far_y = far, far_y, x, y
        x, y = new, new_y
        place, height = (x - far) / (old - far), (y - far_y) / (old_y - far_y)
        part = 0.5
        if height**2 < place and (1 - height) ** 2 < 1 - place:
            part = y / (far_y - y) * old_y / (far_y - old_y)
            part += (old - x) / (far - x) * y / (old_y - y) * far_y / (old_y - far_y)
    return max(x, far)


def smallest(holds: Callable[[int], bool], guess: int, most: int, within: int = 1) -> int:
    """A number in 1..most that holds while one at most `within` smaller does not, searched from `guess`.

    The smallest one if all larger numbers hold, too. The answer is `most` when none is found.
    """
    guess = min(max(1, guess), most)
    step = max(1, guess // 50)
    if holds(guess):
        low, high = guess - step, guess
        while low > 0 and holds(low):
            step *= 2
            low, high = low - step, low
        low = max(low, 0)
    else:
        low, high = guess, guess + step
        while high < most and not holds(high):
            step *= 2
            low, high = high, high + step
        high = min(high, most)
    while high - low > within:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
