"""For all suites in Python: of a case that failed and was run again, the first reason is told, with all of its output."""


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"First run of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
        reason = " | ".join(line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E "))
        terminalreporter.write_line(f"RERUN {report.nodeid}: {reason[:600]}")
