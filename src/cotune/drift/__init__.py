"""Whether new posts are like those that a run was trained on."""
