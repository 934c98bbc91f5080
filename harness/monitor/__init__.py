"""For operators: a monitor to put into a running service, with an alarm when tasks pile up."""

from harness.monitor.service import KINDS, Monitor
from harness.monitor.status import Alarm, SiteStatus, Status

__all__ = ["KINDS", "Alarm", "Monitor", "SiteStatus", "Status"]
