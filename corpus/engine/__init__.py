"""Many sources through pure functions, by many processes and machines that share nothing but a folder."""
