"""The ``contimg`` command: gathers the verbs; each lives in a module of its own in ``commands``.

Commands import what is heavy when they run, so that help is instant.
"""

from __future__ import annotations

import typer

from contimg_portal.commands.agent import app as agent
from contimg_portal.commands.alerts import app as alerts
from contimg_portal.commands.backfill import backfill
from contimg_portal.commands.backup import backup, restore
from contimg_portal.commands.bench import bench
from contimg_portal.commands.calibrate import calibrate
from contimg_portal.commands.candidates import app as candidates
from contimg_portal.commands.catalogue import app as catalogue
from contimg_portal.commands.cluster import app as cluster
from contimg_portal.commands.convert import convert
from contimg_portal.commands.dead_letters import app as dead_letters
from contimg_portal.commands.detect import detect
from contimg_portal.commands.doctor import doctor
from contimg_portal.commands.flag import flag
from contimg_portal.commands.group import group
from contimg_portal.commands.image import image
from contimg_portal.commands.measure import measure
from contimg_portal.commands.mosaic import mosaic
from contimg_portal.commands.portal import portal
from contimg_portal.commands.products import app as products
from contimg_portal.commands.rebuild import rebuild
from contimg_portal.commands.retention import app as retention
from contimg_portal.commands.simulate import simulate
from contimg_portal.commands.store import app as store
from contimg_portal.commands.variability import variability

app = typer.Typer(
    name="contimg",
    help="From the raw output of a radio interferometer to light curves and extreme scattering events.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
for verb in (
    simulate,
    group,
    convert,
    flag,
    calibrate,
    image,
    mosaic,
    measure,
    detect,
    variability,
    backfill,
    rebuild,
    backup,
    restore,
    portal,
    doctor,
    bench,
):
    app.command(name=verb.__name__)(verb)
app.add_typer(candidates, name="candidates")
app.add_typer(agent, name="agent")
app.add_typer(alerts, name="alerts")
app.add_typer(catalogue, name="catalogue")
app.add_typer(cluster, name="cluster")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(retention, name="retention")
app.add_typer(products, name="products")
app.add_typer(store, name="store")


if __name__ == "__main__":
    app()
