"""What a run has shown, for a person and for a program. The counts are those of RabbitMQ's Jepsen suite, and some more."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from tests.chaos.checker import Fault, Verdict

# Anomalies that are listed; the report's file has them all.
LISTED = 20


@frozen
class Report:
    """A run and its verdict. `complaints` are what was seen beside the history: a daemon that ended by itself."""

    title: str
    verdict: Verdict
    faults: Mapping[str, int]
    skipped: Mapping[str, str]
    complaints: Sequence[str] = ()
    figures: Mapping[str, Any] = field(factory=dict)

    @property
    def sound(self) -> bool:
        """Whether all promises were kept."""
        return not self.verdict.anomalies and not self.complaints

    def text(self) -> str:
        """A page for a terminal."""
        lines = [self.title]
        lines.append(_line("faults", self.faults))
        lines += [f"  skipped       {kind}: {why}" for kind, why in self.skipped.items()]
        lines.append(_line("writes", self.verdict.counts))
        if self.figures:
            lines.append(_line("figures", self.figures))
        lines.append(_line("found", {fault.value: self.verdict.number(fault) for fault in Fault}))
        found = [f"{anomaly.fault.value}: {anomaly.what}" for anomaly in self.verdict.anomalies]
        lines += [f"  ! {each}" for each in [*self.complaints, *found][:LISTED]]
        if len(found) > LISTED:
            lines.append(f"  ! and {len(found) - LISTED} more")
        lines.append(f"  verdict       {'all promises were kept' if self.sound else 'PROMISES WERE BROKEN'}")
        return "\n".join(lines)

    def data(self) -> Mapping[str, Any]:
        """The same as JSON."""
        return {
            "title": self.title,
            "sound": self.sound,
            "faults": dict(self.faults),
            "skipped": dict(self.skipped),
            "counts": dict(self.verdict.counts),
            "figures": dict(self.figures),
            "found": {fault.value: self.verdict.number(fault) for fault in Fault},
            "complaints": list(self.complaints),
            "anomalies": [{"fault": anomaly.fault.value, "what": anomaly.what} for anomaly in self.verdict.anomalies],
        }


def _line(name: str, values: Mapping[str, Any]) -> str:
    told = "  ".join(
        f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in values.items()
    )
    return f"  {name:<13} {told}"
