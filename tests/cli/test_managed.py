"""The platform's own backups: listed, watched, and restores in place; and logging in by a token."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import Workbench
from pgkeep.config import WatchConfig
from pgkeep.errors import ConfigurationError, PlatformRefused, PlatformUnreachable
from pgkeep.keeper.facts import DatabaseFacts, PlatformFact, parse_platform
from pgkeep.keeper.watch import Watched, find_alerts
from pgkeep.platforms import login
from pgkeep.platforms.management import Management
from pgkeep.postgres.address import Address
from pgkeep.recovery import in_place
from second_factors import Person
from supabase_api import REF, TOKEN, Api, supabase_api
from supabase_server import ProjectServer

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def api() -> Iterator[Api]:
    with supabase_api() as api:
        api.earliest = int((NOW - timedelta(days=7)).timestamp())
        api.latest = int((NOW - timedelta(minutes=2)).timestamp())
        api.backup(1, NOW - timedelta(hours=5))
        yield api


@pytest.fixture
def bench(workbench: Workbench, api: Api, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    monkeypatch.setattr(in_place, "_POLL_SECONDS", 0.01)
    monkeypatch.setenv("SUPABASE_TOKEN", TOKEN)
    workbench.init("postgresql://postgres@127.0.0.1:1/postgres")
    workbench.config.write_text(
        workbench.config.read_text()
        + f'\n[databases.shop.supabase]\ntoken = {{ env = "SUPABASE_TOKEN" }}\nproject = "{REF}"\n'
        f'api = "{api.url}"\n'
    )
    return workbench


def management(api: Api, token: str = TOKEN, pauses: list[float] | None = None) -> Management:
    pauses = [] if pauses is None else pauses
    return Management(token, api=api.url, sleep=pauses.append)


def test_a_platforms_backups_are_listed(bench: Workbench, api: Api) -> None:
    api.backup(2, NOW - timedelta(hours=29), "FAILED")
    api.points.append({"name": "before", "status": "AVAILABLE", "completed_on": None})
    document = bench.pgkeep("list", "shop", "--platform", "--json").document
    assert isinstance(document, dict)
    assert [one["id"] for one in document["backups"]] == [1, 2]
    assert document["pitr"] is True
    out = bench.pgkeep("list", "shop", "--platform").out
    assert "every second" in out
    assert "failed" in out
    assert "restore point before" in out
    assert TOKEN not in out


def test_a_restore_in_place_needs_a_second_factor_where_one_is_enrolled(
    bench: Workbench, api: Api
) -> None:
    person = Person(bench)
    person.enroll_app()
    moment = (NOW - timedelta(hours=1)).isoformat()
    arguments = ("recover", "shop", "--managed", "--to", moment, "--yes-take-it-offline")
    outcome = person.run(*arguments, expect=1)
    assert "[E090] recover in place of 'shop' needs a second factor" in outcome.err
    assert api.posted == []
    person.run(*arguments, code=person.code())
    assert len(api.posted) == 1


def test_without_a_token_it_is_told_how_to_give_one(workbench: Workbench) -> None:
    workbench.init("postgresql://postgres@127.0.0.1:1/postgres")
    outcome = workbench.pgkeep("list", "shop", "--platform", expect=2)
    assert "has no token for its platform" in outcome.err
    assert "whose?" in workbench.pgkeep("list", "--platform", expect=2).err


def test_a_refused_token_is_not_tried_again(bench: Workbench, api: Api) -> None:
    bench.monkeypatch.setenv("SUPABASE_TOKEN", "sbp_wrong")
    outcome = bench.pgkeep("list", "shop", "--platform", expect=1)
    assert "[E085] Supabase answers 401" in outcome.err
    assert "sbp_wrong" not in outcome.err
    assert len(api.requests) == 1


def test_what_may_be_asked_again_waits_as_long_as_it_is_told(api: Api) -> None:
    pauses: list[float] = []
    api.answers = [(429, {"x-ratelimit-reset": "17"}, {"message": "slow down"}), (503, {}, None)]
    assert management(api, pauses=pauses).project(REF).is_ready
    assert pauses == [17, 2]
    api.answers = [(500, {}, None)] * 9
    with pytest.raises(PlatformUnreachable, match="answers 500"):
        management(api).project(REF)


def test_a_post_is_sent_once(api: Api) -> None:
    api.answers = [(500, {}, None)]
    with pytest.raises(PlatformUnreachable):
        management(api).restore_backup(REF, 1)
    assert len(api.posted) == 1


@pytest.mark.parametrize(
    ("code", "hint"),
    [(402, "plan does not include"), (403, "may not do this"), (404, "reference right")],
)
def test_each_refusal_has_its_remedy(api: Api, code: int, hint: str) -> None:
    api.answers = [(code, {}, {"message": "no"})]
    with pytest.raises(PlatformRefused, match=f"answers {code} .*: no") as caught:
        management(api).project(REF)
    assert hint in caught.value.hint


def test_a_token_goes_nowhere_unencrypted() -> None:
    with pytest.raises(PlatformRefused, match="would go there readable"):
        Management(TOKEN, api="http://api.example.com")


def recover(bench: Workbench, *options: str, expect: int = 0) -> Any:
    return bench.pgkeep("recover", "shop", "--managed", *options, expect=expect)


def test_a_dry_run_says_that_it_is_in_place_and_offline(bench: Workbench, api: Api) -> None:
    moment = (NOW - timedelta(hours=1)).isoformat()
    out = recover(bench, "--to", moment, "--dry-run").out
    assert "IN PLACE" in out
    assert "the project goes offline" in out
    assert "drops its replication slot 'pgkeep_shop'" in out
    assert api.posted == []


def test_a_script_must_say_that_it_may_take_it_offline(bench: Workbench, api: Api) -> None:
    outcome = recover(bench, "--platform-backup", "1", expect=2)
    assert "--yes-take-it-offline" in outcome.err
    assert api.posted == []


def test_the_platform_restores_with_our_slot_out_of_the_way(
    bench: Workbench, api: Api, sample_project: ProjectServer
) -> None:
    bench.monkeypatch.setenv("SHOP_DATABASE_URL", sample_project.url)
    bench.pgkeep("capture", "shop", "--once", "--yes", expect=None)
    slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pgkeep_shop'"
    assert sample_project.value(slots) == 1
    seen: list[object] = []
    api.on_restore = lambda: seen.append(sample_project.value(slots))
    moment = NOW - timedelta(hours=1)
    outcome = recover(bench, "--to", moment.isoformat(), "--yes-take-it-offline")
    assert seen == [0], "the slot was dropped before"
    path, body = api.posted[0]
    assert path.endswith("/restore-pitr")
    assert body == {"recovery_time_target_unix": int(moment.timestamp())}
    assert "restored in place to" in outcome.out
    assert "pgkeep backup shop --read-all" in outcome.out
    assert not list((bench.state / "recoveries").glob("*.managed.json"))
    text = (bench.state / "ledger.jsonl").read_text()
    assert '"what":"recover"' in text
    bench.pgkeep("capture", "shop", "--once", "--yes", expect=None)
    assert sample_project.value(slots) == 1, "capture begins anew"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--to", "2020-01-01 00:00:00+00:00"), "goes back to"),
        (("--to", "2099-01-01 00:00:00+00:00"), "has nothing after"),
        (("--restore-point", "none"), "has no restore point 'none'"),
        (("--platform-backup", "9"), "has no whole backup 9"),
        ((), "to where?"),
        (("--to", "0/123", "--dry-run"), "to times alone"),
    ],
)
def test_what_the_platform_could_not_do_is_refused_before(
    bench: Workbench, api: Api, options: tuple[str, ...], said: str
) -> None:
    assert said in recover(bench, *options, expect=2).err
    assert api.posted == []


def test_without_point_in_time_recovery_it_says_so(bench: Workbench, api: Api) -> None:
    api.pitr = False
    outcome = recover(bench, "--to", NOW.isoformat(), expect=1)
    assert "[E085] point-in-time recovery is not enabled" in outcome.err


def test_a_restore_that_was_cut_off_is_waited_for_and_not_asked_for_twice(
    bench: Workbench, api: Api
) -> None:
    path = bench.state / "recoveries" / "shop.managed.json"
    wish = in_place.Wish(NOW - timedelta(hours=1))
    in_place.save(path, in_place.Progress(REF, wish, NOW, in_place.Step.DETACHED))
    api.restoring = 6  # it was asked, and the answer was lost
    outcome = recover(bench, "--platform-backup", "1", "--yes-take-it-offline")
    assert "it goes on" in outcome.err
    assert api.posted == []
    assert not path.exists()


def test_a_restore_that_fails_is_told(bench: Workbench, api: Api) -> None:
    def fail() -> None:
        api.status = "RESTORE_FAILED"

    api.on_restore = fail
    outcome = recover(bench, "--platform-backup", "1", "--yes-take-it-offline", expect=1)
    assert "[E087] the project is RESTORE_FAILED" in outcome.err


def test_a_restore_point_is_made(bench: Workbench, api: Api) -> None:
    bench.pgkeep("recover", "shop", "--make-restore-point", "before-upgrade")
    assert api.posted[0][1] == {"name": "before-upgrade"}
    outcome = bench.pgkeep("recover", "shop", "--make-restore-point", "x" * 21, expect=2)
    assert "1 to 20 characters" in outcome.err


def alerts(fact: PlatformFact | None) -> set[str]:
    watched = Watched(NOW, NOW, WatchConfig(), (DatabaseFacts("shop", platform=fact),))
    return {one.key for one in find_alerts(watched) if "platform" in one.key}


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (None, set()),
        (PlatformFact(True, NOW - timedelta(hours=24), None), set()),
        (PlatformFact(False, NOW - timedelta(hours=26), None), {"shop/platform-old"}),
        (PlatformFact(False, None, None), {"shop/platform-missing"}),
        (PlatformFact(False, NOW, NOW), {"shop/platform-failed"}),
        (PlatformFact(False, None, None, "E086"), {"shop/platform-blind"}),
    ],
)
def test_the_platforms_backups_are_watched(fact: PlatformFact | None, expected: set[str]) -> None:
    assert alerts(fact) == expected


def test_the_watch_reads_what_the_list_says(bench: Workbench, api: Api) -> None:
    api.latest = api.earliest = None
    api.backup(3, NOW - timedelta(hours=1), "FAILED")
    document = bench.pgkeep("list", "shop", "--platform", "--json").document
    assert isinstance(document, dict)
    fact = parse_platform(document)
    assert fact == PlatformFact(True, NOW - timedelta(hours=5), NOW - timedelta(hours=1))


# --- by a token alone -------------------------------------------------------------------------


def test_a_token_alone_is_enough_to_back_up_and_restore(
    bench: Workbench,
    api: Api,
    sample_project: ProjectServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    sample_project.run_as_admin(
        "CREATE ROLE cli_login_x LOGIN PASSWORD 'for-a-while';"
        "GRANT postgres TO cli_login_x WITH INHERIT FALSE, SET TRUE"
    )
    api.login = {"role": "cli_login_x", "password": "for-a-while", "ttl_seconds": 300}
    api.pooler = {"database_type": "PRIMARY", "db_host": "127.0.0.1", "db_port": 6543,
                  "db_user": f"postgres.{REF}", "db_name": "postgres"}  # fmt: skip
    monkeypatch.setattr("pgkeep.cli.context._LOGINS", login.TokenLogins())
    real = Address.parse

    def at_the_proxy(url: str) -> Address:
        """The pooler is our proxy here: another port, and no project behind the user's name."""
        text = url.replace(f".{REF}:", ":").replace("127.0.0.1:5432", f"127.0.0.1:{proxy}")
        return real(f"{text}?sslmode=disable" if text != url else url)

    proxy = sample_project.proxy.port
    monkeypatch.setattr(Address, "parse", at_the_proxy)
    bench.monkeypatch.setenv("SHOP_DATABASE_URL", f"supabase://{REF}")
    bench.pgkeep("backup", "shop")
    document = bench.pgkeep("show", "shop", "--json").document
    assert isinstance(document, dict)
    tables = {f"{one['schema']}.{one['table']}": one["rows"] for one in document["tables"]}
    assert tables["auth.users"] == 50
    assert document["hosting"]["secrets"] == 2
    assert api.posted == [(f"/v1/projects/{REF}/cli/login-role", {"read_only": False})]
    for file in bench.folder.rglob("*"):
        assert not file.is_file() or b"for-a-while" not in file.read_bytes()


def test_a_login_is_made_anew_shortly_before_it_ends(api: Api) -> None:
    api.login = {"role": "r", "password": "p", "ttl_seconds": 300}
    time = [0.0]
    logins = login.TokenLogins(lambda: time[0])
    for at in (0, 200, 239, 241):
        time[0] = at
        address = logins.address(f"supabase://{REF}?direct", management(api))
        assert address.becomes == "postgres"
        assert address.host == f"db.{REF}.supabase.co"
    assert len(api.posted) == 2
    with pytest.raises(ConfigurationError, match="is not an address"):
        logins.address("supabase://a/b", management(api))
