"""`python -m penstock.step package.module:callable` runs the Python function of a step; see `runtime`."""

import sys

from penstock.step.runtime import main

if __name__ == "__main__":  # a function that uses multiprocessing imports this module again
    sys.exit(main(sys.argv[1:]))
