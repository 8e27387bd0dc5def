"""Find, load and quantise a base; one base, many roles."""

import logging

# On a CPU bitsandbytes warns, on import, of an optional faster kernel that only a model hub has.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
