"""For operators: a monitor to put into a running service, with an alarm when tasks pile up."""

from muxleak.monitor.service import KINDS, Monitor
from muxleak.monitor.status import Alarm, SiteStatus, Status

__all__ = ["KINDS", "Alarm", "Monitor", "SiteStatus", "Status"]
