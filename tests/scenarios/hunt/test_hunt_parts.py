"""Tests of the parts of a hunt: profiles, slopes, patterns, shrinking, findings and samples."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from random import Random

import pytest

from muxleak_scenarios.hunt import findings, pattern
from muxleak_scenarios.hunt.batch import Spending
from muxleak_scenarios.hunt.destinations import KINDS
from muxleak_scenarios.hunt.findings import HuntOutcome, Known
from muxleak_scenarios.hunt.hunt import HuntBudget
from muxleak_scenarios.hunt.measure import RepetitionGrowth, Samples, slopes
from muxleak_scenarios.hunt.peers import encode
from muxleak_scenarios.hunt.random_sequences import draw, hosted
from muxleak_scenarios.hunt.shrink import shrink
from muxleak_scenarios.hunt.stacks import Stack, StackParser, parse_stacks, readable
from muxleak_scenarios.sequence.shrinking import is_connected
from muxleak_scenarios.sequence.steps import (
    DATAGRAM_DESTINATIONS,
    MAX_SIZE,
    ON_STREAM,
    OPENING,
    Sequence,
)
from muxleak_vless import Address

GROUPED = """goroutine profile: total 5
3 @ 0x49384a 0x41c96e
#\t0x4d9706\tinternal/poll.(*pollDesc).wait+0x26\tinternal/poll/fd_poll_runtime.go:84
#\t0x162c4e4\tmain.run+0x384\t\t\tgithub.com/x/cmd_run.go:197

1 @ 0x49384a
# labels: {"a":"b"}
#\t0xc3fe30\truntime/pprof.writeGoroutine+0xb0\truntime/pprof/pprof.go:848

1 @ 0x49acc1

"""
SINGLE = """goroutine 7 [IO wait, 3 minutes]:
internal/poll.(*FD).Read(0xc000, {0x1, 0x2})
\t/go/src/fd.go:12 +0x1
main.run({0x1, 0x2}, 0x3)
\t/src/main.go:197 +0x384
created by main.start in goroutine 1
\t/src/main.go:10 +0x5

