"""What a run will need of a device's memory, known before any weights load."""

from lit_align.plan.devices import Devices, configured_devices, devices_of
from lit_align.plan.plan import Plan, plan_of

__all__ = ["Devices", "Plan", "configured_devices", "devices_of", "plan_of"]
