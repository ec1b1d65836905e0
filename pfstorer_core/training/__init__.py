"""Training, whatever is learned: pairs of pictures, the loop, states to resume from, progress."""
