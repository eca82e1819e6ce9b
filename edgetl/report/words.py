"""What training chose, in plain words."""

from edgetl.card import CutScore, Network, TrainingSummary
from edgetl.config import Head
from edgetl.report import number

HEAD, FINE_TUNING = "head", "finetune"  # stages, as training names them


def cut_in_words(chosen: Network | CutScore) -> str:
    """Where the trunk ends and what the head sees of it."""
    return f"cut after {chosen.cut}, {seen_in_words(chosen)}"


def seen_in_words(chosen: Network | CutScore) -> str:
    """What the head sees."""
    return f"{head_in_words(chosen.head)} of {' and '.join(chosen.scales)}"


def head_in_words(head: Head) -> str:
    """What a head sees of each block."""
    match head:
        case Head.GAP:
            return "averages"
        case Head.MAX:
            return "maxima"
        case Head.GRID:
            return "quarters"
        case Head.FLATTEN:
            return "every position"


def kept_in_words(training: TrainingSummary) -> str:
    """The epoch whose weights were kept, and the best that other stages reached on the tuning images."""
    others: dict[str, float] = {}
    text = _kept(training)
    for record in training.history:
        if (record.stage, record.epoch) == (training.chosen_stage, training.chosen_epoch):
            text += f", tuning loss {number(record.tuning_loss, 3)}"
        elif record.stage != training.chosen_stage:
            others[record.stage] = min(others.get(record.stage, record.tuning_loss), record.tuning_loss)
    told = ", ".join(f"{stage_in_words(stage)}: {number(loss, 3)}" for stage, loss in others.items())
    return f"{text} ({told})" if told else text


def _kept(training: TrainingSummary) -> str:
    name = stage_in_words(training.chosen_stage)
    if is_closed_form(training, training.chosen_stage):
        return f"the {name}"
    return f"{name} epoch {training.chosen_epoch}"


def stage_in_words(stage: str) -> str:
    """The name of a stage."""
    return "fine-tuning" if stage == FINE_TUNING else stage


def is_closed_form(training: TrainingSummary, stage: str) -> bool:
    """Whether the stage is a head in closed form, which no schedule asked for."""
    return stage == HEAD and f"stage {stage}" not in training.settings
