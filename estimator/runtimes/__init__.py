"""From the ledger to what the process or the driver shows, one file per runtime."""
