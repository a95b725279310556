"""The architectures of PaSST: strides, length of input, mel hop, windows, published weights.

Conventions: audio is at 32 kHz; a frame is one column of the mel spectrogram. Names, strides and
lengths are those that hear21passt 0.0.26 loads its models with; windows and their hop are those of
its loaders (`base`, `base20sec`, `base30sec`, `hop100base`, `hop160base`). Nothing needs torch.

The sha256 of published weights is stated where several public records agree on it, or where the
file's name begins it; the others are taken as they come, and their digest is in the fingerprint all
the same.

Source: K. Koutini et al., "Efficient training of audio transformers with Patchout", Interspeech
2022; https://github.com/kkoutini/passt_hear21.
"""

from __future__ import annotations

from dataclasses import dataclass

from e2i.encoders.weights import PublishedFile

SAMPLE_RATE = 32_000
DIM = 768
MELS = 128
PATCH = 16
DEFAULT = "passt_s_swa_p16_128_ap476"
_RELEASES = "https://github.com/kkoutini/PaSST/releases/download/"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture.

    Attributes:
        name: as `--audio-arch` takes it.
        published: its published weights.
        stride: of the patches, in mel bands and in frames.
        frames: longest input, in frames: the length of its time encoding.
        mel_hop: samples from frame to frame.
        depth: number of transformer blocks.
        window_s: longest input, in seconds.
        hop_s: from window to window of a longer clip, in seconds.
        of_images: whether the published weights are a model's of images, to be adapted.
    """

    name: str
    published: PublishedFile
    stride: int = 10
    frames: int = 998
    mel_hop: int = 320
    depth: int = 12
    window_s: float = 10.0
    hop_s: float = 2.5
    of_images: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Patches over frequency and over time that there are encodings for."""
        return MELS // self.stride, self.frames // self.stride

    @property
    def window_samples(self) -> int:
        """Longest input, in samples."""
        return round(self.window_s * SAMPLE_RATE)

    @property
    def hop_samples(self) -> int:
        """From window to window, in samples."""
        return round(self.hop_s * SAMPLE_RATE)

    @property
    def shortest_samples(self) -> int:
        """Shortest input, in samples: one patch."""
        return (PATCH - 1) * self.mel_hop + 1

    def tokens(self, num_samples: int) -> int:
        """Length of the sequence that so many samples come to."""
        frames = 1 + (num_samples - 1) // self.mel_hop
        columns = (frames - PATCH) // self.stride + 1
        return 2 + ((MELS - PATCH) // self.stride + 1) * columns


def _file(path: str, sha256: str = "") -> PublishedFile:
    return PublishedFile(_RELEASES + path, sha256)


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            DEFAULT,
            _file(
                "v0.0.1-audioset/passt-s-f128-p16-s10-ap.476-swa.pt",
                "302903fa8c4aee817b11dc982da0b29aaf8d11a3e722420476d0a12c9db70c2c",
            ),
        ),
        Architecture("passt_s_kd_p16_128_ap486", _file("v.0.0.9/passt-s-kd-ap.486.pt")),
        Architecture("passt_l_kd_p16_128_ap47", _file("v.0.0.10/passt-l-kd-ap.47.pt"), depth=7),
        Architecture(
            "passt_s_p16_s16_128_ap468",
            _file("v0.0.2-audioset/passt-s-f128-p16-s16-ap.468.pt"),
            stride=16,
        ),
        Architecture("openmic", _file("v0.0.5/openmic-passt-s-f128-10sec-p16-s10-ap.85.pt")),
        Architecture("fsd50k", _file("v0.0.5/fsd50k-passt-s-f128-p16-s10-ap.655.pt")),
        Architecture(
            "fsd50k-n", _file("v0.0.5/fsd50k-passt-s-n-f128-p16-s16-ap.642.pt"), stride=16
        ),
        Architecture(
            "stfthop100",
            _file("v0.0.3-audioset/passt-s-f128-stfthop100-p16-s10-ap.473-swa.pt"),
            frames=3200,
            mel_hop=100,
        ),
        Architecture(
            "stfthop160",
            _file("v0.0.3-audioset/passt-s-f128-stfthop160-p16-s10-ap.473-swa.pt"),
            frames=2000,
            mel_hop=160,
        ),
        Architecture(
            "passt_20sec",
            _file("v0.0.5/passt-s-f128-20sec-p16-s10-ap.474-swa.pt"),
            frames=2000,
            window_s=20.0,
            hop_s=5.0,
        ),
        Architecture(
            "passt_30sec",
            _file("v0.0.5/passt-s-f128-30sec-p16-s10-ap.473-swa.pt"),
            frames=3000,
            window_s=30.0,
            hop_s=10.0,
        ),
        # Trained at stride 16, as their names and the authors' settings say; hear21passt asks for
        # strides here and by default gives 10, which their encodings do not fit.
        Architecture(
            "passt_u600_f128_p16_s16_ap_460",
            _file("v.0.0.7-audioset/passt-u600-f128-p16-s16-ap.460.pt"),
            stride=16,
        ),
        Architecture(
            "passt_b_f128_p16_s16_ap_459",
            _file("v.0.0.7-audioset/passt-b-f128-p16-s16-ap.459.pt"),
            stride=16,
        ),
        # What PaSST was trained from: it has seen images only.
        Architecture(
            "passt_deit_bd_p16_384",
            PublishedFile(
                "https://dl.fbaipublicfiles.com/deit/deit_base_distilled_patch16_384-d0272ac0.pth",
                "d0272ac0",
            ),
            of_images=True,
        ),
    )
}
