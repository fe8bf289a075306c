"""Write the JSON Schema of the architecture file, after a change of its fields.

python scripts/schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

import sret_nas

PATH = Path(sret_nas.__file__).parent / "architecture.schema.json"

if __name__ == "__main__":
    PATH.write_text(json.dumps(sret_nas.Architecture.json_schema(), indent=2) + "\n")
