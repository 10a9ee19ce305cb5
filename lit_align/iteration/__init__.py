"""One iteration: begin, collect, optimise, evaluate, checkpoint."""
