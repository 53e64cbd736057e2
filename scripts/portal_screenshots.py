"""Save pictures of every page of the portal: ``scripts/portal_screenshots.py DATA_FOLDER [OUT_FOLDER] [--all]``.

For the pictures in docs (``portal-<page>.png``) and, with ``--all``, for looking at every page in light, dark and on a
phone. Serves the data folder on a free port of loopback meanwhile; the browser is the one of the end-to-end tests.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from contimg_resources.errors import ProductMissingError
from contimg_resources.settings import Settings
from contimg_resources.store import queries
from contimg_resources.store.connection import Store, open_store
from tests.e2e.browser import open_page
from tests.portal.serving import serve

_SIZE = (1280, 900)
_PHONE = (390, 844)
_SETTLE_MS = 1200


def addresses(store: Store) -> dict[str, str]:
    """Address of each page by the name of its picture: the newest processed observation, the strongest candidate."""
    observations = queries.observations(store, limit=1, status="processed")
    candidates = queries.candidates(store, limit=1)
    if observations.is_empty() or candidates.is_empty():
        raise ProductMissingError(
            f"{store.path} has no processed observation or no candidate", remedy="Run `make demo` first."
        )
    candidate = candidates.row(0, named=True)
    return {
        "overview": "/",
        "observations": "/observations",
        "observation": f"/observations/{observations['observation_id'][0]}",
        "sources": "/sources",
        "source": f"/sources/{candidate['source_id']}",
        "candidates": "/candidates",
        "candidate": f"/candidates/{candidate['candidate_id']}",
        "quality": "/quality",
        "operations": "/operations",
        "settings": "/settings",
        "api": "/docs",
    }


def main() -> None:
    """Serve, open every page, save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs"))
    parser.add_argument("--all", action="store_true", help="dark and phone too, whole pages")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    looks: list[tuple[str, tuple[int, int], Literal["light", "dark"]]] = [("", _SIZE, "light")]
    if arguments.all:
        looks += [("-dark", _SIZE, "dark"), ("-phone", _PHONE, "light")]
    settings = Settings(data=arguments.data, portal_token=SecretStr("only for pictures"))
    pages = addresses(open_store(settings))
    with serve(settings) as client:
        for ending, size, scheme in looks:
            with open_page(*size) as page:
                page.emulate_media(color_scheme=scheme)
                for name, address in pages.items():
                    page.goto(f"{client.base_url}{address}")
                    page.wait_for_timeout(_SETTLE_MS)
                    whole = arguments.all or name in {"candidate", "observation"}
                    page.screenshot(path=arguments.out / f"portal-{name}{ending}.png", full_page=whole)


if __name__ == "__main__":
    main()
