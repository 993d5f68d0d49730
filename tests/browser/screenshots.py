"""Write the pictures of docs/images: `make screenshots`.

The first is what the README's six lines draw; explorer and report are those of the demo.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))  # for what pytest's tests import from there

import chromium  # noqa: E402
from PIL import Image  # noqa: E402

from desi_fits_to_parquet.explorer.serve import make_server, page_address  # noqa: E402

IMAGES = REPOSITORY / "docs/images"

QUASAR = "#target=39628333784305669&in=sv3-dark-10257&smooth=4"

WINDOW = {"width": 1440, "height": 900}


def main() -> None:
    """Write all pictures."""
    IMAGES.mkdir(exist_ok=True)
    draw_quasar()
    with chromium.chromium() as browser, chromium.running(make_server(chromium.DEMO)) as server:
        explorer = browser.new_page(viewport=WINDOW, reduced_motion="reduce")
        explorer.goto(page_address(server) + QUASAR)
        explorer.wait_for_function(
            "document.querySelector('#list tr[aria-current]') && "
            "document.getElementById('found').textContent.match(/^50 of/)"
        )
        shoot(explorer, "explorer.png")
        report = browser.new_page(viewport=WINDOW, reduced_motion="reduce")
        report.goto((chromium.DEMO / "report/index.html").as_uri())
        report.wait_for_load_state("networkidle")
        shoot(report, "report.png")


def draw_quasar() -> None:
    """Run the README's first lines of Python, which write a picture."""
    code = next(
        block
        for block in re.findall(
            r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S
        )
        if 'savefig("quasar.png")' in block
    )
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "results").symlink_to(REPOSITORY / "results")
        environment = os.environ | {"MPLBACKEND": "agg"}
        subprocess.run([sys.executable, "-c", code], cwd=name, env=environment, check=True)
        save(Path(name) / "quasar.png", "quasar.png")


def shoot(page: Any, name: str) -> None:
    """Write what the window shows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        page.screenshot(path=path, animations="disabled")
        save(path, name)


def save(path: Path, name: str) -> None:
    """Write a picture with 256 colours, of half the size."""
    with Image.open(path) as picture:
        palette = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(IMAGES / name, optimize=True)
    print(f"docs/images/{name}: {(IMAGES / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
