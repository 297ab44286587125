# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits of machines by name, for completion: the installer reads this where no library is there yet."""

USUAL = (
    "CPUQuota", "CPUWeight", "AllowedCPUs", "MemoryMax", "MemoryHigh", "MemoryLow", "MemorySwapMax",
    "TasksMax", "IOWeight", "IOReadBandwidthMax", "IOWriteBandwidthMax", "DeviceAllow", "IPAddressAllow",
    "IPAddressDeny",
)  # fmt: skip
"""What completion offers; docs/settings.md has all of them."""
