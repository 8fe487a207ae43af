"""The tests of this folder share builders of small data sets, which lie beside them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
