"""Which days are requested: what becomes of fluxes that are scaled while the light curves of their day are made."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.definitions.selector import PartitionRangeSelector, PartitionsByAssetSelector, PartitionsSelector
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from contimg_assets.definitions import defs
from contimg_sensors.automation import DAY_GROUPS

DAY, LIGHT_CURVES = "2026-01-25", dg.AssetKey("light_curves")
FIRST, SECOND = "2026-01-25T22:00", "2026-01-25T22:05"
OF_A_BACKFILL = {"dagster/backfill": "abcdefgh"}


@dg.op(config_schema={"asset": str, "partition": str})
def report(context: dg.OpExecutionContext) -> None:
    """Say that a partition was made."""
    context.log_event(dg.AssetMaterialization(context.op_config["asset"], partition=context.op_config["partition"]))


@dg.job
def making() -> None:
    """A run that makes something."""
    report()


class Ticks:
    """Ticks of the automation sensor over one instance, and what happens between them."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._cursor = None
        assert not self.requests_light_curves()

    def requests_light_curves(self) -> bool:
        """One tick; whether it requests the light curves of the day."""
        chosen = dg.AssetSelection.groups(*DAY_GROUPS)
        told = dg.evaluate_automation_conditions(defs, self._instance, asset_selection=chosen, cursor=self._cursor)
        self._cursor = told.cursor
        return told.get_requested_partitions(LIGHT_CURVES) == {DAY}

    def make(self, asset: str, partition: str, tags: dict[str, str] | None = None) -> None:
        """A run makes a partition of an asset."""
        config = {"ops": {"report": {"config": {"asset": asset, "partition": partition}}}}
        assert making.execute_in_process(run_config=config, instance=self._instance, tags=tags).success

    @contextmanager
    def backfill(self, asset: str, partition: str) -> Iterator[None]:
        """A backfill of one partition is under way."""
        chosen = PartitionsSelector(ranges=[PartitionRangeSelector(start=partition, end=partition)])
        backfill = PartitionBackfill.from_partitions_by_assets(
            backfill_id=OF_A_BACKFILL["dagster/backfill"],
            asset_graph=defs.resolve_asset_graph(),
            backfill_timestamp=datetime.now(UTC).timestamp(),
            tags={},
            dynamic_partitions_store=self._instance,
            partitions_by_assets=[PartitionsByAssetSelector(asset_key=dg.AssetKey(asset), partitions=chosen)],
            title=None,
            description=None,
            run_config=None,
        )
        self._instance.add_backfill(backfill)
        yield
        self._instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))


@pytest.fixture
def ticks() -> Iterator[Ticks]:
    """Ticks over an instance that knows two observations of a day; the first tick has been."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticks(instance)


def test_a_day_is_requested_once_for_what_it_holds(ticks: Ticks) -> None:
    """Scaled fluxes request their day once, and the light curves made of them request nothing."""
    ticks.make("flux_scale", FIRST)
    assert ticks.requests_light_curves()
    assert not ticks.requests_light_curves()
    ticks.make("light_curves", DAY)
    assert not ticks.requests_light_curves()
    assert not ticks.requests_light_curves()


def test_fluxes_scaled_before_the_run_began_request_the_day_again(ticks: Ticks) -> None:
    """Between the tick that requests a day and the next one, another observation is scaled."""
    ticks.make("flux_scale", FIRST)
    assert ticks.requests_light_curves()
    ticks.make("flux_scale", SECOND)
    assert ticks.requests_light_curves()
    assert not ticks.requests_light_curves()


def test_fluxes_scaled_while_light_curves_are_made_request_the_day_again(ticks: Ticks) -> None:
    """The light curves of a day appear between the same two ticks as fluxes that they do not hold."""
    ticks.make("flux_scale", FIRST)
    assert ticks.requests_light_curves()
    assert not ticks.requests_light_curves()
    ticks.make("flux_scale", SECOND)
    ticks.make("light_curves", DAY)
    assert ticks.requests_light_curves()
    ticks.make("light_curves", DAY)
    assert not ticks.requests_light_curves()


def test_a_backfill_is_not_made_a_second_time(ticks: Ticks) -> None:
    """A backfill of an observation and its day leaves nothing to be requested."""
    with ticks.backfill("flux_scale", FIRST):
        ticks.make("flux_scale", FIRST, OF_A_BACKFILL)
        assert not ticks.requests_light_curves()
        ticks.make("light_curves", DAY, OF_A_BACKFILL)
        assert not ticks.requests_light_curves()
    assert not ticks.requests_light_curves()


def test_a_backfill_of_observations_alone_requests_their_day(ticks: Ticks) -> None:
    """When the backfill has ended, the day follows."""
    with ticks.backfill("flux_scale", FIRST):
        ticks.make("flux_scale", FIRST, OF_A_BACKFILL)
        assert not ticks.requests_light_curves()
    assert ticks.requests_light_curves()