goroutine 9 [select]:
main.wait()
\t/src/main.go:20 +0x1
"""
POLL: Stack = ("io.Read", "main.serve")
PIPE: Stack = ("io.(*pipe).read", "main.copy")
FD: Stack = ("descriptors",)


def seq(line: str) -> Sequence:
    """Return the sequence of a line."""
    return Sequence.parse(line)


def leak(line: str, held: dict[Stack, int], kept: dict[Stack, int] | None = None) -> HuntOutcome:
    """Return a finding with this growth."""
    return HuntOutcome(
        sequence=seq(line), growth=RepetitionGrowth(Counter(held), Counter(kept or {}))
    )


def test_stacks_are_counted_without_the_goroutines_that_count() -> None:
    """Offsets and labels are removed, and goroutines that write the profile or have not run."""
    assert parse_stacks(GROUPED) == {("internal/poll.(*pollDesc).wait", "main.run"): 3}


def test_stacks_that_differ_in_offsets_only_are_one() -> None:
    """Two lines of one function, which the profile counts apart, are one stack."""
    blocks = "2 @ 0x1\n#\t0x1\tmain.run+0x1\tm.go:1\n\n3 @ 0x2\n#\t0x2\tmain.run+0x2\tm.go:2\n"

    assert parse_stacks(f"goroutine profile: total 5\n{blocks}") == {("main.run",): 5}


def test_stacks_of_single_goroutines_have_state_and_starter() -> None:
    """The second form has state and starter; the minutes of a state make no other stack."""
    assert parse_stacks(SINGLE) == {
        ("[IO wait]", "internal/poll.(*FD).Read", "main.run", "created by main.start"): 1,
        ("[select]", "main.wait"): 1,
    }


def test_stacks_of_tasks_have_no_addresses() -> None:
    """Tasks come in the first form, with empty addresses; an empty profile is a profile."""
    text = "goroutine profile: total 2\n2 @ 0x0\n#\tContext.wait context.py:9\n#\tserve s.py:1\n"

    assert parse_stacks(text) == {("Context.wait", "serve"): 2}
    assert parse_stacks("goroutine profile: total 0\n") == {}


@pytest.mark.parametrize(
    ("labels", "created"),
    [
        ('{"created_by":"s.py:7 in accept","task":"serve"}', ("created by s.py:7 in accept",)),
        ('{"task":"serve"}', ()),
        ('["created_by"]', ()),
        ("{", ()),
    ],
)
def test_stacks_of_tasks_have_their_starter_from_labels(
    labels: str, created: tuple[str, ...]
) -> None:
    """Tasks that wait at one place and were created at two differ; other labels are ignored."""
    text = f"goroutine profile: total 2\n2 @ 0x0\n# labels: {labels}\n#\t0x0\tserve+0x1\ts.py:1\n"

    assert parse_stacks(text) == {("serve", *created): 2}


@pytest.mark.parametrize(
    "text",
    [
        *(GROUPED, SINGLE, GROUPED.replace("goroutine p", "goroutineleak p")),
        # The number of a total is followed by other characters than the end of the line.
        "goroutine profile: total 2 2 @ 0x9\n2 @ 0x1\n#\t0x1\tmain.f+0x1\ts.go:1\n",
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10_000])
def test_stacks_are_the_same_from_pieces_of_any_size(text: str, size: int) -> None:
    """A profile that arrives in pieces is parsed as a whole one."""
    parser = StackParser()
    for at in range(0, len(text), size):
        parser.feed(text[at : at + size])

    assert parser.close() == parse_stacks(text)
    assert parser.start == text[:60]


@pytest.mark.parametrize(
    "name",
    [
        "net/http.(*connReader).backgroundRead",
        "github.com/metacubex/http.(*connReader).backgroundRead",
    ],
)
def test_stacks_leave_out_the_request_also_in_copies_of_net_http(name: str) -> None:
    """The goroutine that reads the request's connection is not the server's."""
    text = f"goroutine profile: total 2\n1 @ 0x1\n#\t0x1\t{name}+0x1\tx.go:1\n\n"
    text += "1 @ 0x2\n#\t0x2\tmain.run+0x1\tx.go:1\n"

    assert parse_stacks(text) == {("main.run",): 1}


@pytest.mark.parametrize(
    "head",
    [
        "goroutine 7 [chan receive]:",
        "goroutine 7 [chan receive, 2 minutes]:",
        "goroutine 7 [chan receive] {tenant: acme}:",
        "goroutine 7 [chan receive, 2 minutes] {tenant: a]c, x: y}:",
        'goroutine 7 [chan receive {"tenant": "a]c"}]:',
        'goroutine 7 [chan receive, 2 minutes, labels:{"tenant": "a]c"}]:',
    ],
)
def test_stacks_of_labelled_goroutines_are_those_of_others(head: str) -> None:
    """Labels stand in the brackets or behind them, by version, and hold any text."""
    text = f"{head}\nmain.run(0x1)\n\t/src/main.go:1 +0x1\n"

    assert parse_stacks(text) == {("[chan receive]", "main.run"): 1}


@pytest.mark.parametrize("text", ["", "<html>", "goroutine profile: total 9\n1 @ 0x1\n#\tf f.go:1"])
def test_stacks_refuse_what_is_no_profile(text: str) -> None:
    """Another text and a profile that was cut short are refused."""
    with pytest.raises(ValueError, match="expected"):
        parse_stacks(text)


def test_readable_stack_keeps_something() -> None:
    """Functions of the runtime are removed, unless the stack has no others."""
    assert readable(("[IO wait]", "internal/poll.Read", "main.f")) == ("[IO wait]", "main.f")
    assert readable(("[idle]", "runtime.gc")) == ("[idle]", "runtime.gc")


@pytest.mark.parametrize(
    ("counts", "slope", "exact"),
    [
        ((5, 9, 13, 21), 1, True),
        ((5, 13, 21, 37), 2, True),
        ((5, 5, 5, 5), 0, True),
        ((5, 9, 9, 17), 0, True),
        ((5, 8, 12, 21), 1, False),
        ((5, 7, 9, 13), 1, False),
        ((5, 6, 7, 8), 0, True),
    ],
)
def test_slopes_are_certain_where_every_batch_grows(
    counts: tuple[int, ...], slope: int, *, exact: bool
) -> None:
    """Growth is exact if all batches have one whole slope; a batch without growth means no leak."""
    points = [(done, Counter({POLL: n})) for done, n in zip((0, 4, 8, 16), counts, strict=True)]

    assert slopes(points) == (Counter({POLL: slope} if slope else {}), exact)


def test_pattern_is_found_on_one_connection_and_one_stream() -> None:
    """Other names and steps in between match; two streams or connections in place of one do not."""
    twice = seq("a:open a:new:1:@echo a:new:1:@echo a:close")

    found = pattern.find(
        twice, seq("b:open a:open b:new:7:@deaf+5 b:data:7+5 b:new:7:@flood b:abort")
    )
    assert found == (0, 2, 4, 5)
    opened_again = seq("a:open a:new:1:@echo a:new:1:@echo a:open a:close")
    assert pattern.find(twice, opened_again) == (0, 1, 2, pattern.UNSAID)
    assert pattern.find(twice, seq("a:open a:new:1:@echo a:new:2:@echo a:close")) is None
    assert pattern.find(twice, seq("a:open a:new:1:@echo a:open a:new:1:@echo a:close")) is None
    assert pattern.find(seq("a:open a:new:1:@deaf a:close"), twice) is None


def test_pattern_of_two_is_not_found_in_one() -> None:
    """Two streams of a pattern need two streams, and two connections need two connections."""
    streams = seq("a:open a:new:1:@echo a:new:2:@echo a:close")
    both = seq("a:open b:open a:new:1:@echo b:new:1:@echo a:close b:close")
    one = seq("a:open a:new:1:@echo a:new:1:@echo a:open a:close")

    assert pattern.find(streams, streams.canonical()) == (0, 1, 2, 3)
    assert pattern.find(streams, one) is None
    assert pattern.find(both, one) is None


def test_mask_leaves_out_the_step_that_completes_a_pattern() -> None:
    """Every occurrence is left out; a pattern of connections alone cannot be."""
    twice = seq("a:open a:new:1:@echo a:new:1:@echo a:close")
    thrice = seq("a:open a:new:3:@echo a:new:3:@deaf a:new:3:@echo a:end:3 a:close")

    assert str(pattern.mask(twice, thrice)) == "a:open a:new:3:@echo a:end:3 a:close"
    assert pattern.mask(seq("a:open a:close"), thrice) is None


def test_known_explains_sums_only() -> None:
    """A growth is explained if both counts are the same sum of known growths."""
    known = Known(
        [
            leak("a:open a:end:1 a:close", {POLL: 1, FD: 1}),
            leak("a:open a:new:1:@echo a:close", {POLL: 1, PIPE: 1, FD: 1}, {PIPE: 1, FD: 1}),
        ]
    )

    def grows(held: dict[Stack, int], kept: dict[Stack, int]) -> bool:
        return known.explains(RepetitionGrowth(Counter(held), Counter(kept)))

    assert grows({}, {})
    assert grows({POLL: 3, PIPE: 2, FD: 3}, {PIPE: 2, FD: 2})
    assert not grows({POLL: 3, PIPE: 2, FD: 3}, {PIPE: 1, FD: 2})
    assert not grows({POLL: 1}, {})
    assert not grows({("other",): 1}, {})


def test_known_takes_off_what_every_connection_leaves() -> None:
    """A leak of connections is subtracted; another that comes with it remains."""
    known = Known([leak("a:open a:close", {POLL: 1}, {POLL: 1})])
    line = seq("a:open b:open a:new:1:@echo a:close b:close")
    growth = RepetitionGrowth(Counter({POLL: 2, PIPE: 1}), Counter({POLL: 2}))

    assert known.mask(line) == line
    assert not known.shows(line)
    assert known.unexplained(line, growth)[:2] == (Counter({PIPE: 1}), Counter())


def test_known_shows_where_it_is_and_could_be_left_out() -> None:
    """A sequence that contains a known finding is not measured; one without it is."""
    known = Known([leak("a:open a:new:1:@echo a:close", {POLL: 1})])

    assert known.shows(seq("a:open a:new:7:@deaf a:close"))
    assert not known.shows(seq("a:open a:end:7 a:close"))


def test_findings_are_read_back() -> None:
    """A file of findings gives the next hunt its known leaks and deaths."""
    one = leak("a:open a:new:1:@echo a:new:1:@echo a:close", {POLL: 1, FD: 1}, {FD: 1})
    fatal = replace(leak("a:open a:close", {}), died="exited with status 2")
    read, died = findings.read(findings.write([one, fatal]))
    known = Known([read, died])

    assert (read.sequence, read.growth, read.died) == (one.sequence, one.growth, "")
    assert (died.sequence, died.growth.leaks) == (fatal.sequence, False)
    assert known.has_died("exited with status 2")
    assert not known.has_died("killed by SIGSEGV")


def test_finding_is_the_one_of_the_engine() -> None:
    """It has the steps in words, the line, and a hash that tells leaks of other stacks apart."""
    one = leak("a:open a:close", {POLL: 2}, {POLL: 1}).finding("127.0.0.1:1", 7, 140)
    same = leak("a:open b:open", {POLL: 1}, {POLL: 1}).finding("127.0.0.1:2")
    other = leak("a:open a:close", {PIPE: 1}).finding("127.0.0.1:1")
    late = replace(leak("a:open", {POLL: 1}), shrunk=False).finding("127.0.0.1:1")

    assert (one.subject, one.examples, one.connections) == ("127.0.0.1:1", 7, 140)
    assert one.steps[1] == "a:close  client a closes the connection"
    assert str(one).splitlines()[-1] == "found in run 7, replay with: a:open a:close"
    assert "each repetition leaves 2, and 1 after its destination has closed" in str(one)
    assert one.replay.signature == same.replay.signature != other.replay.signature
    assert (one.ended, late.ended) == ("", "time")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"muxleak_hunt": 9}', '{"muxleak_hunt": 1}'])
def test_findings_refuse_other_files(text: str) -> None:
    """Another version and other data are refused."""
    with pytest.raises(ValueError, match=r"expected a file that muxleak hunt|Expecting value"):
        findings.read(text)


def test_shrink_reaches_the_shortest() -> None:
    """Many steps become the four that matter, and no sequence is measured twice."""
    twice = seq("a:open a:new:1:@echo a:new:1:@echo a:close")
    drawn = (draw(Random(seed)) for seed in range(1000))
    start = next(each for each in drawn if len(each) > 20 and pattern.find(twice, each))
    measured: list[str] = []

    async def leaks(sequence: Sequence) -> bool:
        measured.append(str(sequence))
        return pattern.find(twice, sequence) is not None

    assert asyncio.run(shrink(start, leaks)) == twice
    assert len(measured) == len(set(measured)) < 40


def ends_silent(sequence: Sequence) -> bool:
    """Return True if a stream to a silent destination is ended by the client."""
    silent = set()
    for step in sequence:
        if step.what == "@silent":
            silent.add((step.connection, step.stream))
        if step.verb == "end" and (step.connection, step.stream) in silent:
            return True
    return False


def fills_deaf(sequence: Sequence) -> bool:
    """Return True if more is sent than a frame has, and a destination does not read."""
    is_deaf = any(step.what == "@deaf" for step in sequence)
    return is_deaf and sum(step.size for step in sequence) > MAX_SIZE


@pytest.mark.parametrize(
    ("leak", "most", "length"),
    [
        (lambda each: pattern.find(seq("a:open a:new:1:@echo a:close"), each) is not None, 130, 3),
        (ends_silent, 230, 4),
        (fills_deaf, 500, 7),
    ],
    ids=["stream", "silent", "deaf"],
)
def test_shrink_needs_few_measurements(
    leak: Callable[[Sequence], bool], most: int, length: int
) -> None:
    """Of ten random sequences together; each measurement at a real server takes seconds."""
    measured: list[Sequence] = []

    async def leaks(sequence: Sequence) -> bool:
        measured.append(sequence)
        return is_connected(sequence) and leak(sequence)

    drawn = (draw(Random(seed)) for seed in range(10_000))
    starts = islice((each for each in drawn if is_connected(each) and leak(each)), 10)
    shrunk = [asyncio.run(shrink(each, leaks)) for each in starts]

    assert len(measured) <= most
    assert max(map(len, shrunk)) <= length


def test_shrink_makes_one_step_of_two_that_open() -> None:
    """Connect and header become an open, if that leaks the same."""

    async def leaks(sequence: Sequence) -> bool:
        verbs = [step.verb for step in sequence]
        return verbs in (["connect", "header", "close"], ["open", "close"])

    found = asyncio.run(shrink(seq("a:connect a:header a:close"), leaks))
    assert str(found) == "a:open a:close"


def test_shrink_takes_data_away_wherever_there_is_some() -> None:
    """Every step with a size loses its data, but for the one that needs it."""
    start = seq("a:open a:udp:1:@echo+65535 a:xudp:2:@echo+9 a:packet:1+9 a:data:2+9 a:close")

    async def leaks(sequence: Sequence) -> bool:
        return len(sequence) == len(start) and sequence[1].size > 100

    found = asyncio.run(shrink(start, leaks))
    assert [step.size > 0 for step in found] == [False, True, False, False, False, False]
    assert 100 < found[1].size < 65535


def test_shrink_keeps_within_its_measurements() -> None:
    """Shrinking ends at its limit also when nothing shrinks."""
    measured = 0

    async def leaks(_sequence: Sequence) -> bool:
        nonlocal measured
        measured += 1
        return False

    start = draw(Random(3))
    assert asyncio.run(shrink(start, leaks, measurements=10)) == start
    assert measured == 10


def test_drawn_sequences_name_hosted_destinations_only() -> None:
    """There is no handler and no operator, and there are bytes enough to fill any buffer."""
    steps = [step for seed in range(50) for step in draw(Random(seed))]

    assert {step.what for step in steps if step.verb == "new"} == set(KINDS)
    assert {step.what for step in steps if step.verb == "udp"} == set(DATAGRAM_DESTINATIONS)
    assert {step.what for step in steps if step.verb == "xudp"} == set(DATAGRAM_DESTINATIONS)
    assert not {"cancel", "wait"} & {step.verb for step in steps}
    assert max(step.size for step in steps) == MAX_SIZE


@pytest.mark.parametrize(
    ("line", "there"),
    [
        ("a:new:1:echo", "a:new:1:@echo"),
        ("a:new:1:sink", "a:new:1:@silent"),
        ("a:new:1:linger", "a:new:1:@silent"),
        ("a:new:1:stubborn", "a:new:1:@deaf"),
        ("a:new:1:deaf", "a:new:1:@deaf"),
        ("a:new:1:return", "a:new:1:@close"),
        ("a:new:1:raise", "a:new:1:@reset"),
        ("a:new:1:flood+5", "a:new:1:@flood+5"),
        ("a:udp:1:echo+5", "a:udp:1:@echo+5"),
        ("a:udp:1:flood", "a:udp:1:@silent"),
        ("a:new:1:@refuse", "a:new:1:@refuse"),
        ("a:data:1+5", "a:data:1+5"),
    ],
)
def test_destination_stands_in_for_what_only_our_server_has(line: str, there: str) -> None:
    """The destination does the same to the session; a step without a handler does not change."""
    assert str(hosted(Sequence.parse(line)[0])) == there


def test_wait_is_twice_the_idle_limit() -> None:
    """A server that checks for idle streams once in each interval needs two intervals."""
    assert HuntBudget(patience=6.0, idle=5.0).wait == 11.0
    assert HuntBudget(patience=6.0, idle=1.0).wait == 6.0
    assert HuntBudget(patience=6.0).wait == 6.0


def test_drawn_steps_can_be_encoded() -> None:
    """UDP with and without data, malformed frames and frames of every size can be sent."""
    steps = [step for seed in range(200) for step in draw(Random(seed))]
    sent = {
        step.verb: encode(step, lambda *_: Address.of("127.0.0.1", 7))
        for step in steps
        if step.verb in {*ON_STREAM, *OPENING, "keepalive", "padding", "junk", "cut"}
    }

    assert {"udp", "xudp", "new", "packet", "junk", "cut"} <= sent.keys()
    assert all(sent.values())


@pytest.mark.parametrize(
    ("line", "held", "kept", "freed"),
    [
        ("a:open a:new:1:@echo", 1, 0, "the end of its destination, which is a peer that others"),
        ("a:open a:new:1:@echo", 2, 1, "in part the end of its destination; the rest nothing"),
        ("a:open a:new:1:@echo", 1, 1, "nothing within 5 s, with client and destination gone"),
        ("a:open a:new:1:@hang", 1, 1, "nothing within 5 s, with the client gone; a destination"),
    ],
)
def test_finding_says_what_frees_it(line: str, held: int, kept: int, freed: str) -> None:
    """The text names only what was tried: a destination that does not answer cannot be closed."""
    found = replace(leak(line, {PIPE: held}, {PIPE: kept}), seconds=5)

    assert found.freed.startswith(freed)


def samples(seen: str, patience: float) -> Samples:
    """Take one sample each second; a letter is a state of the server, a space is no sample."""
    found = Samples(patience)
    for at, state in enumerate(seen):
        if state != " ":
            found.add(at, Counter({(state,): 1}))
    return found


@pytest.mark.parametrize(
    ("seen", "still", "since"),
    [
        pytest.param("A" * 12, False, 0, id="not so long"),
        pytest.param("A" * 13, True, 0, id="so long"),
        pytest.param("A" * 50 + "B" * 12, False, 50, id="not so long since it changed"),
        pytest.param("A" * 50 + "B" * 13, True, 50, id="so long since it changed"),
        pytest.param("AAABAAAABAAAA", True, 0, id="moved by samples"),
        pytest.param("AAABAAAAAAAAB", False, 3, id="moved by the last sample, too"),
        pytest.param("AAABABAAABABA", False, 0, id="moves too often"),
        pytest.param("ABCDEFGHIJKLMN", False, 13, id="goes on"),
        pytest.param("B" + "A" * 15 + "B" * 12, False, 16, id="once before, long ago"),
        pytest.param("A" + " " * 12 + "A", True, 0, id="samples that take their time"),
        pytest.param("A" + " " * 12 + "B", False, 13, id="changed meanwhile"),
    ],
)
def test_counts_stand_still_if_most_samples_agree(seen: str, *, still: bool, since: int) -> None:
    """A server that is seen accepting a sample has not changed."""
    found = samples(seen, 12)

    assert (found.still, found.since) == (still, since)


def test_bandwidth_is_kept_over_time() -> None:
    """Each byte takes its time, and unused bandwidth is not saved up."""
    now = 0.0
    spending = Spending(100, clock=lambda: now)

    assert spending.delay(50) == 0.5
    assert spending.delay(50) == 1.0
    now = 10.0
    assert spending.delay(50) == 0.5
    assert spending.sent == 150
