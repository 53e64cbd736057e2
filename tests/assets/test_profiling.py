"""Flame graphs of stages: written and linked when asked for, also of a stage that fails; nothing otherwise."""

import json

import dagster as dg
import pytest

from contimg_assets.failures import dagster_failures
from contimg_resources.configurable import Observatory
from contimg_resources.products import Products

PARTITION = "2026-01-25T22:25"


@dg.asset(
    partitions_def=dg.StaticPartitionsDefinition([PARTITION]),
    check_specs=[dg.AssetCheckSpec("is_good", asset="gain_table")],
)
def gain_table(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """A stage that computes for a moment."""
    with dagster_failures(context, observatory.store):
        total = sum(k * k for k in range(300_000))
        if context.run.tags.get("fails"):
            raise OSError(total)
    return dg.MaterializeResult(metadata={"total": total}, check_results=[dg.AssetCheckResult(passed=True)])


def materialize(**tags):
    """One run of the stage; its materialization, None when it failed."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [gain_table],
            partition_key=PARTITION,
            instance=instance,
            resources={"observatory": Observatory()},
            tags=tags,
            raise_on_error=False,
        )
        made = result.asset_materializations_for_node("gain_table")
        return made[0] if made else None


def test_a_named_stage_leaves_its_flame_graph(settings, monkeypatch):
    """HTML and speedscope beside the product, both named in the metadata next to the asset's own."""
    monkeypatch.setenv("CONTIMG_PROFILE_STAGES", "continuum_image, gain_table")
    made = materialize()
    page = Products(settings.data).document("gain_table", PARTITION, ".profile.html")
    assert made.metadata["profile"].value == str(page)
    assert made.metadata["total"].value == sum(k * k for k in range(300_000))
    assert "gain_table" in page.read_text()
    assert "https://" not in page.read_text().split("<script")[0]
    graph = json.loads(page.with_name(page.name.replace(".profile.html", ".speedscope.json")).read_text())
    assert graph["shared"]["frames"]


def test_a_stage_that_fails_leaves_its_flame_graph(settings, monkeypatch):
    """What it did until then is what one wants to see."""
    monkeypatch.setenv("CONTIMG_PROFILE_STAGES", "gain_table")
    assert materialize(fails="yes") is None
    assert Products(settings.data).document("gain_table", PARTITION, ".profile.html").exists()


@pytest.mark.parametrize("stages", ["", "continuum_image"])
def test_other_stages_are_left_alone(settings, monkeypatch, stages):
    """No file, no metadata."""
    monkeypatch.setenv("CONTIMG_PROFILE_STAGES", stages)
    assert "profile" not in materialize().metadata
    assert not list(settings.data.rglob("*.profile.html"))
