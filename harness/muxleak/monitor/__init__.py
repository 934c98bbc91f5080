"""A monitor for running services, which raises an alarm when tasks outlive their connections."""

from muxleak.monitor.service import KINDS, Monitor
from muxleak.monitor.status import Alarm, SiteStatus, Status

__all__ = ["KINDS", "Alarm", "Monitor", "SiteStatus", "Status"]
