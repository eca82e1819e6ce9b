"""What steps return: frozen records that the card, `--json`, the report and the tests all see."""

from dataclasses import dataclass

from edgetl.drifting import Distance, DriftVerdict
from edgetl.measures import ClassScore
from edgetl.statistics import Verdict


@dataclass(frozen=True)
class Scores:
    """How well one artifact classifies labelled images. Shares are 0..1; `loss` is in nats."""

    artifact: str
    source: str  # which images: "certification" or the folder given
    images: int
    loss: float
    accuracy: float
    accuracy_low: float  # 95 % Wilson interval
    accuracy_high: float
    top5_accuracy: float
    balanced_accuracy: float
    calibration_error: float  # expected calibration error, 15 equal-mass bins
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows: truth, columns: predicted


@dataclass(frozen=True)
class Disagreement:
    """An image on which an artifact and the full-precision network name different classes."""

    path: str  # relative to the data folder
    truth: str
    reference: str
    reference_probability: float
    candidate: str
    candidate_probability: float


@dataclass(frozen=True)
class ClassLoss:
    """How the images of one class changed."""

    label: str
    images: int
    harmful: int
    helpful: int
    p_value: float  # of "no worse on this class", one-sided
    p_adjusted: float  # after Holm's correction for all classes


@dataclass(frozen=True)
class Parity:
    """One artifact against the full-precision network on the same images. Drops are in points (0..100)."""

    artifact: str
    artifact_sha256: str
    images: int
    source: str  # "certification images", or "stored samples" where the data folder is not at hand
    agreement: float  # share of images with the same top class, 0..1
    harmful: int  # full precision right, artifact wrong
    helpful: int  # full precision wrong, artifact right
    drop_points: float
    drop_upper_points: float  # exact one-sided 95 % upper bound
    drop_lower_points: float
    max_drop_points: float  # what was promised
    max_difference: float  # largest |p - p_reference| over images and classes
    mean_kl: float  # nats
    sqnr_db: float  # of centred logits; NaN when identical
    p_value: float  # of "the drop is as large as promised or larger", exact
    p_adjusted: float  # the same after Holm's correction for all artifacts judged together
    verdict: Verdict  # pass: p_adjusted is at most 5 %
    more_images: int  # about how many further images would decide; 0 when decided
    instruction_set: str  # of the CPU this was measured on
    classes: tuple[ClassLoss, ...]  # at most 20 that changed, the most surely worse first
    disagreements: tuple[Disagreement, ...]  # at most 24, the most confident first


@dataclass(frozen=True)
class LayerNoise:
    """Signal to quantization noise, 10 log10(sum x^2 / sum (x - y)^2), around one convolution and its ReLU.

    x is of the float network and y of the int8 file, over all images; NaN where they are identical. A layer
    is at fault where `sqnr_in_db` is good and the other two are bad; it hands on the noise of others where
    `sqnr_alone_db` is good and the other two are bad. Where only `sqnr_out_db` is bad, it needs channels that
    were rounded in one range with much larger ones, whose power hides their noise: equalization helps.
    """

    layer: str
    sqnr_in_db: float  # of what it reads
    sqnr_out_db: float  # of what it gives
    sqnr_alone_db: float  # of what its int8 weights, bias and output range make of the float network's input


@dataclass(frozen=True)
class Explained:
    """Where an int8 file that loses too much loses it; layers in their order."""

    format: str
    recipe: str
    layers: tuple[LayerNoise, ...]


@dataclass(frozen=True)
class Tried:
    """One variant that a search for goals looked at, by the tuning images."""

    format: str
    precision: str
    recipe: str  # what was done, in words
    size_bytes: int
    latency_ms: float  # median of one image on this machine
    images: int  # tuning images
    images_run: int  # of them, those that could change the answer
    harmful: int
    helpful: int
    divergence: float  # mean KL in nats on the images that are hardest to tell
    expected_upper_points: float  # of the drop, if certification sees the same shares
    misses: tuple[str, ...]  # goals: "drop", "size", "latency"
    chosen: bool


@dataclass(frozen=True)
class LayerCost:
    """One convolution before and after channels were removed; milliseconds of one image in int8, here."""

    layer: str
    channels_before: int
    channels_after: int  # 0: the layer is gone
    before_ms: float
    after_ms: float


@dataclass(frozen=True)
class Attempt:
    """One smaller network that was trained, by the tuning images and what its int8 ONNX file costs here."""

    widths: tuple[int, ...]  # channels of each convolution; none for a rival
    parameters: int  # of the whole network
    giga_macs: float  # multiply-adds of one image, in 1e9
    size_bytes: int  # of the int8 ONNX file
    latency_ms: float  # of one image in it, median
    epochs: int
    tuning_accuracy: float  # of the int8 file, 0..1
    images: int  # tuning images
    harmful: int  # of them: the parent right, the int8 file wrong
    helpful: int
    expected_upper_points: float  # of the drop, if certification sees the same shares
    misses: tuple[str, ...]  # goals: "drop", "size", "latency"
    chosen: bool
    student: str = ""  # a rival's name; empty for a VGG16 with fewer channels


