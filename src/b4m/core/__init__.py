"""What everything stands on: errors, atomic storage, locks, the process."""
