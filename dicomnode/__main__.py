"""`python -m dicomnode` is `dicomnode`."""

import sys

from dicomnode.cli.main import main

sys.exit(main())
