"""An approval is good for one action, once, and not for long."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_keys import HardwareKey
from pgkeep.errors import ApprovalInvalid
from pgkeep.repository.approvals import LASTS, Action, Challenge, Challenges
from pgkeep.repository.factors import Factor, FactorKind
from pgkeep.testing import FakeClock
from racing import TRIES, race, use_approval

EXPORT = Action("export", "shop", (("backup", "20260115T060000Z-00000000"), ("output", "/a.sql")))
OTHERS = [
    Action("restore", "shop", EXPORT.about),
    Action("export", "shop2", EXPORT.about),
    Action("export", "shop", EXPORT.about[:1]),
    Action("export", "shop", (*EXPORT.about, ("schema only", "yes"))),
    Action("export", "shop", (EXPORT.about[0], ("output", "/b.sql"))),
    Action("export", "shop", EXPORT.about[::-1]),
    Action("export"),
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def challenges(tmp_path: Path) -> Challenges:
    return Challenges(tmp_path / "challenges")


def factor_of(device: HardwareKey, *, must_verify: bool = False) -> Factor:
    return Factor("k" * 16, "token", FactorKind.SSH, FakeClock()(), "host", key=device.line,
                  must_verify=must_verify)  # fmt: skip


def signed(challenges: Challenges, challenge: Challenge, device: HardwareKey) -> bytes:
    return device.sign(challenges.path(challenge).read_bytes())


def refused(
    challenges: Challenges, action: Action, signature: bytes, device: HardwareKey, clock: FakeClock
) -> str:
    with pytest.raises(ApprovalInvalid) as caught:
        challenges.check(action, signature, [factor_of(device)], clock())
    return caught.value.message


def test_a_signature_over_the_challenge_approves_the_action(
    challenges: Challenges, clock: FakeClock
) -> None:
    device = HardwareKey.ecdsa()
    challenge = challenges.ask(EXPORT, "host", clock())
    signature = signed(challenges, challenge, device)
    approved = challenges.check(EXPORT, signature, [factor_of(device)], clock())
    assert (approved.factor.name, approved.counter) == ("token", 1)
    challenges.use(approved)
    assert refused(challenges, EXPORT, signature, device, clock).endswith("was used already")
    with pytest.raises(ApprovalInvalid, match="used already"):
        challenges.use(approved)
    assert challenges.open(clock()) == ()


@pytest.mark.parametrize("other", OTHERS, ids=range(len(OTHERS)))
def test_no_other_action_is_approved_by_it(
    challenges: Challenges, clock: FakeClock, other: Action
) -> None:
    device = HardwareKey.ed25519()
    signature = signed(challenges, challenges.ask(EXPORT, "host", clock()), device)
    challenges.ask(other, "host", clock())
    message = refused(challenges, other, signature, device, clock)
    assert message.startswith("the approval is for another action")


def test_it_ends_and_is_not_good_before_it_began(challenges: Challenges, clock: FakeClock) -> None:
    device = HardwareKey.ed25519()
    signature = signed(challenges, challenges.ask(EXPORT, "host", clock()), device)
    clock.advance(LASTS)
    assert "was good until" in refused(challenges, EXPORT, signature, device, clock)
    clock.advance(-LASTS - timedelta(seconds=1))
    assert "was good until" in refused(challenges, EXPORT, signature, device, clock)
    clock.advance(timedelta(seconds=1))
    challenges.check(EXPORT, signature, [factor_of(device)], clock())


def test_what_is_asked_for_again_is_the_same_challenge_while_it_is_fresh(
    challenges: Challenges, clock: FakeClock
) -> None:
    first = challenges.ask(EXPORT, "host", clock())
    assert challenges.ask(EXPORT, "host", clock()) == first
    clock.advance(LASTS - timedelta(minutes=5))
    assert challenges.ask(EXPORT, "host", clock()) != first
    assert len(challenges.open(clock())) == 2
    challenges.path(first).with_suffix(".challenge.sig").write_text("a signature")
    clock.advance(timedelta(days=8))
    challenges.ask(EXPORT, "host", clock())
    folder = challenges.path(first).parent
    assert len(list(folder.iterdir())) == 2, "old ones are cleared away"


def test_a_challenge_that_was_rewritten_on_disk_is_not_approved(
    challenges: Challenges, clock: FakeClock
) -> None:
    """Whoever signed, signed the text; what is done is what the text says."""
    device = HardwareKey.ed25519()
    challenge = challenges.ask(EXPORT, "host", clock())
    signature = signed(challenges, challenge, device)
    path = challenges.path(challenge).with_suffix(".json")
    path.write_text(path.read_text().replace("/a.sql", "/b.sql"))
    message = refused(challenges, OTHERS[4], signature, device, clock)
    assert message.endswith("its text is no challenge of this host")
    path.write_text("nothing")
    refused(challenges, EXPORT, signature, device, clock)


def test_the_reason_is_told(challenges: Challenges, clock: FakeClock) -> None:
    device = HardwareKey.ed25519()
    challenge = challenges.ask(EXPORT, "host", clock())
    text = challenges.path(challenge).read_bytes()
    device.namespace = b"git"
    assert "another purpose" in refused(challenges, EXPORT, device.sign(text), device, clock)
    device.namespace, device.flags = b"pgkeep-approve", 0
    assert "nobody touched" in refused(challenges, EXPORT, device.sign(text), device, clock)
    stranger = HardwareKey.ed25519()
    with pytest.raises(ApprovalInvalid, match="not enrolled"):
        challenges.check(EXPORT, stranger.sign(text), [factor_of(device)], clock())
    assert "not a signature" in refused(challenges, EXPORT, b"\xff", device, clock)


def test_a_device_that_must_verify_its_owner(challenges: Challenges, clock: FakeClock) -> None:
    device = HardwareKey.ed25519()
    signature = signed(challenges, challenges.ask(EXPORT, "host", clock()), device)
    strict = factor_of(device, must_verify=True)
    with pytest.raises(ApprovalInvalid, match="did not verify its owner"):
        challenges.check(EXPORT, signature, [strict], clock())


@given(name=st.text(), database=st.text(), value=st.text())
def test_no_value_can_pass_for_another_line(name: str, database: str, value: str) -> None:
    action = Action(name, database, (("output", value),))
    lines = action.lines.splitlines()
    assert len(lines) == sum(map(bool, (name, database, value)))
    assert action.lines.isascii()
    assert all(line.isprintable() for line in lines)


def test_of_several_processes_with_the_same_approval_one_wins(
    challenges: Challenges, clock: FakeClock
) -> None:
    device = HardwareKey.ed25519()
    challenge = challenges.ask(EXPORT, "host", clock())
    signature = signed(challenges, challenge, device)
    approved = challenges.check(EXPORT, signature, [factor_of(device)], clock())
    folder = challenges.path(challenge).parent
    assert sorted(race(use_approval, folder, approved)) == [*[False] * (TRIES - 1), True]
