"""What bookd is compared to: the same job, done with other means."""
