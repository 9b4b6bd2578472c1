"""`python -m ppvision`."""

import sys

from ppvision.cli import main

if __name__ == "__main__":
    sys.exit(main())