@dataclass(frozen=True)
class Timing:
    """What one artifact costs on this machine."""

    artifact: str
    size_bytes: int
    load_ms: float
    latency_p50_ms: float  # one image
    latency_p95_ms: float
    best_batch: int
    images_per_second: float  # at `best_batch`
    peak_memory_mib: float  # of a process that only loads and runs this artifact
    speed_ratio: float  # images_per_second over the same format's fp32 file; NaN without one
    threads: int
    cpu: str


@dataclass(frozen=True)
class Skipped:
    """An input that could not be used, and why."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class PredictionSummary:
    """What `predict` did."""

    artifact: str
    images: int
    refused: int
    output: str  # the file or folder written, "-" for standard output
    seconds: float
    images_per_second: float
    per_label: dict[str, int]
    skipped: tuple[Skipped, ...]  # the first 20
    resumed: int  # rows that an earlier run of the same job had made
    limit: str  # what more speed would have to come from: "decoding" or "inference"; "" without images
    digest: str  # of a job's rows in their order; "" where there was no job


@dataclass(frozen=True)
class Finding:
    """One line of `doctor`, and of the advice of `data`."""

    topic: str
    status: str  # "ok", "note" or "problem"
    found: str
    fix: str


@dataclass(frozen=True)
class ClassImages:
    """How many readable images of one class have each role."""

    label: str
    train: int
    tuning: int
    calibration: int
    certification: int
    kept_out: int  # of certification, because they repeat other images
    total: int


@dataclass(frozen=True)
class ImageKinds:
    """What the readable files of a data folder hold. Sizes are (width, height) in pixels, upright."""

    smallest: tuple[int, int]  # by area
    median: tuple[int, int]  # of all widths and of all heights
    largest: tuple[int, int]
    formats: dict[str, int]
    grey: int
    transparent: int
    animated: int  # more than one frame or page


@dataclass(frozen=True)
class CopyPair:
    """Two images with equal bytes ("exact") or that look alike ("near")."""

    kind: str
    first: str
    first_role: str
    second: str
    second_role: str
    same_label: bool
    leaks: bool  # one of the two, and not the other, would be in certification


@dataclass(frozen=True)
class DataReport:
    """What `data` found in a data folder, divided as `train` would divide it."""

    folder: str
    layout: str  # "flat" or "split folders"
    seed: int
    images: int  # readable
    classes: tuple[ClassImages, ...]
    imbalance: float  # images of the largest class over those of the smallest
    kinds: ImageKinds
    unreadable: tuple[Skipped, ...]
    ignored: int  # files that are no images by their names, or lie in no class folder
    ignored_examples: tuple[str, ...]  # the first 20
    pairs: tuple[CopyPair, ...]  # those that leak first
    leaking: int  # kept out of certification: a copy has another role
    repeated: int  # kept out of certification: a copy is in certification already
    disputed: int  # kept out of certification: equal bytes lie in another class too
    alike_by_nature: int  # images of groups so large that likeness says nothing, as frames of a fixed camera
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class ReportResult:
    """What `report` wrote."""

    output: str
    size_bytes: int
    headline: str
    thumbnails: int
    data_found: bool  # whether the data folder was at hand for the thumbnails


@dataclass(frozen=True)
class CacheSpace:
    """Stored activations of one network, cut, input size and engine."""

    title: str
    rows: int
    size_bytes: int
    last_used: str  # ISO 8601, UTC
    in_use: bool  # by a process that runs now


@dataclass(frozen=True)
class CacheUsage:
    """What is in the cache of activations, after what `cache` removed."""

    folder: str
    spaces: tuple[CacheSpace, ...]  # the one used last first
    size_bytes: int
    freed_bytes: int
    damaged: tuple[str, ...]  # files of rows without a whole index, relative to the folder
    foreign: tuple[str, ...]  # what others put there, or another version


@dataclass(frozen=True)
class Drift:
    """Results of a model against a reference."""

    results: str
    reference: str  # a results file, or the certification images of the model
    tolerance: float  # KL in nats; twice of it for PSI; as a share for moved shares
    rows: int  # classified images
    reference_rows: int
    refused_share: float
    reference_refused_share: float
    mean_confidence: float
    reference_mean_confidence: float
    aspects: tuple["DriftAspect", ...]
    classes: tuple["ClassShift", ...]  # those whose share moved most
    notes: tuple[str, ...]  # what was not compared, and why
    verdict: DriftVerdict


@dataclass(frozen=True)
class DriftAspect:
    """One side on which results and reference were compared."""

    name: str  # "classes", "confidence", "outputs", "embeddings" or "refused"
    compared: str  # what exactly
    rows: int
    reference_rows: int
    distances: tuple[Distance, ...]
    p_value: float  # of "nothing changed", by permutation
    p_adjusted: float  # after Holm's correction for all aspects
    verdict: DriftVerdict
    rows_needed: (
        int  # about how many would prove that nothing changed, if so; 0: decided; -1: the reference is small
    )
    reference_rows_needed: int  # about how many in results and reference alike; 0: decided


@dataclass(frozen=True)
class ClassShift:
    """The share of one predicted class, 0..1, before and now."""

    label: str
    reference_share: float
    share: float
    difference_low: float  # 95 % interval of share - reference_share (Newcombe 1998, from Wilson's)
    difference_high: float
