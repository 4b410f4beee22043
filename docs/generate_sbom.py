"""Writes what a release depends on as a CycloneDX file: `python docs/generate_sbom.py dist/rupert-VERSION.cdx.json`.

The packages are those of uv.lock that rupert's core and extras can bring along, on every platform and version of
Python; the licences are those of docs/licences.md. The hashes of their thousands of files stay in uv.lock, which the
sdist holds. The same lock gives the same file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from generate_licences import ROOT, licence

UV = Path(sysconfig.get_path("scripts")) / "uv"
EXPORT = (
    *("export", "--frozen", "--offline", "--quiet", "--no-dev", "--all-extras"),
    *("--format", "cyclonedx1.5", "--preview-features", "sbom-export"),
)


def sbom() -> str:
    """The bill of materials as JSON."""
    command = [str(UV), *EXPORT, "--project", str(ROOT)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own uv
    made: dict[str, Any] = json.loads(done.stdout)
    del made["metadata"]["timestamp"]  # when the file was made says nothing of what is in it
    made["metadata"]["component"]["licenses"] = [{"expression": "Apache-2.0"}]
    for component in made["components"]:
        component.pop("externalReferences", None)
        if expression := licence(component["name"]):
            component["licenses"] = [{"expression": expression}]
    content = json.dumps([made["metadata"]["component"], made["components"]], sort_keys=True)
    made["serialNumber"] = f"urn:uuid:{uuid5(NAMESPACE_URL, content)}"
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(sbom(), encoding="utf-8")
