"""What is wrong with posts that mean harm or were badly made; scripts/make_hostile_posts.py writes them."""
