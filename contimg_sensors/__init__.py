"""When things happen: arrivals, schedules, automation, failures, alerts."""
