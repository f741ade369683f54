"""The report for people: one HTML file that opens offline, holds its data and loads nothing."""

from gossamer.reporting.html.page import artifact_facts, require_report, write_report

__all__ = ["artifact_facts", "require_report", "write_report"]
