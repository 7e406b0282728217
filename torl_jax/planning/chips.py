"""What the vendor publishes of each chip, as far as a plan needs it.

Sources: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x"
(cloud.google.com/tpu/docs), read in November 2026; for v4's interconnect the v5p
announcement, which calls 4,800 Gbps twice that of v4. Interconnect bandwidth is that
of all links of a chip in one direction, half of what the newer pages call bidirectional.
`usable` is what the TPU compiler of libtpu 0.0.42 allows a program to use.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one chip; FLOP/s in bfloat16, bandwidths in bytes a second.

    devices: devices of jax a chip (its cores, where jax shows them apart). usable: GiB of
    HBM that a program may take, a device. host: chips of one host, as libtpu divides a
    slice. Zero: not published, or not known here.
    """

    name: str
    flops: float
    hbm_gib: float
    hbm_bandwidth: float
    ici_bandwidth: float
    devices: int
    usable_gib: float
    host: tuple[int, ...]

    @property
    def known(self) -> bool:
        """Whether there are peaks to make a roofline of."""
        return self.flops > 0


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32, 1200e9, 300e9, devices=2, usable_gib=15.25, host=(2, 2, 1)),
        Chip("v5e", 197e12, 16, 819e9, 200e9, devices=1, usable_gib=15.75, host=(2, 2)),
        Chip("v5p", 459e12, 95, 2765e9, 600e9, devices=1, usable_gib=95.74, host=(2, 2, 1)),
        Chip("v6e", 918e12, 32, 1640e9, 400e9, devices=1, usable_gib=31.25, host=(2, 2)),
        Chip("tpu7x", 2307e12, 192, 7380e9, 600e9, devices=2, usable_gib=94.75, host=(2, 2, 1)),
        Chip("cpu", 0, 0, 0, 0, devices=1, usable_gib=0, host=(1,)),
    )
}
