"""`baremetal bench overhead`: where a lean step is many times faster, and where that fades."""
