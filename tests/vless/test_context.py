"""Contexts: who ends with whom, who is woken and in which order, and what that costs."""

from __future__ import annotations

import asyncio
import logging
import weakref
from random import Random
from typing import TYPE_CHECKING

import pytest

from muxleak import VirtualLoop
from muxleak_vless.context import Context
from muxleak_vless.errors import Cancelled, ServerStopped

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 10_000


@pytest.fixture
def root() -> Context:
    """A context that can be cancelled."""
    return Context.background().child("root")


def test_context_ends_with_parent(root: Context) -> None:
    """Children and grandchildren end with the cause of the context above them."""
    child = root.child("child")
    grandchild = child.child("grandchild")
    cause = ServerStopped("reload")

    root.cancel(cause)

    assert root.cause is child.cause is grandchild.cause is cause
    assert grandchild.cancelled


def test_context_end_leaves_parent_alone(root: Context) -> None:
    """A child ends alone: neither its parent nor its sibling does."""
    child, sibling = root.child("child"), root.child("sibling")

    child.cancel()

    assert child.cancelled
    assert not root.cancelled
    assert not sibling.cancelled


def test_context_first_cause_stays(root: Context) -> None:
    """Only the first cancel counts, also where the second comes from above."""
    child = root.child("child")
    first = ServerStopped("first")
    child.cancel(first)

    child.cancel(ServerStopped("second"))
    root.cancel(ServerStopped("third"))

    assert child.cause is first


def test_context_default_cause_names_it(root: Context) -> None:
    """A cancel without a reason gives a cause that says which context it was."""
    root.cancel()

    assert isinstance(root.cause, Cancelled)
    assert str(root.cause) == "context 'root' cancelled"


def test_context_child_of_ended_has_ended(root: Context) -> None:
    """A context made under one that has ended begins ended, and is not registered."""
    root.cancel()

    child = root.child("late")

    assert child.cause is root.cause
    assert not root._registered


def test_context_background_never_ends() -> None:
    """The background refuses a cancel and registers nothing, since it never wakes anybody."""
    background = Context.background()
    child = background.child("child")
    undo = background.on_cancel(lambda _: pytest.fail("called"))

    with pytest.raises(RuntimeError, match="cannot be cancelled"):
        background.cancel()

    undo()
    assert not background.cancellable
    assert child.cancellable
    assert not background._registered


def test_context_wait_on_background_can_be_cancelled(loop: VirtualLoop) -> None:
    """Waiting for the background never returns, but ends when it is cancelled."""
    task = loop.create_task(Context.background().wait())
    loop.run_until_quiescent()
    assert not task.done()

    task.cancel()
    loop.run_until_quiescent()

    assert task.cancelled()


def test_context_wait_returns_cause(root: Context, loop: VirtualLoop) -> None:
    """Waiting returns the cause, at once when the context has ended before."""
    early = loop.create_task(root.wait())
    loop.run_until_quiescent()
    assert not early.done()
    cause = ServerStopped("stop")

    root.cancel(cause)
    loop.run_until_quiescent()
    late = loop.create_task(root.wait())
    loop.turn()

    assert early.result() is late.result() is cause


def test_context_wakes_in_order_of_registration(root: Context) -> None:
    """Callbacks, children and what hangs on them are woken first come, first served."""
    woken: list[str] = []
    root.on_cancel(lambda _: woken.append("first"))
    root.child("child").on_cancel(lambda _: woken.append("second"))
    root.on_cancel(lambda _: woken.append("third"))

    root.cancel()

    assert woken == ["first", "second", "third"]


def test_context_on_cancel_of_ended_calls_at_once(root: Context) -> None:
    """Who registers with a context that has ended is called before the registration returns."""
    root.cancel()
    seen: list[BaseException] = []

    root.on_cancel(seen.append)()

    assert seen == [root.cause]


def test_context_undo_forgets_the_callback(root: Context) -> None:
    """A callback that was undone is not called; undoing twice is harmless."""
    seen: list[BaseException] = []
    undo = root.on_cancel(seen.append)

    undo()
    undo()
    root.cancel()

    assert not seen


def test_context_removal_during_cancel(root: Context) -> None:
    """What a woken callback removes is not called any more, and the rest is."""
    seen: list[str] = []
    undo: list[Callable[[], None]] = []

    def undo_all(_cause: BaseException) -> None:
        for each in undo:
            each()

    root.on_cancel(undo_all)
    undo.append(root.on_cancel(lambda _: seen.append("removed")))
    child = root.child("child")
    child.on_cancel(lambda _: seen.append("child"))
    root.on_cancel(lambda _: child.cancel(ServerStopped("too late")))

    root.cancel()

    assert seen == ["child"]
    assert child.cause is root.cause


