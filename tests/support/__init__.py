"""What tests share: a real server as a process, waiting with a deadline."""
