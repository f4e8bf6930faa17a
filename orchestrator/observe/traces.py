"""OpenTelemetry traces, where they are asked for: an endpoint is set and the extra `otel` is there.

Off, a span costs one comparison and nothing is imported. All spans of a sweep, whichever process
makes them, share one trace, whose id is made of the sweep's: so a driver's spans are found from the
request that submitted it, and nothing needs to be handed on. A request has a trace of its own (its
caller's, with a `traceparent`), with a link to the sweep's.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from orchestrator.observe.context import current

log = logging.getLogger(__name__)

_OFF: AbstractContextManager[None] = nullcontext()
_tracer: Any = None
_provider: Any = None
_sweep: Any = None
"""The context under which a driver's spans stand."""


def set_up(process: str, endpoint: str | None, exporter: Any = None) -> bool:
    """Begin to make spans if there is where to send them; whether. Called once, at the entry.

    `exporter`: instead of the one for `endpoint`.
    """
    global _tracer, _provider
    if endpoint is None and exporter is None:
        return False
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter, processor = OTLPSpanExporter(), BatchSpanProcessor
        else:
            processor = SimpleSpanProcessor
    except ImportError:
        log.warning(
            "an endpoint for traces is set, and OpenTelemetry is not installed: none are made "
            "(pip install 'winnow-sft[otel]')"
        )
        return False
    _provider = TracerProvider(resource=Resource.create({"service.name": f"winnow-{process}"}))
    _provider.add_span_processor(processor(exporter))
    _tracer = _provider.get_tracer("winnow")
    return True


def tear_down() -> None:
    """Send what has not been sent, and make no more spans."""
    global _tracer, _provider, _sweep
    provider, _tracer, _provider, _sweep = _provider, None, None, None
    if provider is not None:
        provider.shutdown()


def span(name: str, /, **attributes: str | int | float | bool) -> AbstractContextManager[Any]:
    """A span around a block, with what it is about. Errors that leave the block are noted."""
    return _OFF if _tracer is None else _span(name, attributes)


def of_sweep(sweep_id: str) -> None:
    """All spans that this process begins outside of others belong to this sweep."""
    global _sweep
    if _tracer is not None:
        _sweep = _context_of(sweep_id)


@contextmanager
def request(headers: Mapping[str, str], method: str) -> Iterator[Any]:
    """The span of a request, or None. `headers`: with the caller's `traceparent`, if it has one."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(dict(headers))
    with _tracer.start_as_current_span(method, context=parent, kind=SpanKind.SERVER) as found:
        yield found


def about_sweep(found: Any, sweep_id: str) -> None:
    """Link a request's span to the trace of a sweep."""
    from opentelemetry.trace import get_current_span

    found.set_attribute("winnow.sweep", sweep_id)
    found.add_link(get_current_span(_context_of(sweep_id)).get_span_context())


@contextmanager
def _span(name: str, attributes: Mapping[str, Any]) -> Iterator[Any]:
    from opentelemetry.trace import get_current_span

    within = None if get_current_span().get_span_context().is_valid else _sweep
    about = {f"winnow.{field}": value for field, value in current().items()}
    with _tracer.start_as_current_span(
        name, context=within, attributes={**about, **attributes}
    ) as found:
        yield found


def _context_of(sweep_id: str) -> Any:
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    digest = hashlib.sha256(f"winnow sweep {sweep_id}".encode()).digest()
    return set_span_in_context(
        NonRecordingSpan(
            SpanContext(
                trace_id=int.from_bytes(digest[:16], "big"),
                span_id=int.from_bytes(digest[16:24], "big"),
                is_remote=True,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
            )
        )
    )