def test_context_callback_that_raises_keeps_no_other_waiting(
    root: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is called, and the error is logged."""
    called: list[str] = []
    logged: list[str] = []
    logger = logging.getLogger("muxleak_vless")
    monkeypatch.setattr(logger, "exception", lambda text, *args: logged.append(text % args))

    def fail(_cause: BaseException) -> None:
        raise OSError("no descriptor left")

    context = root.child("server")
    context.on_cancel(fail)
    context.child("connection").on_cancel(lambda _cause: called.append("child"))
    context.on_cancel(lambda _cause: called.append("later"))
    context.cancel()

    assert called == ["child", "later"]
    assert logged == [f"a callback of {context!r} raised"]


def test_context_registration_during_cancel(root: Context) -> None:
    """Who registers from within a callback is called at once: the context has ended by then."""
    seen: list[str] = []

    def register(_cause: BaseException) -> None:
        root.on_cancel(lambda _: seen.append("inner"))

    root.on_cancel(register)
    root.cancel()

    assert seen == ["inner"]
    assert not root._registered


def test_context_cancelled_wait_is_forgotten(root: Context, loop: VirtualLoop) -> None:
    """A wait that was cancelled leaves no trace in the context."""
    task = loop.create_task(root.wait())
    loop.run_until_quiescent()
    assert len(root._registered) == 1

    task.cancel()
    loop.run_until_quiescent()

    assert task.cancelled()
    assert not root._registered


def test_context_wait_cancelled_after_wake_up(root: Context, loop: VirtualLoop) -> None:
    """A wait that is woken and cancelled in the same instant ends cancelled, and quietly."""
    task = loop.create_task(root.wait())
    loop.run_until_quiescent()

    root.cancel()
    task.cancel()
    loop.run_until_quiescent()

    assert task.cancelled()


def test_context_cancel_survives_cancelled_wait(root: Context, loop: VirtualLoop) -> None:
    """A wait that is being cancelled when the context ends is not woken a second time."""
    task, other = loop.create_task(root.wait()), loop.create_task(root.wait())
    loop.run_until_quiescent()

    task.cancel()
    root.cancel()
    loop.run_until_quiescent()

    assert task.cancelled()
    assert other.result() is root.cause


def test_context_ended_child_is_freed(root: Context) -> None:
    """A parent holds a child only while it lives: a long-lived server does not grow."""
    child = root.child("child")
    seen = weakref.ref(child)

    child.cancel()
    del child

    assert seen() is None
    assert not root._registered


def test_context_repr_has_no_address(root: Context) -> None:
    """Reports must not differ between runs, so the text holds a name and a state only."""
    live = repr(root)
    root.cancel()

    assert live == "<Context 'root' live>"
    assert repr(root) == "<Context 'root' ended: context 'root' cancelled>"


class CountedFuture(asyncio.Future[None]):
    """Counts comparisons: what a search through a queue of waiters is made of."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        CountedFuture.comparisons += 1
        return self is other

    __hash__ = asyncio.Future.__hash__


class CountingLoop(VirtualLoop):
    """Makes futures that count their comparisons."""

    def create_future(self) -> asyncio.Future[None]:
        """Make one."""
        return CountedFuture(loop=self)


@pytest.mark.parametrize("order", ["first first", "last first", "random"])
def test_context_many_waiters_cost_no_search(order: str, root: Context) -> None:
    """10,000 waiters are cancelled in any order without comparing one to another."""
    with CountingLoop() as loop:
        tasks = [loop.create_task(root.wait()) for _ in range(MANY)]
        loop.run_until_quiescent()
        assert len(root._registered) == MANY
        if order == "last first":
            tasks.reverse()
        elif order == "random":
            Random(1).shuffle(tasks)
        CountedFuture.comparisons = 0

        for task in tasks:
            task.cancel()
        loop.run_until_quiescent()

        assert all(task.cancelled() for task in tasks)
        assert not root._registered
        assert CountedFuture.comparisons < MANY


def test_context_many_children_cost_no_search(root: Context) -> None:
    """10,000 children end one by one, last first, and the parent's table shrinks with each."""
    children = [root.child(str(number)) for number in range(MANY)]

    for left, child in reversed(list(enumerate(children))):
        child.cancel()
        if left % 1000 == 0:
            assert len(root._registered) == left

    root.cancel()
    assert len({id(child.cause) for child in children}) == MANY
