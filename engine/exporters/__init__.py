"""Where else a version is published: stores of vectors that other services read."""
