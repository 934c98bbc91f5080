"""A monitor for running services, which raises an alarm when tasks outlive their connections."""

from muxleak.monitor.service import KINDS, Monitor
from muxleak.monitor.status import Alarm, MessageStatus, SiteStatus, Status

__all__ = ["KINDS", "Alarm", "MessageStatus", "Monitor", "SiteStatus", "Status"]
