"""What every command shares: one form of error, progress on standard error, tables on standard output."""
