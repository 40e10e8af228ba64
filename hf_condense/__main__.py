"""`python -m hf_condense` is the command line."""

import sys

from hf_condense.cli import main

sys.exit(main())
