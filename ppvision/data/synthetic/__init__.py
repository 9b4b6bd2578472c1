"""Generated data: seeded, written in the true layout of a published data set, exact by construction; always called
synthetic."""
