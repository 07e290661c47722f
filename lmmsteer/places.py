"""Where the folders beside this package lie: next to it in a checkout, below it where installed.

jobs, analysis and conf are names that any project may have, so an installation keeps them out of
site-packages: they lie in lmmsteer/_top, and `lmmsteer` puts that folder on the module path.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent
TOP = _HERE / "_top" if (_HERE / "_top").is_dir() else _HERE.parent
CONF = TOP / "conf"
