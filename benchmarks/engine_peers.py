"""What TFLite Micro takes for the nets of ``benchmarks/engine.py``, as published: data, not measured here.

Source: this project's measurements of its peers: tflite-micro at 90b983c (2026-08), CMSIS-NN at the commit
4ab83cc that it pins, TFLite Micro's default flags (core -Os, kernels -O2), arm-none-eabi-gcc 12.2, instructions of one
inference counted by a plugin of qemu-system-arm 7.2 on mps2-an386 (Cortex-M4) and mps2-an500 (Cortex-M7). ``tuned`` is
CMSIS-NN with CMSIS_NN_USE_REQUANTIZE_INLINE_ASSEMBLY. The arenas hold tensors and TFLite Micro's own structures; its
stack is not among them. The reference kernels for cores without DSP were built with -DNDEBUG for Cortex-M3 and
Cortex-M0+ and counted in the same way, on mps2-an385; their outputs are those of the tflite_micro package.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Instructions per inference and bytes of arena."""

    file: str
    """Of the model, in the folder tflite-models."""
    reference_m0plus: int
    reference_m3: int
    reference_m4: int
    reference_m7: int
    cmsis_m4: int
    cmsis_m7: int
    tuned_m7: int | None
    reference_arena: int
    cmsis_arena: int

    @property
    def best_m7(self) -> int:
        """The fastest count on the Cortex-M7: the tuned one where there is one."""
        return self.tuned_m7 or self.cmsis_m7


PEERS = {
    "mobilenet28": Peer(
        file="reference/mobilenet28_route_logits_int8.tflite",
        reference_m0plus=11_857_369,
        reference_m3=6_584_416,
        reference_m4=6_714_427,
        reference_m7=6_814_858,
        cmsis_m4=1_762_903,
        cmsis_m7=1_769_402,
        tuned_m7=1_615_347,
        reference_arena=15_272,
        cmsis_arena=15_352,
    ),
    "kws": Peer(
        file="mlperf-tiny/kws_ref_model.tflite",
        reference_m0plus=72_033_653,
        reference_m3=42_018_147,
        reference_m4=43_040_591,
        reference_m7=43_613_057,
        cmsis_m4=7_697_413,
        cmsis_m7=7_643_180,
        tuned_m7=7_223_816,
        reference_arena=22_772,
        cmsis_arena=22_820,
    ),
    "resnet8": Peer(
        file="mlperf-tiny/ic_pretrainedResnet_quant.tflite",
        reference_m0plus=169_420_505,
        reference_m3=105_682_794,
        reference_m4=107_403_207,
        reference_m7=108_659_176,
        cmsis_m4=29_863_708,
        cmsis_m7=30_026_760,
        tuned_m7=28_642_127,
        reference_arena=54_340,
        cmsis_arena=54_996,
    ),
    "vww": Peer(
        file="mlperf-tiny/vww_96_int8.tflite",
        reference_m0plus=164_445_722,
        reference_m3=98_796_941,
        reference_m4=100_250_932,
        reference_m7=101_221_067,
        cmsis_m4=24_101_936,
        cmsis_m7=24_025_562,
        tuned_m7=None,
        reference_arena=100_660,
        cmsis_arena=100_708,
    ),
    "ad": Peer(
        file="mlperf-tiny/ad01_int8.tflite",
        reference_m0plus=3_410_074,
        reference_m3=1_952_606,
        reference_m4=1_952_327,
        reference_m7=1_948_953,
        cmsis_m4=582_934,
        cmsis_m7=583_240,
        tuned_m7=None,
        reference_arena=2_260,
        cmsis_arena=2_580,
    ),
}
MLPERF_TINY = ("kws", "resnet8", "vww", "ad")
