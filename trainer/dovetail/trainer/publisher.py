"""The publication of versions: to a directory, in full or as deltas, and to a topic; or a refusal, with reasons."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from dovetail.platform.errors import ModelError
from dovetail.platform.logs import Event
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Work
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.models.mirror import messages
from dovetail.trainer.models.publish import Delta, Model, delta_between
from dovetail.trainer.settings import Publication

__all__ = ["Publisher"]

_log = logging.getLogger(__name__)


class Publisher:
    """Publishes versions one after the other, as ``publication`` says.

    What was published before a crash is there already: whoever goes on from an earlier state passes over the versions
    up to :attr:`published`.
    """

    def __init__(self, publication: Publication) -> None:
        self._publication = publication
        self._models = publication.directory
        self.restore()

    def restore(self) -> None:
        """Go on from what the directory has, whoever published it."""
        #: The newest version that serving has.
        self.published = self._models.latest()
        # What serving has: a delta is the difference to it.
        self._base: Float32 | None = None
        if self._publication.full_every > 1 and self.published:
            try:
                self._base = self._models.load(self.published).dense()
            except ModelError as error:
                _log.warning("the next version is published in full: %s", error)

    async def offer(
        self, version: int, make: Callable[[], Model], reasons: Sequence[str], evaluated: Callable[[], None]
    ) -> AsyncIterator[Work]:
        """The works that publish the model that ``make`` gives as ``version``, or refuse it for ``reasons``.

        ``evaluated`` is called in the thread of the commit, before either.
        """
        if reasons:
            _log.warning("%s: version %d is not published: %s", self._models.path, version, "; ".join(reasons))
            yield Work(commit=partial(self._refuse, version, reasons, evaluated))
            return
        model = await compute(make)
        publication: Model | Delta = model
        if self._base is not None and not self._is_full(version):
            publication = await compute(delta_between, self.published, self._base, model)
        yield Work(commit=partial(self._publish, version, model, publication, evaluated))
        if self._publication.topic is not None:
            # After the directory: a delta on the topic is always one to what the directory has. A crash in between
            # leaves a gap on the topic, which its readers reject until the next full model.
            content = await compute(publication.content, version)
            limit = self._publication.max_message_bytes
            yield Work(outgoing=messages(self._publication.topic, version, content, limit=limit))

    def _is_full(self, version: int) -> bool:
        """Whether it is the turn of a full model: by number, or, where samples are the numbers, by the deltas since."""
        if self._publication.delay_us is None:
            return version % self._publication.full_every == 0
        last = max(self._models.fulls(), default=0)
        return sum(number > last for number in self._models.deltas()) + 1 >= self._publication.full_every

    def _publish(self, version: int, model: Model, publication: Model | Delta, evaluated: Callable[[], None]) -> None:
        evaluated()
        if isinstance(publication, Delta):
            self._models.publish_delta(version, publication)
        else:
            self._models.publish(version, publication)
        self.published = version
        self._base = model.dense() if self._publication.full_every > 1 else None
        kind = "delta" if isinstance(publication, Delta) else "full"
        sizes = {"trained": model.trained, "weights": len(publication.slots)}
        _log.info(Event("model published", model=self._models.path.name, version=version, kind=kind, **sizes))

    def _refuse(self, version: int, reasons: Sequence[str], evaluated: Callable[[], None]) -> None:
        evaluated()
        self._models.refuse(version, reasons)
