"""The words that settings can be, and what each means."""

from enum import StrEnum


class BatchEngine(StrEnum):
    """Where `predict` works."""

    LOCAL = "local"
    RAY = "ray"


class Recipe(StrEnum):
    """How a network is trained."""

    DEFAULT = "default"
    CLASSIC = "classic"


class Head(StrEnum):
    """What stands on the trunk before a Dense layer.

    gap: each channel's average over the map; max: its maximum; grid: its averages over the map's quarters;
    flatten: the whole map and a hidden layer of 1024 units, as in the classic recipe.
    """

    GAP = "gap"
    MAX = "max"
    GRID = "grid"
    FLATTEN = "flatten"


class Block(StrEnum):
    """The blocks of VGG16."""

    BLOCK1 = "block1"
    BLOCK2 = "block2"
    BLOCK3 = "block3"
    BLOCK4 = "block4"
    BLOCK5 = "block5"


class Unfreeze(StrEnum):
    """The lowest block that fine-tuning changes; it and all above it are trained."""

    NONE = "none"
    BLOCK5 = "block5"
    BLOCK4 = "block4"
    BLOCK3 = "block3"
    BLOCK2 = "block2"
    ALL = "all"


class Optimizer(StrEnum):
    """SGD has Nesterov momentum."""

    SGD = "sgd"
    ADAM = "adam"


class Augment(StrEnum):
    """How far training images are varied."""

    OFF = "off"
    LIGHT = "light"
    STRONG = "strong"


class ClassWeights(StrEnum):
    """Whether rare classes count more in the loss."""

    NONE = "none"
    BALANCED = "balanced"


class FeaturePrecision(StrEnum):
    """How the frozen part of the trunk is computed while training."""

    AUTO = "auto"
    FP32 = "fp32"
    INT8 = "int8"


class Arithmetic(StrEnum):
    """How fine-tuning computes; weights are float32 always."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class TrunkInput(StrEnum):
    """What a foreign trunk expects: Keras's VGG16 (BGR minus mean) or torchvision's (RGB, mean and std)."""

    KERAS = "keras"
    TORCHVISION = "torchvision"


class Student(StrEnum):
    """Small networks of others that learn beside a smaller VGG16, as rivals.

    MobileNetV2 with all and with 0.35 of its channels (Sandler et al., CVPR 2018), MobileNetV3-Small (Howard
    et al., ICCV 2019), EfficientNet-B0 (Tan & Le, ICML 2019), and EfficientNet-Lite0: B0 with ReLU6 and
    without squeeze-and-excitation, as its authors published it for integer arithmetic. Named as in Keras.
    """

    MOBILENET_V2 = "mobilenet_v2"
    MOBILENET_V2_035 = "mobilenet_v2_035"
    MOBILENET_V3_SMALL = "mobilenet_v3_small"
    EFFICIENTNET_B0 = "efficientnet_b0"
    EFFICIENTNET_LITE0 = "efficientnet_lite0"


class Format(StrEnum):
    """File formats of exported models."""

    ONNX = "onnx"
    TFLITE = "tflite"


class Precision(StrEnum):
    """wA aB: A bits per weight, B bits per activation."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    W8A32 = "w8a32"
    W8A16 = "w8a16"


# On CPUs; w8a32 is as fast as int8 in LiteRT and as slow as fp32 in ONNX Runtime.
FASTEST_FIRST = (Precision.INT8, Precision.W8A32, Precision.FP16, Precision.FP32, Precision.W8A16)


class Packing(StrEnum):
    """How an exported file is stored; the word is the ending of its name."""

    GZ = "gz"
    ZST = "zst"


class Target(StrEnum):
    """Where a file is to run, which decides its format and how its integers are kept from saturating.

    x64-vnni and arm64: both formats as they are best; x64: both, safe on CPUs without VNNI; browser: ONNX for
    WebAssembly, as safe; mediapipe: TFLite with its metadata.
    """

    X64_VNNI = "x64-vnni"
    X64 = "x64"
    ARM64 = "arm64"
    BROWSER = "browser"
    MEDIAPIPE = "mediapipe"
