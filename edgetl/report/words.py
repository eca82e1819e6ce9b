"""What training chose, in plain words."""

from edgetl.card import Compression, CutScore, Network, TrainingSummary
from edgetl.config import Head
from edgetl.report import number

HEAD, FINE_TUNING = "head", "finetune"  # stages, as training names them
_ROLE_USES = {
    "train": "fits the weights",
    "tuning": "chooses cut, epoch and temperature",
    "calibration": "sets quantization ranges",
    "certification": "measures accuracy and parity",
}
_COMPRESSION_USES = {"tuning": "compares what was tried, sets the temperature"}


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


def role_in_words(role: str, *, compressed: bool) -> str:
    """What the images of a role were used for; "" for a role of other versions."""
    return (_ROLE_USES | _COMPRESSION_USES if compressed else _ROLE_USES).get(role, "")


def learnt_in_words(known: Compression) -> str:
    """What the curves of a smaller network show, which learnt from a larger one."""
    return (
        f"It learnt the answers of {known.parent}. Training curves: the distance from those answers, which "
        "is no loss by labels, and how often both name the same class. Tuning curves: by labels, as usual."
    )
