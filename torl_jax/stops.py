"""What the sampler knows of stop strings: a machine over tokens, as numbers.

A table [S, V] holds for each of S states and each token the next state, with DONE added where
a stop has just been completed. State 0 is the beginning of a turn. `protocols/machine.py`
makes the table, `sampler/decode.py` follows it.
"""

DONE = 1 << 15  # in uint16
DEAF = -1  # the state of a row that looks out for nothing
