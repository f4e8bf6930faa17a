"""Traces: none unless they are asked for; then a sweep's spans share a trace, in every process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator.observe import traces
from orchestrator.observe.context import about


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    made = InMemorySpanExporter()
    assert traces.set_up("test", None, made)
    yield made
    traces.tear_down()


def test_nothing_is_made_when_no_endpoint_is_set() -> None:
    assert not traces.set_up("test", None)
    with traces.span("x") as found:
        assert found is None
    assert traces.span("x") is traces.span("y")  # one for all: it costs nothing


def test_spans_nest_and_say_what_they_are_about(exporter: InMemorySpanExporter) -> None:
    with about(trial="abc-1"), traces.span("outer"), traces.span("inner", steps=3):
        pass
    inner, outer = exporter.get_finished_spans()
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id
    assert inner.attributes == {"winnow.trial": "abc-1", "steps": 3}


def test_a_requests_span_links_to_the_trace_that_the_driver_goes_on_with(
    exporter: InMemorySpanExporter,
) -> None:
    caller = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with traces.request(caller, "POST") as span:
        traces.about_sweep(span, "abcdefghij")
    traces.of_sweep("abcdefghij")
    with traces.span("study.report"):
        pass
    request, report = exporter.get_finished_spans()
    assert request.context is not None
    assert report.context is not None
    assert f"{request.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert [link.context.trace_id for link in request.links] == [report.context.trace_id]


def test_an_error_is_noted_and_goes_on(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="wrong"), traces.span("x"):
        raise ValueError("wrong")
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
